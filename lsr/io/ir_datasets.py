"""Datasets of ir-datasets, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lsr.errors import DataError, MissingExtra, install_hint

_FOLDER = "a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv"


def load_ir_dataset(name: str) -> Any:
    """Load a dataset of ir-datasets by name.

    Raises:
        MissingExtra: ir-datasets is not installed.
        DataError: There is no such path or dataset.
    """
    plain = name.removeprefix("irds:")
    try:
        import ir_datasets
    except ImportError:
        if name.startswith("irds:"):
            raise MissingExtra("ir-datasets", "eval", f"reading {name}") from None
        raise DataError(f"no such file or folder; for datasets by name: {install_hint('eval')}", name) from None
    try:
        return ir_datasets.load(plain)
    except KeyError:
        raise DataError(f"no such file or folder, and no such dataset of ir-datasets; {_FOLDER}", name) from None


def ir_items(name: str, items: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The items of an ir-datasets iterator.

    Raises:
        DataError: The dataset can't be downloaded or read.
    """
    try:
        yield from items()
    except Exception as error:  # downloads and parsers of a hundred datasets raise all kinds of errors
        why = f"{type(error).__name__}: {error}"
        if host := re.search(r"host=\\*'([^'\\]+)", why):
            why = (
                f"no connection to {host[1]}. "
                f"Offline, put a BEIR folder of this name into the current folder; {_FOLDER}"
            )
        raise DataError(f"ir-datasets can't read it: {why}", name) from error
