"""lsr train: run the trainer of `lsr.train` with validation by search, mining, and a picture of the run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsr.encode.base import Encoder
from lsr.eval.datasets import Dataset, open_dataset
from lsr.io.document import Document
from lsr.presets import ConfigFile, list_option
from lsr.train.data import TrainingData
from lsr.train.settings import DataSettings, TrainSettings, ValidationSettings

if TYPE_CHECKING:
    from lsr.train.mining import MiningReport
    from lsr.train.teachers import Teacher
    from lsr.train.watch import Watcher

_CHUNK = 512  # documents encoded at a time
_MINED_DEPTH = 200  # search depth for negatives (arXiv 2007.00808)


@click.command()
@click.argument("config", type=ConfigFile("train"))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; an existing run is resumed."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Overrides a key of the file.")
@click.option("--watch", is_flag=True, help="Keep a page of curves, watch.html, in the run's folder while it runs.")
@click.option(
    "--log-to",
    "loggers",
    multiple=True,
    metavar="LOGGER",
    help="Also log to tensorboard, wandb, mlflow or module:function.",
)
@list_option("train")
def train(config: Path, out: Path, overrides: tuple[str, ...], watch: bool, loggers: tuple[str, ...]) -> None:
    """Train an encoder from a YAML file; after an interruption, run the same command again to resume.

    CONFIG is a YAML file or the name of a preset (--list). The run's folder gets `log.jsonl`, checkpoints, the best
    encoder in validation (`best`) and the last encoder (`last`), both ready for --encoder. `--set data=FOLDER` trains
    on a BEIR folder or an ir-datasets name instead of the preset's data, with negatives from BM25. To use several GPUs,
    start the command with torchrun.

    \b
    Examples:
      lsr train --list
      lsr train splade-v2 --out runs/splade-v2
      lsr train splade-v2 --out runs/short --set optimizer.steps=1000
      lsr train splade-pp --out runs/mine --set data=my-data
      lsr train my-run.yaml --out runs/mine --watch --log-to tensorboard
    """
    from lsr.config import read_config
    from lsr.console import note
    from lsr.errors import MissingExtra
    from lsr.eval.training.from_folder import as_overrides, of_folder

    others, folder = of_folder(overrides)
    settings = read_config(config, TrainSettings, others)
    if folder is not None:
        how = {"negatives": settings.data.negatives > 0, "validates": settings.validation is not None}
        with _first_process_first():
            others = [*others, *as_overrides(folder, out, **how)]
        settings = read_config(config, TrainSettings, others)
    encoder = run_training(settings, out, watch=watch, loggers=loggers)
    if int(os.environ.get("RANK", "0")):
        return
    try:
        if (picture := plot_run(out)) is not None:
            note(f"losses and validation: {picture}")
    except MissingExtra as error:  # only the picture is missing
        note(str(error))
    note(f"{encoder}: try it with lsr encode or lsr index, --encoder {encoder}")


def _joined() -> bool:
    """Join the processes that torchrun started; return False if this is the only process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch

    if not torch.distributed.is_initialized():
        # The other processes wait while the first one mines negatives or validates.
        torch.distributed.init_process_group(timeout=timedelta(hours=12))
    return True


@contextmanager
def _first_process_first() -> Iterator[None]:
    """The first process runs the block before the other processes, which then find the files that it wrote."""
    if not _joined():
        yield
        return
    import torch

    if torch.distributed.get_rank():
        torch.distributed.barrier()
        yield
    else:
        yield
        torch.distributed.barrier()


def run_training(
    settings: TrainSettings, out: Path, *, watch: bool = False, loggers: Sequence[str | Watcher] = ()
) -> Path:
    """Train, and return the folder of the best encoder.

    Args:
        settings: Settings of the run.
        out: The run's folder.
        watch: Keep a page of curves, `watch.html`, in the run's folder while training runs.
        loggers: Functions that receive the lines of the log during the run, or names of loggers in `lsr.train.watch`.
    """
    from lsr.errors import MissingExtra

    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train", "training") from None
    from lsr.train.data import open_training
    from lsr.train.trainer import Helpers, Trainer

    together = _joined()
    first = not together or torch.distributed.get_rank() == 0
    watchers = _watchers(settings, out, watch, loggers) if first else []
    data = open_training(settings.data.sources)
    bm25 = _bm25(settings, data)
    helpers = Helpers(
        _teachers(settings, data, out / "cache", bm25),
        bm25 if settings.lexical else None,
        None if settings.validation is None else validator(settings.validation),
        miner(settings.data) if settings.data.refresh_every else None,
        watchers,
    )
    found = Trainer(settings, out, data, helpers).run()
    if together:
        torch.distributed.destroy_process_group()
    return found


def _watchers(settings: TrainSettings, out: Path, watch: bool, loggers: Sequence[str | Watcher]) -> list[Watcher]:
    from lsr.console import note
    from lsr.train.watch import open_watcher
    from lsr.train.watch_page import PAGE, page

    out.mkdir(parents=True, exist_ok=True)
    given = asdict(settings)
    found = [open_watcher(one, out, given) if isinstance(one, str) else one for one in loggers]
    if watch:
        steps = settings.optimizer.steps + (settings.pretrain.steps if settings.pretrain else 0)
        found.append(page(out, steps))
        note(f"the run's curves: {out / PAGE}")
    return found


def _bm25(settings: TrainSettings, data: TrainingData) -> Teacher | None:
    """Return BM25 fitted to the training documents; None if the settings don't need BM25."""
    from lsr.encode.bm25 import BM25Encoder
    from lsr.train.teachers import SparseTeacher

    if not settings.lexical and not any(teacher.encoder == BM25Encoder.type for teacher in settings.teachers):
        return None
    return SparseTeacher(BM25Encoder(), data.documents())


def _teachers(settings: TrainSettings, data: TrainingData, cache: Path, bm25: Teacher | None) -> list[Teacher]:
    from lsr.index.cli.encode import open_encoder
    from lsr.train.cross_encoder import CrossEncoderTeacher
    from lsr.train.teachers import DenseTeacher, SparseTeacher, device_of

    rank = int(os.environ.get("RANK", "0"))
    teachers: list[Teacher] = []
    for teacher in settings.teachers:
        if teacher.examples:  # no model to open
            continue
        where = cache / f"process-{rank}" if rank else cache
        if teacher.dense is not None:
            device = device_of(settings.device)
            teachers.append(
                DenseTeacher(
                    teacher.dense,
                    max_length=settings.model.max_length,
                    cache=where,
                    device=device,
                    half=settings.precision == "bfloat16",
                )
            )
        elif teacher.cross_encoder is not None:
            device = device_of(settings.device)
            teachers.append(CrossEncoderTeacher(teacher.cross_encoder, cache=where, device=device))
        elif teacher.encoder == "bm25" and bm25 is not None:
            teachers.append(bm25)
        else:
            encoder = open_encoder(teacher.encoder, {})
            teachers.append(SparseTeacher(encoder, data.documents() if encoder.needs_fit else (), where))
    return teachers


def validator(settings: ValidationSettings) -> Callable[[Path], Mapping[str, float]]:
    """Make a function that searches the held-out sets with an encoder and returns measures.

    The value of the settings' measure is the mean over the sets; "terms" is the mean number of terms per document. With
    several sets, each set also has a value, "nDCG@10 SET", where SET is the folder's name, or its path if two names are
    equal.

    Raises:
        DataError: A set doesn't exist, or the measure is unknown.
    """
    from lsr.eval.measures import parse_measures

    parse_measures(settings.measure)
    sets = []
    for name in settings.sets:
        path, colon, split = name.rpartition(":")
        sets.append(open_dataset(path, split) if colon and not name.startswith("irds:") else open_dataset(name))
    documents = [_documents(dataset, settings.documents) for dataset in sets]
    short = [Path(dataset.name).name for dataset in sets]
    names = short if len(set(short)) == len(short) else list(settings.sets)

    def validate(folder: Path) -> Mapping[str, float]:
        from lsr.encode.load import load_encoder

        encoder = load_encoder(folder)
        values, lengths, found = [], [], {}
        for name, dataset, some in zip(names, sets, documents, strict=True):
            value, length = _search(encoder, dataset, some, settings.measure)
            values.append(value)
            lengths.append(length)
            if len(sets) > 1:
                found[f"{settings.measure} {name}"] = value
        n = len(sets)
        return {settings.measure: sum(values) / n, "terms": sum(lengths) / n, **found}

    return validate


def _documents(dataset: Dataset, at_most: int) -> list[Document]:
    """Return the judged documents, and further documents up to a number, sampled evenly from the whole set."""
    judged = {doc for row in dataset.qrels.values() for doc in row}
    everything = list(dataset.corpus())
    if not at_most or len(everything) <= at_most:
        return everything
    others = [i for i, document in enumerate(everything) if document.id not in judged]
    n_others = max(0, at_most - (len(everything) - len(others)))
    step = len(others) / n_others if n_others else 0
    kept = {others[int(i * step)] for i in range(n_others)}
    return [document for i, document in enumerate(everything) if i in kept or document.id in judged]


def _search(encoder: Encoder, dataset: Dataset, documents: list[Document], measure: str) -> tuple[float, float]:
    """Return the measure, and the mean number of terms per document."""
    from lsr import Index, SparseMatrix
    from lsr.eval.evaluate import evaluate_run, search_run
    from lsr.eval.measures import depth_of, parse_measures
    from lsr.index.search.query_file import read_queries

    parsed = parse_measures(measure)
    if encoder.needs_fit:
        encoder.fit(document.content for document in documents)
    chunks = range(0, len(documents), _CHUNK)
    parts = [encoder.encode_document([d.content for d in documents[i : i + _CHUNK]]) for i in chunks]
    vectors = SparseMatrix.vstack(parts)
    with tempfile.TemporaryDirectory() as folder:
        ids = [document.id for document in documents]
        index = Index.build(Path(folder) / "index", vectors, ids=ids, encoder=encoder, order="given")
        queries = read_queries(dataset.query_source, index).only(dataset.qrels)
        run = search_run(index, dataset, queries.ids, queries.encoded(index), depth_of(parsed))
    quality = evaluate_run(run, dataset, measure)
    return quality.measures[str(parsed[0])], float(vectors.lengths().mean())


def miner(settings: DataSettings) -> Callable[[Path, TrainingData, Path], None]:
    """Make a function that searches the training collections for negatives; see `lsr.train.refresh.Mine`.

    Args:
        settings: How many negatives are kept, and which negatives are left out.
    """

    def mine(folder: Path, data: TrainingData, out: Path) -> None:
        from lsr.console import note
        from lsr.encode.load import load_encoder

        encoder = load_encoder(folder)
        for number in range(data.n_sources):
            report = _mine_source(encoder, data, number, settings, out / f"{number}.jsonl")
            source = settings.sources[number].path
            note(f"mined {report.negatives:,} negatives for {report.queries:,} queries of {source}")

    return mine


def _mine_source(encoder: Encoder, data: TrainingData, number: int, settings: DataSettings, path: Path) -> MiningReport:
    """Search the documents of a source with its queries, and write the negatives if there are any."""
    from lsr import Index
    from lsr.train.mining import MiningReport, MiningSettings, mine_negatives, mined_line

    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for example in data.examples(number):
        queries[example.query_id] = example.query
        relevant.setdefault(example.query_id, {}).update(dict.fromkeys(example.doc_ids[: example.n_positives], 1))
    report = MiningReport()
    wanted = MiningSettings(count=settings.refresh_count, share=settings.refresh_share)
    documents = ({"_id": name, "text": text} for name, text in data.collection(number))
    if (first := next(documents, None)) is None:
        return report
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(
            Path(folder) / "index", chain([first], documents), encoder=encoder, store_text=False, passages=None
        )
        ids = list(queries)
        with path.open("w", encoding="utf-8") as file:
            for some in (ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK)):
                vectors = index.query_vectors([queries[name] for name in some])
                found = index.search_batch(vectors, _MINED_DEPTH + 1)
                run = {name: {hit.id: hit.score for hit in hits} for name, hits in zip(some, found, strict=True)}
                for mined in mine_negatives([run], {name: relevant[name] for name in some}, wanted, report):
                    file.write(mined_line(mined, queries[mined.query_id]))
    if not report.queries:
        path.unlink()
    return report


def plot_run(out: Path) -> Path | None:
    """Draw a run's losses over the steps, and quality against the length of documents in its validations.

    Args:
        out: The run's folder, with `log.jsonl`.

    Returns:
        The picture, `training.svg`; None if there is nothing to draw.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from lsr.errors import MissingExtra

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "eval", "a picture of the run") from None
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "validation" in line]
    if not steps:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    kept = out / "settings.json"  # has the names of losses from other packages
    of_others = json.loads(kept.read_text())["losses"].get("plugins", {}) if kept.is_file() else {}
    for name in ("masked_lm", "info_nce", "kl", "margin_mse", "term_recall", "vectors", "bank", *of_others):
        if some := [line for line in steps if name in line]:
            left.plot(*_smooth([line["step"] for line in some], [line[name] for line in some]), label=name)
    left.set(xlabel="step", ylabel="loss, not weighted", yscale="log")
    left.legend(frameon=False)
    if checks:
        measure = next(iter(checks[0]["validation"]))
        x = [line["validation"]["terms"] for line in checks]
        y = [line["validation"][measure] for line in checks]
        right.plot(x, y, color="0.7", zorder=1)
        dots = right.scatter(x, y, c=[line["step"] for line in checks], cmap="viridis", zorder=2)
        figure.colorbar(dots, ax=right, label="step")
        right.set(xlabel="terms of a document, mean", ylabel=measure)
    else:
        right.plot([line["step"] for line in steps], [line["documents_terms"] for line in steps])
        right.set(xlabel="step", ylabel="terms of a document, mean")
    path = out / "training.svg"
    figure.savefig(path)
    return path


def _smooth(x: list[Any], y: list[float]) -> tuple[list[Any], list[float]]:
    """Smooth a curve to about a hundred means of consecutive values."""
    size = max(1, len(y) // 100)
    return x[::size], [sum(y[i : i + size]) / len(y[i : i + size]) for i in range(0, len(y), size)]
