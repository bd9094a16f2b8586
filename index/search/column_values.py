"""Column values by document, for grouping, sorting, boosts and facets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import DataError
from lsr.index.search.options import SCORE, STORED, Options, Sort
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.columns import Columns, Kinds, kinds_of
from lsr.io.metadata import parse_time

_LISTED = 50  # maximum number of column names in a message


def require_columns(options: Options, segments: Sequence[Kinds]) -> None:
    """Refuse columns that no document has or whose kind doesn't fit the option.

    Raises:
        DataError: An option names such a column; the message lists every problem.
    """
    shown = [name for name in options.shown or () if name not in STORED]
    if not options.columns and not shown:
        return
    kinds, mixed = kinds_of(segments)
    text = "text" in options.boost and "text" not in kinds
    names = [name for name in options.columns if not (text and name == "text")]
    wrong = dict.fromkeys(problem for name in names if (problem := unknown_column(name, kinds, mixed)))
    if text:
        wrong["boost is for titles and columns: the text as a whole can't be boosted"] = None
    for name in shown:
        if not any(key == name or key.startswith(f"{name}.") for key in (*kinds, *mixed)):
            wrong[f"fields: {unknown_column(name, kinds, {})} (title, text and metadata are allowed, too)"] = None
    for sort in options.sorts:
        if kinds.get(sort.column, "").startswith("list of "):
            wrong[f"{sort.column} is a {kinds[sort.column]}, and hits can't be sorted by lists"] = None
    if options.group_by and kinds.get(options.group_by, "").startswith("list of "):
        wrong[f"{options.group_by} is a {kinds[options.group_by]}, and hits can't be grouped by lists"] = None
    for boost in options.conditions().boosts:
        kind = kinds.get(boost.column, "number")
        if kind != "number" and not (kind == "text" and boost.of_times):
            more = ': dates and times need {"half_life": days}' if kind == "text" else ""
            wrong[f"{boost.column} is a {kind}, which can't boost{more}"] = None
        elif kind == "number" and boost.of_times:
            wrong[f"{boost.column} is a number: a boost with half_life needs a number as its origin"] = None
    if wrong:
        raise DataError("; ".join(wrong), "search")


def unknown_column(name: str, kinds: Mapping[str, str], mixed: Mapping[str, str]) -> str | None:
    """Explain why a column doesn't exist and suggest similar names; None if it exists."""
    if name in kinds:
        return None
    if name in mixed:
        return f"{name[:80]} is no column: {mixed[name]}"
    near = get_close_matches(name, kinds, 3)
    if near:
        return f"there is no column {name[:80]!r}; did you mean {' or '.join(map(repr, near))}?"
    names = sorted(kinds)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"there is no column {name[:80]!r}; there are {', '.join(names[:_LISTED]) or 'none at all'}{more}"


def values_of(snapshot: Snapshot, name: str, docs: NDArray[np.int64]) -> list[Any]:
    """Return the values of a column in some documents; None where a document has no value.

    Args:
        snapshot: The snapshot that holds the documents.
        name: The column.
        docs: (n,) document numbers, in any order.

    Returns:
        n numbers, strings, booleans, or lists of these, in the order of `docs`.
    """
    found: list[Any] = [None] * len(docs)
    bases = snapshot.searcher.bases
    numbers = np.searchsorted(bases, docs, side="right") - 1
    for number in np.unique(numbers).tolist():
        columns = snapshot.parts[number].documents.columns
        if columns is None or name not in columns.kinds:
            continue
        at = np.flatnonzero(numbers == number)
        taken = columns.column(name).take(pa.array(docs[at] - bases[number])).to_pylist()
        for place, value in zip(at.tolist(), _plain(taken, columns, name), strict=True):
            found[place] = value
    return found


def _plain(values: list[Any], columns: Columns, name: str) -> list[Any]:
    """Parse numbers that are stored as JSON strings."""
    column, kind = columns.column(name), columns.kinds[name]
    item = column.type.value_type if pa.types.is_list(column.type) else column.type
    if not kind.endswith("number") or not (pa.types.is_dictionary(item) or pa.types.is_string(item)):
        return values
    return [
        value if value is None else [json.loads(one) for one in value] if isinstance(value, list) else json.loads(value)
        for value in values
    ]


def count_values(snapshot: Snapshot, names: Iterable[str], docs: NDArray[np.int64]) -> dict[str, Counter[Any]]:
    """Count the documents that have each value of each column; a list counts once for each distinct item."""
    counts = {}
    for name in names:
        counts[name] = Counter[Any]()
        for value in values_of(snapshot, name, docs):
            if value is not None:
                counts[name].update(set(value) if isinstance(value, list) else (value,))
    return counts


def facet_order(counts: Mapping[Any, int]) -> dict[Any, int]:
    """Order values by count, descending, then by value."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def sorted_order(
    keys: Sequence[Sequence[Any]], sorts: Sequence[Sort], scores: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return (n,) int64: the positions of documents in sorted order; ties by score, then by position.

    Args:
        keys: For each of `sorts`, the values of all documents; ignored for a sort by score.
        sorts: The sort keys. Documents without a value come last in both directions.
        scores: (n,) the scores.
    """
    columns = [-scores]
    for values, sort in zip(reversed(keys), reversed(sorts), strict=True):
        if sort.column == SCORE:
            columns.append(-scores if sort.descending else scores)
            continue
        places = {key: place for place, key in enumerate(sorted({_sort_key(v) for v in values if v is not None}))}
        ranks = np.array([-1 if v is None else places[_sort_key(v)] for v in values], np.int64)
        columns.append(np.where(ranks < 0, len(places), len(places) - 1 - ranks if sort.descending else ranks))
    return np.lexsort(columns)


def _sort_key(value: Any) -> tuple[int, Any]:
    """Return a sort key that orders dates and times by time, and puts them before other strings."""
    if not isinstance(value, str):
        return (0, value)
    time = parse_time(value)
    return (1, value) if time is None else (0, time)
