"""Use a judged collection as the training data of a preset: `lsr train splade-pp --set data=FOLDER`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lsr.console import note
from lsr.errors import DataError
from lsr.eval.datasets import open_dataset
from lsr.eval.evaluate import search_run
from lsr.index.index import Index
from lsr.index.search.query_file import read_queries
from lsr.io.text_files import new_text
from lsr.train.mining import MiningReport, MiningSettings, mine_negatives, mined_line

_DEPTH = 100  # BM25 hits per query from which negatives are drawn


def of_folder(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Separate data=FOLDER from the other overrides; return the others, and the folder or None.

    Raises:
        DataError: data=FOLDER is given twice.
    """
    given = [one.partition("=")[2] for one in overrides if one.startswith("data=")]
    if len(given) > 1:
        raise DataError(f"data is given {len(given)} times: {', '.join(given)}")
    return [one for one in overrides if not one.startswith("data=")], given[0] if given else None


def as_overrides(folder: str, out: Path, *, negatives: bool, validates: bool) -> list[str]:
    """Return overrides that replace a preset's data with a collection.

    Args:
        folder: A BEIR folder with `train` judgments, or an ir-datasets name.
        out: The run's folder. `negatives.jsonl` is written there if it doesn't exist.
        negatives: Whether the preset needs negatives.
        validates: Whether the preset validates. If so, validation uses the collection's dev queries; without dev
            judgments, validation is turned off.

    Returns:
        Overrides for `lsr.config.read_config`.
    """
    source: dict[str, object] = {"path": folder}
    if negatives:
        out.mkdir(parents=True, exist_ok=True)
        source |= {"candidates": str(bm25_negatives(folder, out / "negatives.jsonl")), "allow_missing": True}
    found = [f"data.sources={json.dumps([source])}"]
    if validates and any((Path(folder) / "qrels").glob("dev.*")):
        found.append(f"validation.sets={json.dumps([f'{folder}:dev'])}")
    elif validates:
        note(f"training without validation: {folder} has no dev judgments")
        found.append("validation=null")
    return found


def bm25_negatives(folder: str, path: Path) -> Path:
    """Mine negatives: for each training query, the best BM25 hits without positives and near-positives.

    Args:
        folder: A BEIR folder with `train` judgments, or an ir-datasets name.
        path: The .jsonl file to write; an existing file is kept.

    Returns:
        `path`.
    """
    if path.is_file():
        return path
    dataset = open_dataset(folder, "train")
    relevant = {query: judged for query, judged in dataset.qrels.items() if max(judged.values()) > 0}
    with tempfile.TemporaryDirectory() as work:
        index = Index.build(Path(work) / "index", dataset.corpus(), encoder="bm25", store_text=False)
        queries = read_queries(dataset.query_source, index).only(relevant)
        run = search_run(index, dataset, queries.ids, queries.encoded(index), _DEPTH)
    texts = dict(zip(queries.ids, queries.texts or (), strict=True))
    report = MiningReport()
    with new_text(path) as file:
        for mined in mine_negatives([run], relevant, MiningSettings(), report):
            file.write(mined_line(mined, texts[mined.query_id]))
    note(f"mined {report.negatives:,} BM25 negatives for {report.queries:,} queries: {path}")
    return path
