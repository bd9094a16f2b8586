"""OpenSearch's bulk format: two lines for each document, an action and the document with its vector as a field.

    {"index": {"_index": "docs", "_id": "a"}}
    {"title": "...", "text": "...", "metadata": {...}, "vector": {"wing": 1.5, ...}}

A second file, NAME.mapping.json, is the request that creates the index, with a `rank_features` field (exact search) or
a `sparse_vector` field whose keys are term ids (OpenSearch 3.3 and later, approximate search with Seismic).

Tokens are written unchanged, including dots: OpenSearch's rank_features accepts them, its neural_sparse query looks up
whole tokens, and its own ingestion stores a model's tokens unchanged (opensearch-project/neural-search:
TokenWeightUtil, NeuralSparseQueryBuilder). Elasticsearch refuses dots in rank_features; its sparse_vector takes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lsr.errors import DataError
from lsr.io.text_files import is_packed, new_text, parse_json_line
from lsr.io.vectors import VectorBatch, decimals

_ACTIONS = ("index", "create")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,254}")
_ID_BYTES = 512  # OpenSearch refuses longer ids
_SMALLEST = np.finfo(np.float32).tiny  # OpenSearch refuses smaller weights
_FIELDS = {
    "title": {"type": "text"},
    "text": {"type": "text"},
    "parent": {"type": "keyword"},
    "metadata": {"type": "flat_object"},  # any JSON; types may differ from document to document
}

# A document's fields, its weights and its line.
Values = tuple[dict[str, Any], dict[str, Any], str]


def is_action(line: str | DataError) -> bool:
    """Whether a line is an action for the document in the next line."""
    try:
        return not isinstance(line, DataError) and bool(_action(line, ""))
    except DataError:
        return False


def read_bulk(lines: Iterator[tuple[str | DataError, str]]) -> Iterator[Values | DataError]:
    """Yield documents and weights of a bulk file; a bad document yields an error.

    The vector's field is the one that holds an object of numbers in the first document. Apart from `metadata`, no other
    field may hold such an object.

    Args:
        lines: Lines with their "file:number", from `read_lines`.
    """
    field = ""
    for line, where in lines:
        try:
            if isinstance(line, DataError):
                raise line
            doc_id = _action(line, where)
            line, where = next(lines, (DataError("an action without its document: the file is cut off", where), where))
            if isinstance(line, DataError):
                raise line
            values = parse_json_line(line, where, unique_keys=True)
            if not isinstance(values, dict):
                raise DataError("expected a document, an object of fields", where)
            field = field or _vector_field(values, where)
            weights = values.pop(field, None)
            if not isinstance(weights, dict):
                raise DataError(f"{doc_id!r}: the field {field!r} is not an object of token and weight", where)
            yield {**values, "_id": doc_id}, weights, where
        except DataError as error:
            yield error


def _action(line: str, where: str) -> str:
    """The id of an action."""
    values = parse_json_line(line, where)
    name, what = next(iter(values.items()), ("", None)) if isinstance(values, dict) and len(values) == 1 else ("", None)
    if name not in _ACTIONS or not isinstance(what, dict):
        raise DataError('expected {"index": {"_id": ...}} or {"create": ...} before a document', where)
    doc_id = what.get("_id")
    if not isinstance(doc_id, str) or not doc_id:
        raise DataError(f'the action needs an "_id" that is a string, got {doc_id!r}', where)
    return doc_id


def _vector_field(values: dict[str, Any], where: str) -> str:
    found = [name for name, value in values.items() if name != "metadata" and _is_vector(value)]
    if len(found) != 1:
        which = f"{', '.join(map(repr, found))} are all possible" if found else "none is"
        raise DataError(f"the vector must be the only field that is an object of token and weight; here {which}", where)
    return found[0]


def _is_vector(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in value.values()
    )


def mapping_path(path: Path) -> Path:
    """Path of a bulk file's mapping: docs.mapping.json for docs.ndjson(.gz)."""
    return path.with_name(_stem(path) + ".mapping.json")


def _stem(path: Path) -> str:
    return path.with_suffix("").stem if is_packed(path) else path.stem


def write_bulk(
    path: Path,
    batches: Iterable[VectorBatch],
    vocabulary: Sequence[str] | None,
    *,
    index_name: str | None = None,
    field: str = "vector",
) -> None:
    """Write a bulk file and its mapping.

    Args:
        path: The bulk file, compressed if its name ends in .gz.
        batches: Batches of vectors.
        vocabulary: Token of each term, for a rank_features field; None for a sparse_vector field, whose keys are the
            term ids.
        index_name: OpenSearch's index; by default the file's name without its suffix.
        field: The vector's field.

    Raises:
        DataError: OpenSearch doesn't accept an id, a token or a name.
    """
    index_name = _stem(path) if index_name is None else index_name
    if not _NAME.fullmatch(index_name):
        raise DataError(
            f"{index_name!r} is not a name of an index: use only lower case letters, digits and _.- (--name)",
            str(path),
        )
    if field in _FIELDS or not field or field.startswith("_") or "." in field:
        raise DataError(f"the vector's field can't have the name {field!r}; choose another with --field", str(path))
    largest = 0.0
    with new_text(path) as file:
        for batch in batches:
            for document, (terms, weights) in zip(batch.documents.to_pylist(), batch.vectors.rows(), strict=True):
                if len(document["id"].encode()) > _ID_BYTES:
                    raise DataError(f"OpenSearch accepts ids of at most {_ID_BYTES} bytes, not {document['id']!r}")
                keys = [str(t) if vocabulary is None else vocabulary[t] for t in terms.tolist()]
                if "" in keys:
                    raise DataError(f"document {document['id']!r} has the empty token, which OpenSearch can't store")
                fields = {name: document[name] for name in _FIELDS if document[name] is not None}
                if "metadata" in fields:
                    fields["metadata"] = json.loads(fields["metadata"])
                fields[field] = dict(zip(keys, decimals(np.maximum(weights, _SMALLEST)), strict=True))
                action = {"index": {"_index": index_name, "_id": document["id"]}}
                for line in (action, fields):
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                largest = max(largest, float(weights.max(initial=0)))
        # The bulk file is renamed last: if it exists, the mapping does, too.
        with new_text(mapping_path(path)) as mapping:
            mapping.write(json.dumps(_mapping(field, largest, exact=vocabulary is not None), indent=2) + "\n")


def _mapping(field: str, largest: float, *, exact: bool) -> dict[str, Any]:
    """Body of the request that creates the index."""
    if exact:
        return {"mappings": {"properties": {**_FIELDS, field: {"type": "rank_features"}}}}
    # Weights are stored in a byte; weights above the ceiling, which is 3 by default, would be cut.
    method = {"name": "seismic", "parameters": {"quantization_ceiling_ingest": largest or 1.0}}
    return {
        "settings": {"index": {"sparse": True}},
        "mappings": {"properties": {**_FIELDS, field: {"type": "sparse_vector", "method": method}}},
    }
