"""lsr mine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


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
    help="Scores to filter by and to store. [default: RUN's]",
)
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="Keep candidates below this share of the "
              "positive's score. [default: 0.95, without --margin]")  # fmt: skip
@click.option("--margin", type=float, help="Keep candidates below the positive's score minus this.")
@click.option("--no-filter", is_flag=True, help="Keep all candidates that aren't judged relevant.")
@click.option("--count", default=30, show_default=True, type=click.IntRange(min=1), help="Most negatives of a query.")
@click.option("--skip", default=0, type=click.IntRange(min=0), help="Candidates to skip at the top of each run.")
@click.option("--depth", type=click.IntRange(min=1), help="Ranks of each run to use. [default: all]")
@click.option("--sample", is_flag=True, help="Draw the negatives at random, instead of taking the best-ranked.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of --sample.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def mine(runs: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Mine hard negatives from runs for training.

    A RUN is a TREC run of any engine. Candidates that score nearly as high as the positive are likely relevant too and
    are dropped. The output has ids, not texts; a training file refers to it.

    \b
    Example, negatives of BM25:
      lsr index scifact/ --out idx
      lsr search idx --queries scifact/ -k 200 --run bm25.trec
      lsr mine bm25.trec --dataset scifact/ --out hard.jsonl

    \b
    With the scores of a stronger model, and deeper:
      lsr mine bm25.trec dense.trec --teacher reranked.trec --dataset scifact/ --out hard.jsonl --skip 10 --sample
    """
    from lsr.console import note
    from lsr.errors import DataError, OutputExists
    from lsr.io.corpus import open_corpus
    from lsr.io.runs import open_qrels, read_qrels, read_run
    from lsr.io.text_files import new_text
    from lsr.train.mining import MiningReport, mine_negatives, mined_line

    settings = _settings(options)
    if out.name.removesuffix(".gz").rpartition(".")[2] not in ("jsonl", "json", "ndjson"):
        raise click.UsageError(f"--out {out}: the name must end in .jsonl or .jsonl.gz")
    if out.exists() and not options["overwrite"]:
        raise OutputExists(f"{out} exists; --overwrite replaces it")
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
    textless = 0
    with new_text(out) as file:
        for mined in mine_negatives([read_run(run) for run in runs], qrels, settings, report, teacher):
            if mined.query_id in texts:
                file.write(mined_line(mined, texts[mined.query_id]))
            else:
                textless += 1
        if report.queries == textless:
            raise DataError(f"no query got a negative: {_summary(report)}", ", ".join(map(str, runs)))
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
