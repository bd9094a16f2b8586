"""lsr mine, score, prune."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lsr.console import Number


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output file, .jsonl or .jsonl.gz.")
@click.option("--dataset", metavar="FOLDER|NAME", help="Judgments and queries: a BEIR folder or an ir-datasets name.")
@click.option("--split", default="train", show_default=True, help="Split of the dataset's judgments.")
@click.option("--qrels", metavar="FILE", type=click.Path(path_type=Path), help="Judgments, instead of the dataset's.")
@click.option("--queries", metavar="SOURCE", help="Texts of the queries, instead of the dataset's.")
@click.option(
    "--teacher",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Scores to filter by and to store. [default: scores of RUN]",
)
@click.option("--share", type=Number(0, 1, min_open=True), help="Keep candidates below this share of the "
              "positive's score. [default: 0.95, without --margin]")  # fmt: skip
@click.option("--margin", type=float, help="Keep candidates below the positive's score minus this.")
@click.option("--no-filter", is_flag=True, help="Keep all candidates that aren't judged relevant.")
@click.option("--count", default=30, show_default=True, type=click.IntRange(min=1), help="Maximum negatives per query.")
@click.option("--skip", default=0, type=click.IntRange(min=0), help="Candidates to skip at the top of each run.")
@click.option("--depth", type=click.IntRange(min=1), help="Ranks of each run to use. [default: all]")
@click.option("--sample", is_flag=True, help="Draw the negatives at random, instead of taking the best-ranked.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of --sample.")
@click.option(
    "--weights",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write weights that correct pooling bias (.jsonl), for `weights` of a training source; needs --teacher.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def mine(runs: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Mine hard negatives from runs for training.

    A RUN is a TREC run of any engine. Candidates that score nearly as high as the positive are probably relevant,
    too, so they are dropped. The output has ids, not texts; settings of a training run refer to it.

    \b
    Example, negatives of BM25:
      lsr index scifact/ --out idx
      lsr search idx --queries scifact/ -k 200 --run bm25.trec
      lsr mine bm25.trec --dataset scifact/ --out hard.jsonl

    \b
    With the scores of a stronger model, and deeper:
      lsr mine bm25.trec dense.trec --teacher reranked.trec --dataset scifact/ --out hard.jsonl --skip 10 --sample

    With --weights and --sample, candidates that are probably not relevant are drawn more often.
    """
    from lsr.console import note
    from lsr.errors import DataError, OutputExists
    from lsr.io.corpus import open_corpus
    from lsr.io.runs import open_qrels, read_qrels, read_run
    from lsr.io.text_files import new_text
    from lsr.train.mining import MiningReport, mine_negatives, mined_line
    from lsr.train.pooling import pooling_weights

    settings = _settings(options)
    if out.name.removesuffix(".gz").rpartition(".")[2] not in ("jsonl", "json", "ndjson"):
        raise click.UsageError(f"--out {out}: the name must end in .jsonl or .jsonl.gz")
    for path in filter(None, (out, options["weights"])):
        if path.exists() and not options["overwrite"]:
            raise OutputExists(f"{path} exists; --overwrite replaces it")
    if options["weights"] and not options["teacher"]:
        raise click.UsageError("--weights needs --teacher, whose scores say how relevant a document is")
    qrels_path, dataset, queries = options["qrels"], options["dataset"], options["queries"]
    if not dataset and not (qrels_path and queries):
        raise click.UsageError("give --dataset, or both --qrels and --queries")
    source = queries or dataset
    if qrels_path:
        qrels = read_qrels(qrels_path)
    else:
        qrels, judged = open_qrels(dataset, options["split"])
        source = queries or judged
    texts = {query.id: query.content for query in open_corpus(source, queries=True) if query.id in qrels}
    if not texts:
        raise DataError("it has none of the judged queries", source)
    report = MiningReport()
    teacher = read_run(options["teacher"]) if options["teacher"] else None
    found = [read_run(run) for run in runs]
    weights = pooling_weights(found, qrels, teacher).weights if options["weights"] and teacher else None
    textless = 0
    with new_text(out) as file:
        for mined in mine_negatives(found, qrels, settings, report, teacher, weights):
            if mined.query_id in texts:
                file.write(mined_line(mined, texts[mined.query_id]))
            else:
                textless += 1
        if report.queries == textless:
            raise DataError(f"no query got a negative: {_summary(report)}", ", ".join(map(str, runs)))
    if weights is not None:
        with new_text(options["weights"]) as file:
            for query, own in weights.items():
                file.write(json.dumps({"query_id": query, "scores": own}) + "\n")
    if textless:
        note(f"{textless} queries have no text in {source} and were left out")
    note(_summary(report))


def _settings(options: dict[str, Any]) -> Any:
    from lsr.train.mining import MiningSettings

    share, margin = options["share"], options["margin"]
    if options["no_filter"] and (share is not None or margin is not None):
        raise click.UsageError("--no-filter can't be combined with --share and --margin")
    if share is None and margin is None and not options["no_filter"]:
        share = MiningSettings.share
    names = ("count", "skip", "depth", "sample", "seed")
    try:
        return MiningSettings(share=share, margin=margin, **{name: options[name] for name in names})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _summary(report: Any) -> str:
    counts = {
        "queries": report.queries,
        "negatives": report.negatives,
        "candidates too close to a positive": report.filtered,
        "candidates without a score": report.unscored,
        "queries left without negatives": report.without_negatives,
        "queries whose positives have no score": report.positive_unscored,
        "judged queries in no run": report.not_found,
        "queries without a positive": report.no_positive,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count or name in ("queries", "negatives"))


@click.command()
@click.argument("source", metavar="MINED", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--documents", required=True, metavar="FOLDER|NAME|FILE", help="The documents.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output file, .jsonl.")
@click.option(
    "--cross-encoder", "cross_encoders", multiple=True, metavar="NAME", help="A CrossEncoder with one output."
)
@click.option("--dense", multiple=True, metavar="NAME", help="A dense model.")
@click.option("--encoder", "encoders", multiple=True, metavar="NAME", help="bm25, or a sparse model.")
@click.option("--max-length", type=click.IntRange(min=3), default=256, show_default=True, help="Tokens to read.")
@click.option("--device", help="Where models run: cpu, cuda, cuda:1. [default: cuda if there]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def score(
    source: Path,
    documents: str,
    out: Path,
    cross_encoders: tuple[str, ...],
    dense: tuple[str, ...],
    encoders: tuple[str, ...],
    max_length: int,
    device: str | None,
    overwrite: bool,
) -> None:
    """Score mined candidates with teachers, for distillation.

    MINED is a file of `lsr mine`. The teachers' scores replace those in the file, in the order cross-encoders, dense
    models, sparse models. If the command is killed, run it again to resume.

    \b
    Example:
      lsr score hard.jsonl --documents scifact/ --cross-encoder cross-encoder/ms-marco-MiniLM-L6-v2 --out scored.jsonl
    """
    import json

    from lsr.console import counted, note
    from lsr.encode.load import load_encoder
    from lsr.errors import MissingExtra, OutputExists
    from lsr.train.dataset_cache import default_cache
    from lsr.train.text_store import open_texts

    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("torch", "train", "scoring with models") from None
    from lsr.train.cross_encoder import CrossEncoderTeacher
    from lsr.train.scoring import score_mined
    from lsr.train.teachers import DenseTeacher, SparseTeacher, Teacher, device_of

    if not (cross_encoders or dense or encoders):
        raise click.UsageError("name a teacher: --cross-encoder, --dense or --encoder")
    if out.suffix != ".jsonl":
        raise click.UsageError(f"--out {out}: the name must end in .jsonl")
    if out.exists() and not overwrite:
        raise OutputExists(f"{out} exists; --overwrite replaces it")
    cache, where = default_cache(), device_of(device)
    texts = open_texts(documents, cache)
    teachers: list[Teacher] = [
        CrossEncoderTeacher(name, max_length=max_length, device=where) for name in cross_encoders
    ]
    teachers += [DenseTeacher(name, max_length=max_length, cache=cache, device=where) for name in dense]
    for name in encoders:
        encoder = load_encoder(name)
        every = (texts.text(row) for row in range(len(texts)))
        teachers.append(SparseTeacher(encoder, every if encoder.needs_fit else ()))

    def text_of(ids: Sequence[str]) -> Sequence[str]:
        rows = texts.rows(ids)
        if absent := [name for name, row in zip(ids, rows.tolist(), strict=True) if row < 0]:
            from lsr.errors import DataError

            raise DataError(f"no documents with the ids {', '.join(absent[:5])}", documents)
        return [texts.text(row) for row in rows.tolist()]

    models = [[_with_files(name) for name in names] for names in (cross_encoders, dense, encoders)]
    made_by = json.dumps([*models, max_length, texts.folder.name])
    written = score_mined(source, out, teachers, made_by, text_of)
    note(f"scored {counted(written, 'query')}: {out}")


def _with_files(model: str) -> list[str]:
    """A model's name and, for a folder, the current state of the files, because the folder may later hold another
    model.
    """
    from lsr.io.text_files import file_identity

    return [model, *(file_identity(path) for path in sorted(Path(model).rglob("*")) if path.is_file())]


@click.command()
@click.argument("encoder", metavar="ENCODER")
@click.option("--documents", required=True, metavar="FOLDER|NAME|FILE", help="Documents like those to be encoded.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the new encoder.")
@click.option("--heads", type=Number(0, 1, max_open=True), default=0.25, show_default=True,
              help="Share of each layer's attention heads to remove.")  # fmt: skip
@click.option("--columns", type=Number(0, 1, max_open=True), default=0.25, show_default=True,
              help="Share of each layer's feed-forward columns to remove.")  # fmt: skip
@click.option("--texts", type=click.IntRange(min=1), default=200, show_default=True, help="Documents to read.")
def prune(encoder: str, documents: str, out: Path, heads: float, columns: float, texts: int) -> None:
    """Make an encoder faster: remove the attention heads and feed-forward columns that matter least.

    ENCODER is lsr-mini, lsr-tiny or an encoder of your own that was exported as an 8-bit graph. The remaining weights
    are refitted to give the same states, which needs no judgments.

    \b
    Example:
      lsr prune lsr-mini --documents docs.jsonl --out small
      lsr index docs.jsonl --out idx --encoder small
    """
    from itertools import islice

    from lsr.console import note
    from lsr.encode.pruning import PruneSettings
    from lsr.encode.pruning import prune as write_pruned
    from lsr.errors import OutputExists
    from lsr.io.corpus import open_corpus

    if out.exists():
        raise OutputExists(f"{out} exists; choose another folder")
    some = [document.content for document in islice(open_corpus(documents), texts)]
    write_pruned(encoder, out, some, PruneSettings(heads, columns))
    note(f"written: {out}; evaluate it before you use it, with lsr evaluate")
