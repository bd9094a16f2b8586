"""Judged datasets: documents, queries and qrels of a BEIR folder or an ir-datasets name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lsr.corpus import Corpus, load_ir_dataset, open_corpus
from lsr.errors import DataError
from lsr.runs import Qrels, read_qrels


@dataclass(frozen=True)
class Dataset:
    """A collection with judgments.

    Attributes:
        name: Path or ir-datasets name.
        split: Which judgments.
        source: What `open_corpus` and `read_queries` take.
        qrels: The judgments.
    """

    name: str
    split: str
    source: str
    qrels: Qrels

    def corpus(self) -> Corpus:
        """The documents."""
        return open_corpus(self.source)


def open_dataset(name: str, split: str = "test") -> Dataset:
    """Open a dataset by folder or ir-datasets name.

    Args:
        name: A BEIR folder, or an ir-datasets name with or without "irds:" before it.
        split: Of a folder, the name of the file in qrels/; of a dataset whose own name has no judgments, the last
            part of the name.

    Raises:
        DataError: No such dataset, split or judgments.
    """
    folder = Path(name)
    if folder.is_dir():
        qrels_folder = folder / "qrels"
        path = next((p for p in (qrels_folder / f"{split}.tsv", qrels_folder / f"{split}.txt") if p.is_file()), None)
        if path is None:
            there = sorted(p.stem for p in qrels_folder.glob("*.t*")) or ["none"]
            raise DataError(f"no judgments for the split {split!r}; there are: {', '.join(there)}", str(qrels_folder))
        qrels, source = read_qrels(path), name
    else:
        source = name
        dataset = load_ir_dataset(name)
        if not dataset.has_qrels():
            source = f"{name}/{split}"
            dataset = load_ir_dataset(source)
        if not (dataset.has_qrels() and dataset.has_queries()):
            raise DataError("this dataset has no judged queries", name)
        qrels = {}
        for judgment in dataset.qrels_iter():
            qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
    if not qrels:
        raise DataError(f"the split {split!r} holds no judgment", name)
    return Dataset(name, split, source, qrels)
