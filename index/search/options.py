"""Options of a search: which documents count, how they are ordered, and what else is told of them.

What a document meets by itself (a least score, words and phrases, boosts, sort keys) is a `Conditions`: each shard
checks its own documents. What needs several documents (groups, diversity, a re-ranker) is done where the results meet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from lsr.index.search.operators import TextQuery, parse_operators
from lsr.index.search.query_encoder import search_settings
from lsr.index.search.rerank import AnyReranker, Unit, as_reranker
from lsr.index.search.settings import SearchSettings
from lsr.io.metadata import parse_time

SCORE = "_score"  # stands for the score among the columns to sort by
DOCUMENT = "_id"  # stands for the document among the columns to group by
STORED = ("title", "text", "metadata")  # what a document has besides its columns
DAY = 86_400_000_000  # microseconds
_SYNTAXES = ("plain", "operators")
_BOOST_KEYS = ("weight", "half_life", "origin")


@dataclass(frozen=True)
class Sort:
    """A column to sort by; `SCORE` for the score."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class Boost:
    """Multiplies scores by 1 + weight * value, or, with a half-life, by 1 + weight * 0.5 ** (distance / half_life).

    Attributes:
        column: Of numbers; with a half-life also of dates and times.
        weight: At least 0. Values below 0 count as 0. A document without a value keeps its score.
        half_life: A distance from `origin` at which the boost is half as large; of times in days. None: no decay.
        origin: Where the boost is largest; of times in microseconds since 1970.
    """

    column: str
    weight: float
    half_life: float | None = None
    origin: float = 0.0
    of_times: bool = False


@dataclass(frozen=True)
class Conditions:
    """What decides about each document by itself.

    Attributes:
        min_score: Documents that score less aren't found. With boosts, the boosted score counts.
        text: Words and phrases that the text must have or must not have.
        boosts: Applied one after the other.
        sort: The order; empty for the score, descending.
        without: Ids of documents that aren't found.
        passages: Whether passages are found rather than the documents that they were cut from.
    """

    min_score: float = 0.0
    text: TextQuery | None = None
    boosts: tuple[Boost, ...] = ()
    sort: tuple[Sort, ...] = ()
    without: tuple[str, ...] = ()
    passages: bool = False

    def __bool__(self) -> bool:
        return self != _NONE


_NONE = Conditions()


@dataclass(frozen=True)
class Options:
    """Options of a search beside `SearchSettings`.

    Attributes:
        offset: So many of the best documents (with `group_by`, groups) are passed over.
        min_score: Documents that score less aren't found. A re-ranker's scores don't count here.
        group_by: A column; k groups of documents with the same value are found. Documents without a value are groups
            of their own. "_id" groups passages by their document.
        per_group: How many documents of each group, the best; they follow one another.
        sort: Columns to sort by, "-year" for descending; "_score" is the score. Documents without a value come last,
            equal ones by score.
        boost: {column: weight} multiplies scores by 1 + weight * value; {column: {"weight": 0.5, "half_life": 30}} by
            1 + 0.5 * 0.5 ** (distance / 30), where the distance is that of a number from "origin", or, in days, that
            of a date or time from "origin", by default from now.
        facets: Columns of which the values are counted in all documents that match, as is how many these are.
        total: Count the documents that match.
        diversity: Above 0 and at most 1: of the `depth` best, documents are preferred that are unlike those before
            them (maximal marginal relevance). 1 looks at unlikeness only.
        syntax: "operators" takes "exact phrase", +must and -not out of the query; "plain" takes them as text.
        rerank: Scores the `depth` best documents anew: a `Reranker`, a CrossEncoder of sentence-transformers, or a
            function of the query and a list of texts. True, of a `Client`: the server's own.
        rerank_unit: "text" has it score title and text of each document or passage; "sentence" each sentence, and a
            document has the score of its best one.
        depth: How many documents are re-ranked or made diverse; never fewer than are asked for.
        passages: Where documents are cut into passages, find these: k passages, several of one document, too, each by
            its own score. With group_by="_id" and `per_group` they are k documents, of each the best passages.
        fields: What hits come with: "title", "text", "metadata", or columns of it; by default everything. What isn't
            named is empty.

    Raises:
        ValueError: Values out of range or that don't go together; all of them are named.
        TypeError: A `rerank` that is no re-ranker.
    """

    offset: int = 0
    min_score: float = 0.0
    group_by: str | None = None
    per_group: int = 1
    sort: str | Sequence[str] = ()
    boost: Mapping[str, Any] = field(default_factory=dict)
    facets: str | Sequence[str] = ()
    total: bool = False
    diversity: float = 0.0
    syntax: str = "plain"
    rerank: AnyReranker | Literal[True] | None = None
    rerank_unit: Unit = "text"
    depth: int = 100
    passages: bool = False
    fields: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        wrong = []
        for name, whole, least in (
            ("offset", self.offset, 0),
            ("per_group", self.per_group, 1),
            ("depth", self.depth, 1),
        ):
            if isinstance(whole, bool) or not isinstance(whole, int) or whole < least:
                wrong.append(f"{name} must be a whole number of at least {least}, got {whole!r}")
        if not _is_number(self.min_score) or self.min_score < 0:
            wrong.append(f"min_score must be a number of at least 0, got {self.min_score!r}")
        if not _is_number(self.diversity) or not 0 <= self.diversity <= 1:
            wrong.append(f"diversity must be a number from 0 to 1, got {self.diversity!r}")
        if self.group_by is not None and not (isinstance(self.group_by, str) and self.group_by):
            wrong.append(f"group_by must be a column, got {self.group_by!r}")
        if self.per_group != 1 and self.group_by is None:
            wrong.append("per_group needs group_by")
        for name in ("total", "passages"):
            if not isinstance(getattr(self, name), bool):
                wrong.append(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.syntax not in _SYNTAXES:
            wrong.append(f"syntax must be one of {', '.join(_SYNTAXES)}, got {self.syntax!r}")
        for name, given in (("sort", self.sort), ("facets", self.facets), ("fields", self.fields or ())):
            if not _are_names(given):
                wrong.append(f"{name} takes columns, got {given!r}")
        wrong += self._wrong_orders()
        _boosts(self.boost, wrong)
        if wrong:
            raise ValueError("; ".join(wrong))
        if self.rerank is not None and self.rerank is not True:
            as_reranker(self.rerank)

    def _wrong_orders(self) -> list[str]:
        wrong = []
        if self.sort and (self.diversity or self.rerank is not None):
            wrong.append("sort goes with neither rerank nor diversity: each of them is an order of its own")
        if self.rerank_unit not in get_args(Unit):
            wrong.append(f"rerank_unit must be one of {', '.join(get_args(Unit))}, got {self.rerank_unit!r}")
        elif self.rerank_unit != "text" and self.rerank is None:
            wrong.append("rerank_unit needs rerank")
        return wrong

    @property
    def plain(self) -> bool:
        """Whether the result is that of a search without options."""
        return self is PLAIN or self == PLAIN

    @property
    def columns(self) -> list[str]:
        """All columns that it names."""
        named = [self.group_by] if self.group_by and self.group_by != DOCUMENT else []
        return [*named, *(s.column for s in self.sorts if s.column != SCORE), *self.boost, *self.faceted]

    @property
    def sorts(self) -> tuple[Sort, ...]:
        """The columns to sort by."""
        given = [self.sort] if isinstance(self.sort, str) else self.sort
        return tuple(Sort(one.removeprefix("-"), one.startswith("-")) for one in given if one)

    @property
    def counts(self) -> bool:
        """Whether all documents that match are counted."""
        return self.total or bool(self.facets)

    @property
    def faceted(self) -> list[str]:
        """The columns whose values are counted."""
        return [self.facets] if isinstance(self.facets, str) else list(self.facets)

    @property
    def reranks_here(self) -> bool:
        """Whether it brings a re-ranker, rather than asks for the server's."""
        return self.rerank is not None and self.rerank is not True

    @property
    def shown(self) -> tuple[str, ...] | None:
        """The fields that hits come with; None for all."""
        return (self.fields,) if isinstance(self.fields, str) else None if self.fields is None else tuple(self.fields)

    def split(self, query: Any) -> tuple[Any, TextQuery | None]:
        """What is encoded of a query, and what its operators demand.

        Raises:
            DataError: Operators that make no sense, or a query that is no text.
        """
        return parse_operators(query) if self.syntax == "operators" else (query, None)

    def conditions(self, text: TextQuery | None = None, without: Sequence[str] = ()) -> Conditions:
        """What decides about each document by itself; "now" is the time of this call."""
        boosts = tuple(_boosts(self.boost, []))
        return Conditions(float(self.min_score), text, boosts, self.sorts, tuple(without), self.passages)


_NAMES = tuple(one.name for one in fields(Options))


def split_options(given: Mapping[str, Any]) -> tuple[Options, SearchSettings]:
    """Options and settings by their names.

    Raises:
        TypeError: There is no such option or setting.
        ValueError: A value out of range.
    """
    mine = {name: value for name, value in given.items() if name in _NAMES}
    rest = {name: value for name, value in given.items() if name not in _NAMES}
    try:
        settings = search_settings(rest)
    except TypeError as error:
        raise TypeError(f"{error}; options are {', '.join(_NAMES)}") from None
    return Options(**mine) if mine else PLAIN, settings


def _boosts(given: Any, wrong: list[str]) -> list[Boost]:
    """Boosts as they were given; appends what is wrong."""
    if not isinstance(given, Mapping):
        wrong.append(f"boost is a mapping of column to weight, got {given!r}")
        return []
    found = []
    for column, how in given.items():
        how = how if isinstance(how, Mapping) else {"weight": how}
        unknown = [key for key in how if key not in _BOOST_KEYS]
        weight, half_life, origin = how.get("weight", 1.0), how.get("half_life"), how.get("origin")
        if isinstance(half_life, timedelta):
            half_life = half_life.total_seconds() / 86_400
        at = parse_time(origin) if origin is not None and not _is_number(origin) else None
        if not isinstance(column, str) or not column:
            wrong.append(f"boost: a column is a text, got {column!r}")
        elif unknown:
            wrong.append(f"boost of {column}: unknown key {unknown[0]!r}; there are {', '.join(_BOOST_KEYS)}")
        elif not _is_number(weight) or weight < 0:
            wrong.append(f"boost of {column}: the weight must be a number of at least 0, got {weight!r}")
        elif half_life is not None and (not _is_number(half_life) or half_life <= 0):
            wrong.append(f"boost of {column}: half_life must be above 0, got {half_life!r}")
        elif half_life is None and origin is not None:
            wrong.append(f"boost of {column}: origin needs half_life")
        elif origin is not None and at is None and not _is_number(origin):
            wrong.append(f"boost of {column}: origin must be a number, a date or a time, got {origin!r}")
        else:
            of_times = half_life is not None and not _is_number(origin)
            if of_times and at is None:
                at = parse_time(datetime.now(UTC))
            place = float(at if at is not None else origin or 0.0)
            found.append(Boost(column, float(weight), None if half_life is None else float(half_life), place, of_times))
    return found


def _are_names(given: Any) -> bool:
    named = isinstance(given, Sequence) and all(isinstance(one, str) and one for one in given)
    return isinstance(given, str) or named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


PLAIN = Options()
