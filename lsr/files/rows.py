"""Tables in a folder: CSV, JSON, JSONL and Parquet; each row is a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lsr.errors import DataError
from lsr.io.document import Document, id_text
from lsr.io.metadata import is_absent
from lsr.io.text_files import read_rows

ROWS = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
_IDS = ("_id", "id", "doc_id", "docid", "docno")
_TEXTS = ("text", "contents", "content", "title")


def row_documents(path: Path, name: str, metadata: Mapping[str, Any]) -> Iterator[Document | DataError]:
    """The rows of a file as documents, bad rows as errors.

    A row's id is the file's name and the row's own id, or else its line: "faq.csv:17". If there is no column with a
    usual name such as "text", the text consists of all text columns, each with its name.

    Args:
        path: The file.
        name: The file's name in ids.
        metadata: Metadata to add to each document, along with the row's other columns.
    """
    for row, where in read_rows(path, name):
        if isinstance(row, DataError):
            yield row
            continue
        line = where.rpartition(":")[2]
        try:
            own = next((row[key] for key in _IDS if not is_absent(row.get(key))), None)
            values = {key: value for key, value in row.items() if key not in _IDS and key != "parent"}
            if not any(isinstance(values.get(key), str) for key in _TEXTS):
                texts = [f"{key}: {value}" for key, value in values.items() if isinstance(value, str) and value.strip()]
                values["text"] = "\n".join(texts)
            nested = values.pop("metadata", None)
            values |= {"metadata": {**(nested if isinstance(nested, Mapping) else {}), **metadata, "line": int(line)}}
            yield Document.from_mapping({"_id": f"{name}:{id_text(own) or line}", **values}, where)
        except DataError as error:
            yield error
