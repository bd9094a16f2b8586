"""Vectors as JSON lines, plain or .gz: `{"_id", "vector": {token: weight}}`, Anserini's `{"id", "contents", "vector"}`,
and OpenSearch's bulk format (lsr.io.opensearch). Tokens get term ids in the order of their first occurrence.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from lsr.console import counted
from lsr.errors import DataError
from lsr.io import opensearch
from lsr.io.document import Document, document_batch, require_encodable, short
from lsr.io.rows import TableRows, given_rows
from lsr.io.text_files import new_text, read_json, read_lines
from lsr.io.vectors import BATCH, BEYOND_FLOAT32, VectorBatch, Vectors, decimals
from lsr.sparse import SparseMatrix

_ANSERINI = 100  # factor of weights in Anserini's own encoders

# A document with its weights, or an error for a bad line.
Row = tuple[Document, dict[str, float]] | DataError


def holds_vectors(path: Path) -> bool:
    """Whether the first line of a file is in one of these formats."""
    values, _ = next(iter(read_json(path)), (None, ""))
    if isinstance(values, Mapping):
        return isinstance(values.get("vector"), Mapping) or opensearch.is_action(json.dumps(values))
    return False


def read_jsonl(path: Path, vectors: Vectors, *, skip_bad: bool, name: str = "") -> Iterator[VectorBatch]:
    """Read a file of any of these formats in batches.

    Args:
        path: The file.
        vectors: New tokens and messages about bad lines are added to it.
        skip_bad: Skip bad lines.
        name: The file's name in messages.

    Raises:
        DataError: A line is bad.
    """
    return _batches(_rows(path, name), vectors, skip_bad, " (--skip-bad counts bad lines and continues)")


def given_documents(
    documents: Iterable[Any] | Any, *, vocabulary: Sequence[str] | None = None, skip_bad: bool = False
) -> Vectors | Iterable[Any]:
    """Documents in memory: as `Vectors` if the first document has {"vector": {token: weight}}, else unchanged.

    Args:
        documents: Any iterable, an Arrow table, or a data frame.
        vocabulary: As for `lsr.io.open_vectors.read_vectors`.
        skip_bad: Skip bad documents.
    """
    documents = given_rows(documents)
    rest = iter(documents)
    first = list(islice(rest, 1))
    if not isinstance(documents, Collection | TableRows):  # an iterator can't be restarted
        documents = chain(first, rest)
    if not first or not isinstance(first[0], Mapping) or not isinstance(first[0].get("vector"), Mapping):
        return documents
    known = list(vocabulary or ())
    return Vectors("the documents", lambda v: _batches(_given_rows(documents), v, skip_bad), vocabulary=known)


def _given_rows(documents: Iterable[Any]) -> Iterator[Row]:
    for number, values in enumerate(documents, start=1):
        where = f"document {number}"
        try:
            if not isinstance(values, Mapping) or not isinstance(values.get("vector"), Mapping):
                raise DataError('the first one has a "vector" of {token: weight}, so all of them need one', where)
            weights = {t: w.item() if isinstance(w, np.generic) else w for t, w in values["vector"].items()}
            yield _row({key: value for key, value in values.items() if key != "vector"}, weights, where)
        except DataError as error:
            yield error


def _batches(rows_read: Iterable[Row], vectors: Vectors, skip_bad: bool, hint: str = "") -> Iterator[VectorBatch]:
    assert vectors.vocabulary is not None
    vocabulary = vectors.vocabulary
    term_of = {token: term for term, token in enumerate(vocabulary)}
    documents: list[Document] = []
    rows: list[dict[int, float]] = []

    def batch() -> VectorBatch:
        matrix = SparseMatrix.from_dicts(rows, max(len(vocabulary), 1))
        made = VectorBatch(document_batch(documents), matrix)
        documents.clear()
        rows.clear()
        return made

    n_rows = 0
    for read in rows_read:
        if isinstance(read, DataError):
            if not skip_bad:
                raise DataError(read.problem + hint, read.where)
            vectors.bad.append(str(read))
            continue
        document, weights = read
        row = {}
        for token, weight in weights.items():
            term = term_of.get(token)
            if term is None:
                term = term_of[token] = len(vocabulary)
                vocabulary.append(token)
            row[term] = weight
        documents.append(document)
        rows.append(row)
        n_rows += 1
        if len(rows) == BATCH:
            yield batch()
    if vectors.bad and not n_rows and hint:
        raise DataError(f"none of {counted(len(vectors.bad), 'document')} can be read; the first: {vectors.bad[0]}")
    if rows:
        yield batch()


def _rows(path: Path, name: str) -> Iterator[Row]:
    lines = read_lines(path, name)
    first = next(lines, None)
    if first is None:
        return
    is_bulk = opensearch.is_action(first[0])
    read = opensearch.read_bulk(chain([first], lines)) if is_bulk else _read_objects(path, name)
    for values in read:
        try:
            yield values if isinstance(values, DataError) else _row(*values)
        except DataError as error:
            yield error


def _read_objects(path: Path, name: str) -> Iterator[opensearch.Values | DataError]:
    for values, where in read_json(path, name, unique_keys=True):
        if isinstance(values, DataError):
            yield values
        elif not isinstance(weights := values.get("vector"), dict):
            yield DataError('expected {"_id": ..., "vector": {token: weight}}', where)
        else:
            yield {key: value for key, value in values.items() if key != "vector"}, weights, where


def _row(values: dict[str, Any], weights: dict[str, Any], where: str) -> Row:
    document = Document.from_mapping({"text": "", **values} if "contents" not in values else values, where)
    for token, weight in weights.items():
        if not isinstance(token, str):
            raise DataError(f"{document.id!r}: a token is a text, got {token!r}", where)
        if not token.isascii():
            require_encodable(token, f"{document.id!r}: a token", where)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < BEYOND_FLOAT32:
            raise DataError(
                f"{document.id!r}: weight {short(weight)} of {short(token)}; weights are finite and not negative", where
            )
    return document, weights


def write_jsonl(
    path: Path,
    batches: Iterable[VectorBatch],
    vocabulary: Sequence[str],
    *,
    anserini: bool = False,
    step: float | None = None,
) -> None:
    """Write vectors as JSONL, compressed if the name ends in .gz.

    Args:
        path: The file; it gets its name when it is complete.
        batches: Batches of vectors.
        vocabulary: Token of each term; complete after the last batch.
        anserini: Write {"id", "contents", "vector"} instead of {"_id", "vector"}. The weights are then whole numbers of
            at least 1: impacts if `step` is given, else weights times 100, rounded, as in Anserini's own encoders.
        step: Every weight is a multiple of this number.
    """
    factor = 1 / step if step else _ANSERINI
    with new_text(path) as file:
        for batch in batches:
            documents = batch.documents.to_pylist()
            for document, (terms, weights) in zip(documents, batch.vectors.rows(), strict=True):
                tokens = [vocabulary[term] for term in terms.tolist()]
                if anserini:
                    impacts = np.maximum(np.rint(weights.astype(np.float64) * factor), 1).astype(int).tolist()
                    contents = " ".join(filter(None, (document["title"], document["text"])))
                    line = {"id": document["id"], "contents": contents}
                    line["vector"] = dict(zip(tokens, impacts, strict=True))
                else:
                    line = {"_id": document["id"], "vector": dict(zip(tokens, decimals(weights), strict=True))}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
