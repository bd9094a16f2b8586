"""Search options: conditions, order, grouping, counts and re-ranking.

`Conditions` (minimum score, operators, boosts, sort keys) apply to each document on its own, so each shard checks its
own documents. Grouping, diversity and re-ranking compare documents, so they run on the merged results.
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

SCORE = "_score"  # name of the score among the columns to sort by
DOCUMENT = "_id"  # name of the document among the columns to group by
TITLE = "title"  # name of the title among the columns to boost by
STORED = ("title", "text", "metadata")  # fields of a document besides the columns of its metadata
DAY = 86_400_000_000  # microseconds
_MOST_TITLE = 1000.0
_SYNTAXES = ("plain", "operators")
_BOOST_KEYS = ("weight", "half_life", "origin")


@dataclass(frozen=True)
class Sort:
    """A column to sort by, or `SCORE`."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class Boost:
    """Multiplies scores by 1 + weight * value; with a half-life, by 1 + weight * 0.5 ** (distance / half_life).

    Attributes:
        column: A column of numbers; with a half-life, also of dates and times.
        weight: At least 0. Column values below 0 count as 0; documents without a value keep their score.
        half_life: Distance from `origin` at which the boost is halved; in days for times. None for no decay.
        origin: The value with the largest boost; for times, in microseconds since 1970.
        of_times: Whether the column holds dates and times.
    """

    column: str
    weight: float
    half_life: float | None = None
    origin: float = 0.0
    of_times: bool = False


@dataclass(frozen=True)
class Conditions:
    """Conditions that apply to each document on its own.

    Attributes:
        min_score: Documents that score less aren't found; applies to boosted scores.
        text: Words and phrases that the text must or must not contain.
        boosts: Boosts by columns; their factors are multiplied.
        title: How many times a term counts if it occurs in the title; at least 1.
        sort: Sort keys; empty to sort by score, descending.
        without: Ids of documents to leave out.
        passages: Find passages instead of the documents that they were cut from.
    """

    min_score: float = 0.0
    text: TextQuery | None = None
    boosts: tuple[Boost, ...] = ()
    title: float = 1.0
    sort: tuple[Sort, ...] = ()
    without: tuple[str, ...] = ()
    passages: bool = False

    def __bool__(self) -> bool:
        return self is not NO_CONDITIONS and self != NO_CONDITIONS

    @property
    def boosted(self) -> bool:
        """Whether scores are boosted."""
        return bool(self.boosts) or self.title > 1


NO_CONDITIONS = Conditions()


@dataclass(frozen=True)
class Options:
    """Options of a search besides `SearchSettings`.

    Attributes:
        offset: Number of best documents (or groups, with `group_by`) to skip.
        min_score: Documents that score less aren't found. Applies to scores before re-ranking.
        group_by: A column; k counts groups of documents with the same value. A document without a value is a group of
            its own. "_id" groups passages by document.
        per_group: Maximum number of documents in a group; they are listed together.
        sort: Columns to sort by, with "-" in front for descending ("-year"); "_score" is the score. Documents without
            a value come last; ties by score.
        boost: {column: weight} multiplies scores by 1 + weight * value. {column: {"weight": 0.5, "half_life": 30}}
            multiplies them by 1 + 0.5 * 0.5 ** (distance / 30), where distance is |value - origin|. For dates and
            times, the distance is in days, and "origin" is by default the current time. {"title": 2} counts query words
            twice if they occur in the title.
        facets: Columns whose values are counted over all matching documents; sets `Hits.total`, too.
        total: Count the matching documents.
        diversity: Above 0 and at most 1: from the `depth` best documents, pick those that differ from the documents
            picked before (maximal marginal relevance). At 1, only difference counts.
        syntax: "operators" parses "exact phrase", +must and -not; "plain" treats them as text.
        rerank: Rescores the `depth` best documents: a `Reranker`, a CrossEncoder of sentence-transformers, or a
            function of the query and a list of texts. For a `Client`, True uses the server's re-ranker.
        rerank_unit: "text" scores title and text of each document or passage; "sentence" scores each sentence, and a
            document gets the score of its best sentence.
        depth: Number of documents that are re-ranked or diversified; at least the number of documents requested.
        passages: If documents are cut into passages, find k passages, each by its own score; several may be of one
            document. With group_by="_id" and `per_group`, find the best passages of k documents.
        fields: The fields that hits contain: "title", "text", "metadata", or columns of the metadata; by default all.
            Other fields are empty.

    Raises:
        ValueError: Values are out of range or can't be combined; the message lists every problem.
        TypeError: `rerank` isn't a re-ranker.
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
        fields = () if self.fields is None else self.fields
        for name, given in (("sort", self.sort), ("facets", self.facets), ("fields", fields)):
            if not _are_names(given):
                wrong.append(f"{name} takes columns, got {given!r}")
        wrong += self._wrong_orders()
        _title_boost(self.boost, wrong)
        _boosts(self.boost, wrong)
        if wrong:
            raise ValueError("; ".join(wrong))
        if self.rerank is not None and self.rerank is not True:
            as_reranker(self.rerank)

    def _wrong_orders(self) -> list[str]:
        wrong = []
        if self.sort and (self.diversity or self.rerank is not None):
            wrong.append("sort can't be combined with rerank or diversity: each of them sets its own order")
        if self.rerank_unit not in get_args(Unit):
            wrong.append(f"rerank_unit must be one of {', '.join(get_args(Unit))}, got {self.rerank_unit!r}")
        elif self.rerank_unit != "text" and self.rerank is None:
            wrong.append("rerank_unit needs rerank")
        return wrong

    @property
    def plain(self) -> bool:
        """Whether all options have their defaults."""
        return self is PLAIN or self == PLAIN

    @property
    def columns(self) -> list[str]:
        """All columns that the options name."""
        named = [self.group_by] if self.group_by and self.group_by != DOCUMENT else []
        boosts = [name for name in self.boost if name != TITLE]
        return [*named, *(s.column for s in self.sorts if s.column != SCORE), *boosts, *self.faceted]

    @property
    def sorts(self) -> tuple[Sort, ...]:
        """The columns to sort by."""
        given = [self.sort] if isinstance(self.sort, str) else self.sort
        return tuple(Sort(one.removeprefix("-"), one.startswith("-")) for one in given if one)

    @property
    def counts(self) -> bool:
        """Whether all matching documents have to be counted."""
        return self.total or bool(self.facets)

    @property
    def faceted(self) -> list[str]:
        """The columns whose values are counted."""
        return [self.facets] if isinstance(self.facets, str) else list(self.facets)

    @property
    def reranks_here(self) -> bool:
        """Whether this process has a re-ranker; False if the server's re-ranker is requested."""
        return self.rerank is not None and self.rerank is not True

    @property
    def shown(self) -> tuple[str, ...] | None:
        """The fields that hits have; None for all."""
        return (self.fields,) if isinstance(self.fields, str) else None if self.fields is None else tuple(self.fields)

    def split(self, query: Any) -> tuple[Any, TextQuery | None]:
        """Split a query into the text to encode and the operators; the operators are None if there are none.


        Raises:
            DataError: The operators are malformed, or the query isn't a text.
        """
        return parse_operators(query) if self.syntax == "operators" else (query, None)

    def conditions(self, text: TextQuery | None = None, without: Sequence[str] = ()) -> Conditions:
        """Return the conditions on each document. Boosts without an origin use the time of this call."""
        boosts, title = tuple(_boosts(self.boost, [])), _title_boost(self.boost, [])
        return Conditions(float(self.min_score), text, boosts, title, self.sorts, tuple(without), self.passages)


_NAMES = tuple(one.name for one in fields(Options))


def split_options(given: Mapping[str, Any]) -> tuple[Options, SearchSettings]:
    """Split keyword arguments into options and settings.

    Raises:
        TypeError: An unknown name.
        ValueError: A value is out of range.
    """
    mine = {name: value for name, value in given.items() if name in _NAMES}
    rest = {name: value for name, value in given.items() if name not in _NAMES}
    try:
        settings = search_settings(rest)
    except TypeError as error:
        raise TypeError(f"{error}; options are {', '.join(_NAMES)}") from None
    return Options(**mine) if mine else PLAIN, settings


def _boosts(given: Any, wrong: list[str]) -> list[Boost]:
    """Parse boosts; problems are appended to `wrong`."""
    if not isinstance(given, Mapping):
        wrong.append(f"boost is a mapping of column to weight, got {given!r}")
        return []
    found = []
    for column, how in given.items():
        if column == TITLE:
            continue
        how = how if isinstance(how, Mapping) else {"weight": how}
        unknown = [key for key in how if key not in _BOOST_KEYS]
        weight, half_life, origin = how.get("weight", 1.0), how.get("half_life"), how.get("origin")
        if isinstance(half_life, timedelta):
            half_life = half_life.total_seconds() / 86_400
        at = parse_time(origin) if origin is not None and not _is_number(origin) else None
        if not isinstance(column, str) or not column:
            wrong.append(f"boost: a column is a string, got {column!r}")
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


def _title_boost(given: Any, wrong: list[str]) -> float:
    """Parse the boost of titles, by default 1; problems are appended to `wrong`."""
    factor = given.get(TITLE, 1.0) if isinstance(given, Mapping) else 1.0
    if not _is_number(factor) or not 1 <= factor <= _MOST_TITLE:
        wrong.append(f"boost of title: it must be a number from 1 to 1,000, got {factor!r}")
        return 1.0
    return float(factor)


def _are_names(given: Any) -> bool:
    named = isinstance(given, Sequence) and all(isinstance(one, str) and one for one in given)
    return isinstance(given, str) or named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


PLAIN = Options()
