"""Training data as an endless stream of examples, shuffled by a seed, that can start at any position.

`open_training` opens the sources of `lsr.train.sources`. Examples are memory-mapped, and texts that examples refer to
by id are read on demand. Only the order of an epoch is in memory, with four bytes per example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsr.train.dataset_cache import default_cache
from lsr.train.sources import TrainingSource, prepare
from lsr.train.text_store import ArrowBatches, Looked, TextStore

_CHUNK = 4096  # choices of sources drawn at a time


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its candidates.

    Attributes:
        query_id: The query's id; a digest of the text if the source has none.
        query: The query's text.
        doc_ids: (n_docs,) ids of the documents, or digests.
        documents: (n_docs,) texts with titles; texts that are given by id are read on access.
        n_positives: Number of relevant documents, which come first; at least 1.
        scores: (n_teachers, n_docs) float32, NaN where a teacher has no score; None without teachers.
        collection: The collection of the ids, which are unique only within a collection.
        weights: (n_docs,) float32, weights of the documents in info_nce; None if all are 1.
    """

    query_id: str
    query: str
    doc_ids: Sequence[str]
    documents: Sequence[str]
    n_positives: int
    scores: NDArray[np.float32] | None = field(default=None, compare=False)
    collection: str = field(default="", compare=False)
    weights: NDArray[np.float32] | None = field(default=None, compare=False)


class TrainingData:
    """The examples of one or more sources.

    Args:
        sources: Sources from `open_training`.
        weights: Relative frequency of each source.
    """

    def __init__(self, sources: Sequence[_Source], weights: Sequence[float]) -> None:
        self._sources = sources
        self._bounds = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        """Number of examples of all sources; for a single source, the length of an epoch."""
        return sum(map(len, self._sources))

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return len(self._sources)

    def n_teachers(self, source: int) -> int:
        """Number of teachers with scores in a source; it is the same for all its examples."""
        scores = self._sources[source][0].scores
        return 0 if scores is None else len(scores)

    def n_unnamed(self, source: int) -> int:
        """Number of a source's queries without an id; 0 if its documents have no ids."""
        return self._sources[source].n_unnamed()

    def examples(self, source: int) -> Iterator[Example]:
        """The examples of a source, each once, in the order of the source."""
        return map(self._sources[source].__getitem__, range(len(self._sources[source])))

    def collection(self, source: int) -> Iterator[tuple[str, str]]:
        """Id and text of each document of a source's collection; empty if its lines have the texts."""
        texts = self._sources[source].texts
        if texts is not None:
            yield from ((texts.id(row), texts.text(row)) for row in range(len(texts)))

    def documents(self) -> Iterator[str]:
        """All documents' texts, each once: whole collections, and texts in the sources' lines.

        Encoders that need a fit, such as BM25, are fitted to these texts.
        """
        stores = {source.texts.folder: source.texts for source in self._sources if source.texts is not None}
        for store in stores.values():
            yield from map(store.text, range(len(store)))
        seen: set[int] = set()
        for source in self._sources:
            for example in map(source.__getitem__, range(len(source)) if source.texts is None else ()):
                for text in example.documents:
                    if (digest := hash(text)) not in seen:
                        seen.add(digest)
                        yield text

    def stream(self, seed: int, start: int = 0, together: int = 1) -> Iterator[Example]:
        """Yield examples without end, in an order that depends only on the seed.

        Each source has its own epochs, each in a new order. A source with a large weight may be in its third epoch
        while another is in its first.

        Args:
            seed: Not negative.
            start: Number of examples to skip; they aren't read.
            together: Number of successive examples to take from the same source. A start within such a group is moved
                to the next group.

        Raises:
            ValueError: The seed or the start is negative.
        """
        if seed < 0 or start < 0:
            raise ValueError(f"seed and start must not be negative, got {seed} and {start}")
        return self._stream(seed, -(-start // together) * together, together)

    def _stream(self, seed: int, start: int, together: int) -> Iterator[Example]:
        orders = [_Order(len(source), (seed, 1, i)) for i, source in enumerate(self._sources)]
        given = np.zeros(len(self._sources), np.int64)  # examples of each source before the chunk
        for first, chosen in self._choices(seed, together):
            if first + len(chosen) > start:
                for place, which in enumerate(chosen.tolist()):
                    number = int(given[which])
                    given[which] += 1
                    if first + place >= start:
                        yield self._sources[which][orders[which].at(number)]
            else:
                given += np.bincount(chosen, minlength=len(given))

    def _choices(self, seed: int, together: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (number of the first example, (_CHUNK * together,) the source of each example) for each chunk."""
        chunk = 0
        while True:
            drawn = np.random.default_rng((seed, 0, chunk)).random(_CHUNK)
            chosen = np.searchsorted(self._bounds[:-1], drawn, side="right")
            yield chunk * _CHUNK * together, np.repeat(chosen, together)
            chunk += 1


class _Order:
    """The order of a source's examples in an epoch."""

    def __init__(self, length: int, key: tuple[int, ...]) -> None:
        self._length = length
        self._key = key
        self._epoch = -1
        self._order = np.empty(0, np.uint32)

    def at(self, number: int) -> int:
        """Row of the example with this number in the stream of the source, counted over all epochs."""
        epoch, place = divmod(number, self._length)
        if epoch != self._epoch:
            self._order = np.arange(self._length, dtype=np.uint32)
            np.random.default_rng((*self._key, epoch)).shuffle(self._order)
            self._epoch = epoch
        return int(self._order[place])


class _Source:
    """The examples of one source, by number.

    Attributes:
        texts: The store of the documents; None if the lines have the texts.
    """

    def __init__(self, folder: Path, texts: TextStore | None) -> None:
        self._batches = ArrowBatches(folder / "examples.arrow")
        self.texts = texts

    def __len__(self) -> int:
        return len(self._batches)

    def n_unnamed(self) -> int:
        """Number of queries without an id; 0 if the documents have no ids."""
        return 0 if self.texts is None else self._batches.nulls(0)

    def __getitem__(self, number: int) -> Example:
        batch, i = self._batches.at(number)
        query_id, query, documents, n_positives, scores, weights = (batch.column(k)[i] for k in range(6))
        text = str(query.as_py())
        doc_ids: Sequence[str]
        texts: Sequence[str]
        if self.texts is None:
            texts = documents.as_py()
            doc_ids = list(map(_text_id, texts))
        else:
            rows = documents.values.to_numpy()
            doc_ids, texts = Looked(self.texts.id, rows), Looked(self.texts.text, rows)
        return Example(
            query_id=str(query_id.as_py()) if query_id.is_valid else _text_id(text),
            query=text,
            doc_ids=doc_ids,
            documents=texts,
            n_positives=int(n_positives.as_py()),
            scores=np.array(scores.values).reshape(-1, len(texts)) if scores.is_valid else None,
            collection="" if self.texts is None else self.texts.folder.name,
            weights=np.array(weights.values, np.float32) if weights.is_valid else None,
        )


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def open_training(
    sources: str | TrainingSource | Sequence[str | TrainingSource], cache: Path | None = None
) -> TrainingData:
    """Open training data. On the first call, everything is read, checked and written to the cache.

    Args:
        sources: One or more; a string stands for `TrainingSource(string)`.
        cache: Folder of the cache; by default `default_cache()`.

    Raises:
        DataError: A source can't be opened, contains no example, has bad lines, or refers to unknown ids; the message
            lists the problems of one kind, up to a limit.
    """
    several = [sources] if isinstance(sources, str | TrainingSource) else list(sources)
    if not several:
        raise ValueError("training needs at least one source")
    wanted = [TrainingSource(source) if isinstance(source, str) else source for source in several]
    opened = [_Source(*prepare(source, cache or default_cache())) for source in wanted]
    return TrainingData(opened, [source.weight for source in wanted])
