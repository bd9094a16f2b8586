"""Training data as a stream of examples: shuffled by a seed, without end, and able to go on at any number.

`open_training` takes what `lsr.train.sources` reads. Examples are mapped from disk, and texts that are named by id are
fetched when they are asked for; what is kept in memory are four bytes an example, its place in the epoch's order.
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

_CHUNK = 4096  # choices among sources that are drawn together


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its candidates.

    Attributes:
        query_id: Its id; a digest of the text where the source gives none.
        query: Its text.
        doc_ids: (n_docs,) ids, likewise.
        documents: (n_docs,) texts, title in front; named by id they are fetched one by one, as they are asked for.
        n_positives: So many of the documents, the first ones, are relevant; at least 1.
        scores: (n_teachers, n_docs) float32, not a number where a teacher has none; or None without teachers.
        collection: Whose ids they are: an id of one collection says nothing of the same id in another.
    """

    query_id: str
    query: str
    doc_ids: Sequence[str]
    documents: Sequence[str]
    n_positives: int
    scores: NDArray[np.float32] | None = field(default=None, compare=False)
    collection: str = field(default="", compare=False)


class TrainingData:
    """The examples of one or more sources.

    Args:
        sources: What `open_training` opened.
        weights: How often each comes up, in proportion.
    """

    def __init__(self, sources: Sequence[_Source], weights: Sequence[float]) -> None:
        self._sources = sources
        self._bounds = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        """Examples of all sources together; of a single source, the length of an epoch."""
        return sum(map(len, self._sources))

    @property
    def n_sources(self) -> int:
        """How many sources there are."""
        return len(self._sources)

    def n_teachers(self, source: int) -> int:
        """How many teachers' scores a source brings; it is the same for all its examples."""
        scores = self._sources[source][0].scores
        return 0 if scores is None else len(scores)

    def n_unnamed(self, source: int) -> int:
        """How many of a source's queries can't be found again by their id: documents have ids, and they have none."""
        return self._sources[source].n_unnamed()

    def examples(self, source: int) -> Iterator[Example]:
        """The examples of a source, each once, in its own order."""
        return map(self._sources[source].__getitem__, range(len(self._sources[source])))

    def collection(self, source: int) -> Iterator[tuple[str, str]]:
        """Id and text of each document that a source can name; none where it holds its texts itself."""
        texts = self._sources[source].texts
        if texts is not None:
            yield from ((texts.id(row), texts.text(row)) for row in range(len(texts)))

    def documents(self) -> Iterator[str]:
        """The texts to choose from, each once: whole collections, and what stands in the sources themselves.

        For what has to be fitted to documents, as BM25 has.
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

    def stream(self, seed: int, start: int = 0) -> Iterator[Example]:
        """Examples in an order that only the seed decides, epoch after epoch, without end.

        Each source is gone through in a new order every time, and begins anew on its own: one of a large weight may
        be in its third epoch when another is in its first.

        Args:
            seed: Not negative.
            start: Examples at the front to leave out; nothing of them is read.

        Raises:
            ValueError: A negative seed or start.
        """
        if seed < 0 or start < 0:
            raise ValueError(f"seed and start are not negative, got {seed} and {start}")
        return self._stream(seed, start)

    def _stream(self, seed: int, start: int) -> Iterator[Example]:
        orders = [_Order(len(source), (seed, 1, i)) for i, source in enumerate(self._sources)]
        given = np.zeros(len(self._sources), np.int64)  # examples of each source before the chunk
        for first, chosen in self._choices(seed):
            if first + _CHUNK > start:
                for place, which in enumerate(chosen.tolist()):
                    number = int(given[which])
                    given[which] += 1
                    if first + place >= start:
                        yield self._sources[which][orders[which].at(number)]
            else:
                given += np.bincount(chosen, minlength=len(given))

    def _choices(self, seed: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(number of the first, (_CHUNK,) the source of each) for chunk after chunk."""
        chunk = 0
        while True:
            drawn = np.random.default_rng((seed, 0, chunk)).random(_CHUNK)
            yield chunk * _CHUNK, np.searchsorted(self._bounds[:-1], drawn, side="right")
            chunk += 1


class _Order:
    """The order of a source's examples, a new one every epoch."""

    def __init__(self, length: int, key: tuple[int, ...]) -> None:
        self._length = length
        self._key = key
        self._epoch = -1
        self._order = np.empty(0, np.uint32)

    def at(self, number: int) -> int:
        """Which example comes as the source's number-th, over all epochs."""
        epoch, place = divmod(number, self._length)
        if epoch != self._epoch:
            self._order = np.arange(self._length, dtype=np.uint32)
            np.random.default_rng((*self._key, epoch)).shuffle(self._order)
            self._epoch = epoch
        return int(self._order[place])


class _Source:
    """The examples of one source, by number.

    Attributes:
        texts: Where their documents are; None where they hold them themselves.
    """

    def __init__(self, folder: Path, texts: TextStore | None) -> None:
        self._batches = ArrowBatches(folder / "examples.arrow")
        self.texts = texts

    def __len__(self) -> int:
        return len(self._batches)

    def n_unnamed(self) -> int:
        """Queries without an id, where documents have ids."""
        return 0 if self.texts is None else self._batches.nulls(0)

    def __getitem__(self, number: int) -> Example:
        batch, i = self._batches.at(number)
        query_id, query, documents, n_positives, scores = (batch.column(k)[i] for k in range(5))
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
        )


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def open_training(
    sources: str | TrainingSource | Sequence[str | TrainingSource], cache: Path | None = None
) -> TrainingData:
    """Open training data; the first time everything is read, checked and written to the cache.

    Args:
        sources: One or more; a string is a `TrainingSource` of nothing else.
        cache: Where what is made once is kept; `default_cache()` unless given.

    Raises:
        DataError: Nothing to read, no example, bad lines, or ids that lead nowhere; each kind is listed together.
    """
    several = [sources] if isinstance(sources, str | TrainingSource) else list(sources)
    if not several:
        raise ValueError("training needs at least one source")
    wanted = [TrainingSource(source) if isinstance(source, str) else source for source in several]
    opened = [_Source(*prepare(source, cache or default_cache())) for source in wanted]
    return TrainingData(opened, [source.weight for source in wanted])
