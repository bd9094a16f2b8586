"""Sources of training data: files of triples or candidate lists, BEIR folders, ir-datasets names.

A source is read once, checked, joined with its texts, candidates and teachers, and written as Arrow into the cache,
from which `lsr.train.data` memory-maps it. Document ids take little space in the cache; texts take as much as in their
file. `lsr.train.example_lines` describes the lines of a .jsonl(.gz) file, which are also the rows of a .parquet file;
`lsr mine` writes the form with ids. If `queries` is given, a query's text is optional. If `documents` is given, all
documents are ids, whatever their key.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.config import Settings, within
from lsr.errors import DataError
from lsr.io.ir_datasets import load_ir_dataset
from lsr.io.runs import open_qrels, parse_run_line, qrels_file
from lsr.io.text_files import file_identity, file_kind, read_lines, read_rows
from lsr.train.dataset_cache import made_once
from lsr.train.example_lines import LineForm, RawExample, parse_line, score_value, text_value
from lsr.train.problems import Missing, Problems
from lsr.train.text_store import TextStore, open_texts

_FORMAT = 2
_CHUNK = 8192  # examples joined and written at a time; fewer if they are long
_CHUNK_CHARACTERS = 4 << 20
_JOINED_LINES = 1 << 14


@dataclass(frozen=True)
class TrainingSource(Settings):
    """A source of training data.

    Attributes:
        path: A .jsonl(.gz) or .parquet file (see `lsr.train.example_lines`); a BEIR folder; or an ir-datasets name.
            Judgments give an example for each query, with the documents judged above 0 as positives; pairs of documents
            give an example for each pair.
        split: The split of the judgments of a folder or dataset.
        documents: The collection of the document ids: anything that `lsr.io.corpus.open_corpus` opens. A folder or
            dataset uses its own documents by default.
        queries: The collection of the query ids. A folder or dataset uses its own queries by default.
        candidates: A TREC run, or a file of `lsr mine`. Its documents are appended as negatives, unless the query has
            them already.
        scores: Files of teachers' scores, one for each teacher: TREC runs, or .jsonl(.gz) and .parquet files with rows
            of {"query_id", "scores": {ID: NUMBER}} or in the forms of `lsr.train.example_lines`.
        weights: A file like those of `scores`, with weights of documents in info_nce; a document without a weight has
            the weight 1. `lsr mine --weights` writes such a file.
        allow_missing: Allow queries without candidates, and missing scores.
        weight: Relative frequency of this source.
    """

    path: str
    split: str = "train"
    documents: str | None = None
    queries: str | None = None
    candidates: str | None = None
    scores: tuple[str, ...] = ()
    weights: str | None = None
    allow_missing: bool = False
    weight: float = field(default=1.0, metadata=within(above=0))


@dataclass(frozen=True)
class _Origin:
    """How to read a source, the default collections of its texts, and a text that changes with the source."""

    read: Callable[[], Iterator[RawExample | DataError]]
    texts: str | None
    queries: str | None
    identity: str


def prepare(source: TrainingSource, cache: Path) -> tuple[Path, TextStore | None]:
    """Write a source as Arrow, unless it is in the cache.

    Returns:
        The folder of the Arrow file, and the store of the documents' texts (None if the source's lines have the texts).

    Raises:
        DataError: A source can't be opened, contains no example, has bad lines, or refers to unknown ids; the message
            lists the problems of one kind, up to a limit.
    """
    origin = _origin(source)
    texts = open_texts(origin.texts, cache) if origin.texts else None
    if texts is None and (source.candidates or source.scores or source.weights):
        wanted = "candidates, scores and weights have document ids: give `documents`, the collection"
        raise DataError(wanted, source.path)
    queries = open_texts(origin.queries, cache, queries=True) if origin.queries else None
    joined = [Path(name) for name in (source.candidates, *source.scores, source.weights) if name]
    key = json.dumps(
        [
            _FORMAT,
            origin.identity,
            texts and texts.folder.name,
            queries and queries.folder.name,
            [source.candidates is not None, source.weights is not None, *map(_identity, joined)],
            source.allow_missing,
        ]
    )
    folder = made_once(
        cache, "examples", key, lambda folder: _Join(source, texts, queries).write(origin, folder / "examples.arrow")
    )
    return folder, texts


def _identity(path: Path) -> str:
    if not path.is_file():
        raise DataError("no such file", str(path))
    return file_identity(path)


# --- reading ------------------------------------------------------------------------------------------------------


def _origin(source: TrainingSource) -> _Origin:
    path = Path(source.path)
    if path.is_file():
        if file_kind(path) == "tsv":
            raise DataError("training data is read from .jsonl, .jsonl.gz or .parquet", source.path)
        joined = source.candidates or source.scores or source.weights
        form = LineForm(source.documents is not None, source.queries is None, bool(joined))
        return _Origin(lambda: _file_examples(path, form), source.documents, source.queries, file_identity(path))
    name = source.path
    if path.is_dir():
        identity = _identity(qrels_file(path, source.split))
        texts, queries = source.documents or name, source.queries or name
        return _Origin(lambda: _judged(name, source.split), texts, queries, identity)
    dataset = load_ir_dataset(name)
    if not (dataset.has_docpairs() or dataset.has_qrels()):
        name = f"{name}/{source.split}"
        dataset = load_ir_dataset(name)
    texts, queries = source.documents or name, source.queries or name
    if dataset.has_docpairs():
        return _Origin(lambda: _pairs(dataset, name), texts, queries, name)
    return _Origin(lambda: _judged(name, source.split), texts, queries, name)


def _judged(name: str, split: str) -> Iterator[RawExample]:
    qrels, _ = open_qrels(name, split)
    for query_id, judged in qrels.items():
        positives = [doc_id for doc_id, grade in judged.items() if grade > 0]
        if positives:
            yield RawExample(name, query_id, None, positives, len(positives))


def _pairs(dataset: Any, name: str) -> Iterator[RawExample]:
    for number, pair in enumerate(dataset.docpairs_iter(), start=1):
        yield RawExample(f"{name}:{number}", pair.query_id, None, [pair.doc_id_a, pair.doc_id_b], 1)


def _file_examples(path: Path, form: LineForm) -> Iterator[RawExample | DataError]:
    for values, where in read_rows(path):
        try:
            if isinstance(values, DataError):
                raise values
            yield parse_line(values, where, form)
        except DataError as error:
            yield error


def _schema(by_row: bool) -> pa.Schema:
    """Schema of examples: documents as rows of a text store or as texts, and a list of scores for each teacher."""
    return pa.schema(
        [
            pa.field("query_id", pa.string()),
            pa.field("query", pa.string(), nullable=False),
            pa.field("documents", pa.list_(pa.uint32() if by_row else pa.string()), nullable=False),
            pa.field("n_positives", pa.uint32(), nullable=False),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("weights", pa.list_(pa.float32())),
        ]
    )


# --- joining ------------------------------------------------------------------------------------------------------


class _Join:
    """Joins a source with queries' texts, documents' rows, candidates and teachers' scores."""

    def __init__(self, source: TrainingSource, texts: TextStore | None, queries: TextStore | None) -> None:
        self._source = source
        self._texts = texts
        self._queries = queries
        self._candidates: dict[str, NDArray[np.uint32]] | None = None
        self._teachers: list[_Scores] = []
        self._weights: _Scores | None = None
        name, more = source.path, "allow_missing permits that"
        self._no_query = Missing(source.queries or name, "queries", name, "their texts have to be there")
        self._no_document = Missing(source.documents or name, "documents", name)
        self._no_candidates = Missing(source.candidates or "", "queries", name, more)
        self._no_score = [Missing(teacher, "pairs of query and document", name, more) for teacher in source.scores]

    def write(self, origin: _Origin, path: Path) -> None:
        """Read, check, join and write everything.

        Raises:
            DataError: As for `prepare`.
        """
        if self._texts and self._source.candidates:
            named = self._source.documents or self._source.path
            self._candidates = _read_candidates(Path(self._source.candidates), self._texts, named)
        self._teachers = [_read_teacher(Path(name)) for name in self._source.scores]
        self._weights = _read_teacher(Path(self._source.weights)) if self._source.weights else None
        problems = Problems(self._source.path, "examples")
        written = 0
        n_teachers: int | None = None
        schema = _schema(by_row=self._texts is not None)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for chunk in _chunked(_good(origin.read(), problems)):
                rows = []
                for raw, row in zip(chunk, self._joined(chunk), strict=True):
                    n_here = len(raw.scores) + len(self._teachers)
                    n_teachers = n_here if n_teachers is None else n_teachers
                    if n_here != n_teachers:
                        problems.add(
                            DataError(f"scores of {n_here} teachers, but {n_teachers} in the lines before", raw.where)
                        )
                    rows.append(row)
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                written += len(rows)
        problems.settle(written)
        for missing in (self._no_query, self._no_document, self._no_candidates, *self._no_score):
            missing.settle()

    def _joined(self, chunk: list[RawExample]) -> Iterator[dict[str, Any]]:
        asked = [raw.query_id for raw in chunk if raw.query is None and raw.query_id is not None]
        queries = dict(zip(asked, self._queries.rows(asked), strict=True)) if self._queries else {}
        names = [name for raw in chunk for name in raw.documents]
        rows = iter(self._texts.rows(names) if self._texts else ())
        for raw in chunk:
            documents: Any = raw.documents
            scores = np.array(raw.scores, np.float32).reshape(len(raw.scores), len(documents))
            if self._texts:
                found = np.fromiter(islice(rows, len(documents)), np.int64, len(documents))
                for i in np.flatnonzero(found < 0):
                    self._no_document.add(repr(documents[i]))
                documents, scores = self._by_row(raw, found[found >= 0].astype(np.uint32), scores)
            yield {
                "query_id": raw.query_id,
                "query": raw.query if raw.query is not None else self._query(raw, queries),
                "documents": documents,
                "n_positives": raw.n_positives,
                "scores": scores.ravel() if len(scores) else None,
                "weights": self._weights_of(raw, documents),
            }

    def _weights_of(self, raw: RawExample, rows: NDArray[np.uint32]) -> NDArray[np.float32] | None:
        if self._weights is None or not self._texts:
            return None
        given = self._weights.of(raw.query_id or "", [self._texts.id(row) for row in rows.tolist()])
        if (given < 0).any():
            raise DataError(f"a weight of query {raw.query_id!r} is negative", self._source.weights or "")
        return np.nan_to_num(given, nan=1.0)

    def _query(self, raw: RawExample, rows: Mapping[str, int]) -> str:
        row = rows.get(raw.query_id or "", -1)
        if row >= 0 and self._queries:
            return self._queries.text(row)
        self._no_query.add(repr(raw.query_id))
        return ""

    def _by_row(
        self, raw: RawExample, rows: NDArray[np.uint32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Append candidates to an example's documents, and teachers' scores to the example's own scores."""
        if self._candidates is not None:
            more = self._candidates.get(raw.query_id or "", np.empty(0, np.uint32))
            if not len(more) and not self._source.allow_missing:
                self._no_candidates.add(repr(raw.query_id))
            more = more[~np.isin(more, rows)]
            if len(more) and len(scores) and not self._source.allow_missing:
                raise DataError(
                    "the line has scores, but the added candidates have none; allow_missing permits that",
                    raw.where,
                )
            rows = np.concatenate((rows, more))
            scores = np.pad(scores, ((0, 0), (0, max(0, len(rows) - scores.shape[1]))), constant_values=np.nan)
        if self._teachers and self._texts:
            ids = [self._texts.id(row) for row in rows.tolist()]
            taught = [teacher.of(raw.query_id or "", ids) for teacher in self._teachers]
            for missing, given in zip(self._no_score, taught, strict=True):
                for i in np.flatnonzero(np.isnan(given)) if not self._source.allow_missing else ():
                    missing.add(f"{raw.query_id!r} {ids[i]!r}")
            # A document that wasn't found is reported later; until then, there may be one score too many.
            scores = np.concatenate((scores[:, : len(rows)], np.array(taught, np.float32)))
        return rows, scores


def _good(raws: Iterable[RawExample | DataError], problems: Problems) -> Iterator[RawExample]:
    for raw in raws:
        if isinstance(raw, DataError):
            problems.add(raw)
        else:
            yield raw


def _chunked(raws: Iterator[RawExample]) -> Iterator[list[RawExample]]:
    chunk: list[RawExample] = []
    characters = 0
    for raw in raws:
        chunk.append(raw)
        characters += sum(map(len, raw.documents))
        if len(chunk) == _CHUNK or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _read_candidates(path: Path, texts: TextStore, name: str) -> dict[str, NDArray[np.uint32]]:
    """The rows of each query's candidates, in the order of the file."""
    candidates: dict[str, NDArray[np.uint32]] = {}
    missing = Missing(name, "documents", str(path), "the texts must be those that were searched")
    problems = Problems(str(path), "candidates")
    lines = _good_pairs(_scored(path, needs_scores=False), problems)
    while chunk := list(islice(lines, _JOINED_LINES)):
        found = texts.rows([doc_id for _, doc_id, _, _ in chunk])
        together: dict[str, list[int]] = {}
        for (query_id, doc_id, _, _), row in zip(chunk, found.tolist(), strict=True):
            if row < 0:
                missing.add(repr(doc_id))
            else:
                together.setdefault(query_id, []).append(row)
        for query_id, rows in together.items():
            before = candidates.get(query_id, np.empty(0, np.uint32))
            candidates[query_id] = np.concatenate((before, np.array(rows, np.uint32)))
    problems.settle(len(candidates) + missing.count)
    missing.settle()
    # Keep only the first of repeated documents: mined files may have several lines for a query.
    return {query_id: rows[np.sort(np.unique(rows, return_index=True)[1])] for query_id, rows in candidates.items()}


class _Scores:
    """A teacher's scores by query and document, in 12 bytes per score: sorted arrays of 64-bit hashes and scores."""

    def __init__(self, hashes: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[order]
        self._scores = scores[order]

    def of(self, query_id: str, doc_ids: list[str]) -> NDArray[np.float32]:
        """(n_docs,) float32, NaN if missing."""
        wanted = np.fromiter((hash((query_id, doc_id)) for doc_id in doc_ids), np.int64, len(doc_ids))
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.where(self.hashes[at] == wanted, self._scores[at], np.float32(np.nan)).astype(np.float32)


def _read_teacher(path: Path) -> _Scores:
    problems = Problems(str(path), "scores")
    hashes, scores = array("q"), array("f")
    for query_id, doc_id, score, _ in _good_pairs(_scored(path), problems):
        hashes.append(hash((query_id, doc_id)))
        scores.append(score)
    problems.settle(len(hashes))
    table = _Scores(np.frombuffer(hashes, np.int64), np.frombuffer(scores, np.float32))
    doubled = table.hashes[1:][table.hashes[1:] == table.hashes[:-1]]
    if len(doubled):
        _name_doubled(path, set(doubled.tolist()), problems)
    return table


def _name_doubled(path: Path, doubled: set[int], problems: Problems) -> None:
    """Read the file again to find repeated pairs and their lines; always raises."""
    seen: set[int] = set()
    for query_id, doc_id, _, where in _good_pairs(_scored(path), problems):
        pair = hash((query_id, doc_id))
        if pair in seen:
            problems.add(DataError(f"document {doc_id!r} occurs twice for query {query_id!r}", where))
        elif pair in doubled:
            seen.add(pair)
    problems.settle(1)


_Pair = tuple[str, str, float, str]


def _good_pairs(pairs: Iterable[_Pair | DataError], problems: Problems) -> Iterator[_Pair]:
    for pair in pairs:
        if isinstance(pair, DataError):
            problems.add(pair)
        else:
            yield pair


def _scored(path: Path, needs_scores: bool = True) -> Iterator[_Pair | DataError]:
    """Yield query, document, score and "file:line" of a TREC run or of rows; if scores aren't needed, a row yields only
    its negatives.
    """
    try:
        is_run = file_kind(path) == "tsv"
    except DataError:
        is_run = True  # runs have all kinds of suffixes
    for line, where in read_lines(path) if is_run else read_rows(path):
        try:
            if isinstance(line, DataError):
                raise line
            if isinstance(line, str):
                yield (*parse_run_line(line, where), where)
            else:
                yield from _row_scores(line, where, needs_scores)
        except DataError as error:
            yield error


def _row_scores(values: Mapping[str, Any], where: str, needs_scores: bool) -> list[_Pair]:
    query_id = text_value(values.get("query_id"), "query_id", where)
    given = values.get("scores")
    if isinstance(given, dict):
        return [(query_id, doc_id, score_value(score, where), where) for doc_id, score in given.items()]
    raw = parse_line(values, where, LineForm(by_id=True, text=False, query_id=True))
    if not needs_scores:
        return [(query_id, doc_id, math.nan, where) for doc_id in raw.documents[raw.n_positives :]]
    if len(raw.scores) != 1:
        raise DataError(f"scores of {len(raw.scores)} teachers; a file of scores must have a single teacher", where)
    return [(query_id, doc_id, s, where) for doc_id, s in zip(raw.documents, raw.scores[0], strict=True) if s == s]
