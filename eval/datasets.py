"""Judged datasets: documents, queries and qrels of a BEIR folder or an ir-datasets name."""

from __future__ import annotations

from dataclasses import dataclass

from lsr.corpus import Corpus, open_corpus
from lsr.runs import Qrels, open_qrels


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
    qrels, source = open_qrels(name, split)
    return Dataset(name, split, source, qrels)
