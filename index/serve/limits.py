"""Limits on what a request may ask for, as types for models. So violations are reported together with other errors.

The context of a validation is the server's `ServeSettings`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo

Weight = Annotated[float, Field(ge=0)]
Vector = dict[str, Weight]


def _k(value: int, info: ValidationInfo) -> int:
    most = info.context.max_k
    if value > most:
        raise ValueError(f"at most {most:,} documents are returned, got {value:,}")
    return value


_COUNTED = {str: "characters", dict: "terms", list: "numbers"}


def _query(query: str | Vector | list[float], info: ValidationInfo) -> str | Vector | list[float]:
    most, what = info.context.max_query, _COUNTED[type(query)]
    if len(query) > most:
        raise ValueError(f"has {len(query):,} {what}, at most {most:,} are accepted")
    return query


def _where(where: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    values, most = _count(where), info.context.max_where
    if values > most:
        raise ValueError(f"has {values:,} values, at most {most:,} are accepted")
    return where


def _count(where: Any) -> int:
    inner = where.values() if isinstance(where, dict) else where if isinstance(where, list) else None
    return 1 if inner is None else max(1, sum(map(_count, inner)))


K = Annotated[int, Field(ge=1), AfterValidator(_k)]
Text = Annotated[str, AfterValidator(_query)]
DenseVector = Annotated[list[float], AfterValidator(_query)]
QueryVector = Annotated[Vector, AfterValidator(_query)]
Query = Annotated[
    Annotated[str, Tag("text")] | Annotated[Vector, Tag("vector")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "vector"),
    AfterValidator(_query),
]
Where = Annotated[dict[str, Any], AfterValidator(_where)]


def k_of_all(queries: Any, info: ValidationInfo) -> Any:
    """Limit the total number of documents that queries ask for, k each, before the queries are parsed."""
    k, most = info.data.get("k", 1), info.context.max_hits
    if isinstance(queries, list) and k * len(queries) > most:
        raise ValueError(f"{len(queries):,} queries of {k:,} documents: at most {most:,} in all")
    return queries


def k_explained(explain: bool, info: ValidationInfo) -> bool:
    """Limit the number of documents to explain."""
    k, most = info.data.get("k", 0) * info.data.get("per_group", 1), info.context.max_explained
    if explain and k > most:
        raise ValueError(f"at most {most} documents are explained at once, got k = {k:,}")
    return explain


def either(query: str | None, info: ValidationInfo) -> str | None:
    """Require a query or a vector, but not both."""
    if "vector" in info.data and (query is None) == (info.data["vector"] is None):
        raise ValueError("give either a query or a vector")
    return query
