"""Check judgments, queries, a run and measures before computing means, and report all problems at once.

Errors make a mean meaningless: unreadable lines of a run or of queries, a document listed twice for a query, unknown
measures, no judged query with a relevant document, and ids that don't match (none of the run's queries is judged, none
of the judged queries has a text, none of the judged documents exists).

Warnings say why a mean may mislead: judged documents that aren't in the collection (they can't be found), judged
queries without a text or without results (they count as 0), judged queries without a relevant document (they always
count as 0), unjudged queries of the run (they don't count), hits left out because they are the query's own document,
equal scores, measures deeper than the run, and a run without any judged hit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lsr.console import counted
from lsr.errors import DataError, DataErrors
from lsr.eval.datasets import Dataset
from lsr.eval.measures import depth_of, parse_measures, tied_queries
from lsr.io.corpus import open_corpus
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.runs import Run, qrels_rows, read_run, run_rows

_SHOWN = 5


@dataclass(frozen=True)
class Findings:
    """The result of a check.

    Attributes:
        errors: Problems that make a mean meaningless.
        warnings: What a reader of the mean should know.
        counts: The numbers in errors and warnings, and further numbers; a number is missing if it wasn't checked.
        run: The run without its bad lines; None if no run was checked.
        unjudged: Unjudged queries that have been reported.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    counts: dict[str, int]
    run: Run | None = None
    unjudged: frozenset[str] = frozenset()

    def raise_errors(self) -> None:
        """Raise the errors, if there are any.

        Raises:
            DataError: All errors as one.
        """
        problems = DataErrors()
        self.hand_on([], problems)
        problems.settle()

    def hand_on(self, notes: list[str], problems: DataErrors) -> None:
        """Add new warnings to the notes, and errors to the problems."""
        notes += [text for text in self.warnings if text not in notes]
        for text in self.errors:
            problems.add(DataError(text))


@dataclass
class _Notes:
    """Collects findings."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unjudged: set[str] = field(default_factory=set)

    def findings(self, run: Run | None = None) -> Findings:
        return Findings(tuple(self.errors), tuple(self.warnings), self.counts, run, frozenset(self.unjudged))


def check_run(
    run: Path | str | Run,
    dataset: Dataset,
    depth: int | None = None,
    *,
    measures: str = "",
    alone: bool = False,
    told: Collection[str] = (),
) -> Findings:
    """Check a run with its judgments, queries and measures. See the top of this file for errors and warnings.

    Args:
        run: A TREC file, or a run in memory.
        dataset: Judgments, queries and documents. Local documents are read until all judged documents are found.
            Documents of ir-datasets aren't read, because that may need a download.
        depth: Depth of the measures; taken from `measures` if given.
        measures: Names, such as "nDCG@10 R@1000".
        alone: Check only the run, because `check_dataset` has checked judgments, queries and documents.
        told: Unjudged queries that were reported earlier.

    Raises:
        MissingExtra: ir-measures is not installed.
    """
    notes = _Notes(unjudged=set(told))
    try:
        parsed = parse_measures(measures) if measures else []
        depth = depth_of(parsed) if measures and depth is None else depth
    except DataError as error:
        notes.errors.append(str(error))
    path = None if isinstance(run, dict) else Path(run)
    problems, found = DataErrors(), run if isinstance(run, dict) else {}
    if path is not None:
        with problems:
            found = read_run(path, problems)
        notes.errors += problems.lines()
    if not alone:
        _check_judgments(notes, dataset)
        _check_queries(notes, dataset, None)
        _check_documents(notes, dataset, None)
    if found or not problems.count:
        _check_results(notes, found, path, dataset, depth)
    return notes.findings(found)


def check_dataset(
    dataset: Dataset, *, document_ids: Iterable[str] | None = None, query_ids: Collection[str] | None = None
) -> Findings:
    """Check judgments, queries and documents like `check_run`, without a run.

    Args:
        dataset: The dataset.
        document_ids: Ids of the documents that will be searched, such as the ids of an index; by default the ids of
            local documents.
        query_ids: Ids of the queries; by default the dataset's queries.
    """
    notes = _Notes()
    _check_judgments(notes, dataset)
    _check_queries(notes, dataset, query_ids)
    _check_documents(notes, dataset, document_ids)
    return notes.findings()


def _check_judgments(notes: _Notes, dataset: Dataset) -> None:
    barren = [query for query, judged in dataset.qrels.items() if max(judged.values(), default=0) <= 0]
    notes.counts |= {"judged_queries": len(dataset.qrels), "judged_queries_without_relevant": len(barren)}
    if len(barren) == len(dataset.qrels):
        notes.errors.append(f"{_judgments(dataset)}: no query has a relevant document")
    elif barren:
        notes.warnings.append(
            f"{_judgments(dataset)}: {_these(barren, 'judged query', 'has', 'have')} no relevant document; "
            "such a query always counts as 0"
        )


def _check_queries(notes: _Notes, dataset: Dataset, given: Collection[str] | None) -> None:
    if given is None and not (dataset.source or dataset.queries):
        return
    try:
        where = _query_places(notes, dataset) if given is None else dict.fromkeys(given, "")
    except DataError as error:
        notes.warnings.append(f"the queries were not checked: {error}")
        return
    textless = [query for query in dataset.qrels if query not in where]
    unjudged = [query for query in where if query not in dataset.qrels]
    notes.counts["queries_without_judgments"] = len(unjudged)
    notes.counts["judged_queries_without_text"] = len(textless)
    if not where:
        notes.errors.append(f"{dataset.query_source if given is None else 'the queries'}: there are no queries")
        return
    if len(textless) == len(dataset.qrels):
        notes.errors.append(
            f"{_judgments(dataset)}: none of the queries is judged; are these the right judgments? The judged "
            f"queries are {_some(dataset.qrels)}; the queries are {_some(sorted(where))}"
        )
        return
    if textless:
        lines = _lines(qrels_rows, dataset.qrels_path, 0, textless)
        notes.warnings.append(
            f"{_judgments(dataset)}: {_these(textless, 'judged query', 'is', 'are')} not among the queries: "
            f"such a query counts as 0 unless a run has results for it{lines}"
        )
    notes.unjudged.update(unjudged)
    if unjudged:
        places = ", ".join(filter(None, (where[query] for query in unjudged[:_SHOWN])))
        notes.warnings.append(
            f"{_judgments(dataset)}: {_these(unjudged, 'query', 'has', 'have')} no judgment; left out"
            + (f"; {places}" if places else "")
        )


def _query_places(notes: _Notes, dataset: Dataset) -> dict[str, str]:
    """Map ids of the dataset's queries to "file:line", or to "" if the queries are vectors."""
    source = dataset.query_source
    if holds_vectors(source):
        return {query: "" for batch in read_vectors(source) for query in batch.ids}
    corpus = open_corpus(source, queries=True, skip_bad=True)
    places = {query.id: query.where for query in corpus}
    problems = DataErrors()
    for message in corpus.bad:
        problems.add(DataError(message))
    notes.errors += problems.lines()
    return places


def _check_documents(notes: _Notes, dataset: Dataset, given: Iterable[str] | None) -> None:
    relevant = {doc for judged in dataset.qrels.values() for doc, grade in judged.items() if grade > 0}
    judged = {doc for judged in dataset.qrels.values() for doc in judged}
    missing = set(judged)
    if given is None:
        if not dataset.source or not Path(dataset.source).exists():
            return
        given = _document_ids(dataset)
    try:
        for doc in given:
            missing.discard(doc)
            if not missing:
                break
    except DataError as error:
        notes.warnings.append(f"the documents were not checked: {error}")
        return
    notes.counts |= {"judged_documents": len(judged), "judged_documents_missing": len(missing)}
    if len(missing) == len(judged):
        notes.errors.append(
            f"{_judgments(dataset)}: none of the judged documents exists; are these the right documents? The "
            f"judged documents are {_some(sorted(judged))}"
        )
    elif missing:
        lines = _lines(qrels_rows, dataset.qrels_path, 1, sorted(missing))
        these, verb = _these(sorted(missing), "judged document"), "is" if len(missing) == 1 else "are"
        notes.warnings.append(
            f"{_judgments(dataset)}: {these}, {len(missing & relevant):,} of them relevant, {verb} not among the "
            f"documents, so they can't be found{lines}"
        )


def _document_ids(dataset: Dataset) -> Iterator[str]:
    if holds_vectors(dataset.source):
        for batch in read_vectors(dataset.source):
            yield from batch.ids
    else:
        yield from (document.id for document in open_corpus(dataset.source, skip_bad=True))


def _check_results(notes: _Notes, run: Run, path: Path | None, dataset: Dataset, depth: int | None) -> None:
    qrels, name = dataset.qrels, str(path or "the run")
    longest = max(map(len, run.values()), default=0)
    unjudged = [query for query in run if query not in qrels]
    missing = [query for query in qrels if not run.get(query)]
    own = sum(dataset.drops(query, doc) for query, hits in run.items() for doc in hits) if dataset.most_dropped else 0
    notes.counts |= {
        "run_queries": len(run),
        "run_depth": longest,
        "run_queries_not_judged": len(unjudged),
        "judged_queries_without_results": len(missing),
        "own_documents": own,
    }
    if not longest:
        notes.errors.append(f"{name}: it has no hits")
        return
    if len(unjudged) == len(run):
        notes.errors.append(
            f"{name}: none of its queries is judged in {_judgments(dataset)}; its queries are {_some(run)}; the "
            f"judged queries are {_some(qrels)}"
        )
        return
    if fresh := [query for query in unjudged if query not in notes.unjudged]:
        notes.unjudged.update(fresh)
        lines = _lines(run_rows, path, 0, fresh)
        notes.warnings.append(f"{name}: {_these(fresh, 'query', 'is', 'are')} not judged; left out{lines}")
    if missing:
        notes.warnings.append(
            f"{name}: {_these(missing, 'judged query', 'has', 'have')} no results; such a query counts as 0"
        )
    if not any(doc in qrels[query] for query, hits in run.items() if query in qrels for doc in hits):
        notes.warnings.append(
            f"{name}: none of its hits is judged; do run and judgments use the same document ids? Its hits are "
            f"{_some(next(hits for hits in run.values() if hits))}; the judged documents are "
            f"{_some(next(iter(qrels.values())))}"
        )
    look = depth or longest
    tied = tied_queries({query: hits for query, hits in run.items() if query in qrels}, look + 1)
    notes.counts["tied_queries"] = len(tied)
    if tied:
        notes.warnings.append(
            f"{name}: {_these(tied, 'query', 'has', 'have')} equal scores among their first {look + 1:,} hits; "
            "here they stay in the order of the run, but trec_eval orders them by id"
        )
    if own:
        notes.warnings.append(f"{name}: {counted(own, 'hit')} left out: the query's own document")
    if depth is not None and longest < depth:
        notes.warnings.append(
            f"{name}: the measures look at {depth:,} hits, but no query has more than {longest:,}; documents further "
            "down count as not found"
        )


def _judgments(dataset: Dataset) -> str:
    return str(dataset.qrels_path or dataset.name)


def _these(names: Collection[str], what: str, one: str = "", several: str = "") -> str:
    """Return a count of things with some of their names, and a verb in the singular or plural."""
    verb = one if len(names) == 1 else several
    return f"{counted(len(names), what)} ({_some(names)}){verb and ' ' + verb}"


def _some(names: Iterable[str]) -> str:
    first = list(islice(names, _SHOWN + 1))
    return ", ".join(first[:_SHOWN]) + (", …" if len(first) > _SHOWN else "")


def _lines(rows: Callable[[Path], Iterator[Any]], path: Path | None, column: int, names: Collection[str]) -> str:
    """Return the "file:line" of the first few ids; empty if there is no file."""
    if path is None:
        return ""
    shown = set(islice(names, _SHOWN))
    where: dict[str, str] = {}
    for row in rows(path):
        if not isinstance(row, DataError) and row[column] in shown:
            where.setdefault(row[column], row[3])
            if len(where) == len(shown):
                break
    return f"; {', '.join(where.values())}" if where else ""
