"""Datasets of ir-datasets, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lsr.errors import DataError, MissingExtra, install_hint


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
        raise DataError("no such file or folder, and no such dataset of ir-datasets", name) from None


def ir_items(name: str, items: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The items of an ir-datasets iterator.

    Raises:
        DataError: It can't be downloaded or read.
    """
    try:
        yield from items()
    except Exception as error:  # downloads and parsers of a hundred datasets raise all kinds of errors
        raise DataError(f"ir-datasets can't read it: {type(error).__name__}: {error}", name) from error
