"""A judged collection as training data for a preset: `lsr train splade-pp --set data=FOLDER`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lsr.console import note
from lsr.errors import DataError
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import search_run
from lsr.index.index import Index
from lsr.index.search.query_file import read_queries
from lsr.io.text_files import new_text
from lsr.train.mining import MiningReport, MiningSettings, mine_negatives, mined_line

_DEPTH = 100  # BM25's hits of a query, of which negatives are taken


def of_folder(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Overrides without data=FOLDER, and the folder; None where no override has this form.

    Raises:
        DataError: Two of them.
    """
    given = [one.partition("=")[2] for one in overrides if one.startswith("data=")]
    if len(given) > 1:
        raise DataError(f"data is given {len(given)} times: {', '.join(given)}")
    return [one for one in overrides if not one.startswith("data=")], given[0] if given else None


def as_overrides(folder: str, out: Path, *, negatives: bool, validates: bool) -> list[str]:
    """What of a preset becomes something else with a collection in place of its data.

    Args:
        folder: A BEIR folder with judgments `train`, or an ir-datasets name.
        out: The run's folder, which gets `negatives.jsonl`, mined with BM25 the first time.
        negatives: Whether the preset draws negatives.
        validates: Whether it validates: on the collection's dev queries, or not at all where there are none.

    Returns:
        Overrides as `lsr.config.read_config` takes them.
    """
    source: dict[str, object] = {"path": folder}
    if negatives:
        path = out / "negatives.jsonl"
        if not path.is_file():
            out.mkdir(parents=True, exist_ok=True)
            _mine(open_dataset(folder, "train"), path)
        source |= {"candidates": str(path), "allow_missing": True}
    found = [f"data.sources={json.dumps([source])}"]
    if validates and any((Path(folder) / "qrels").glob("dev.*")):
        found.append(f"validation.sets={json.dumps([f'{folder}:dev'])}")
    elif validates:
        note(f"without validation: {folder} has no judgments dev")
        found.append("validation=null")
    return found


def _mine(dataset: Dataset, path: Path) -> None:
    """Write BM25's best documents of each query that are no positives and score clearly less than those."""
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
    note(f"mined {report.negatives:,} negatives of BM25 for {report.queries:,} queries: {path}")
