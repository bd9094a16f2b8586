"""Topics, qrels and runs: what evaluation is made of, as plain containers, read and written in the field's formats.

    Qrels   {query_id: {doc_id: grade}}
    Run     {query_id: {doc_id: score}}

Qrels come as BEIR's TSV (header `query-id corpus-id score`), the same in Parquet, or TREC's four columns, and runs as
TREC's six. The bad lines of a file are told all at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lsr.corpus import ir_items, load_ir_dataset, read_lines, read_rows
from lsr.errors import DataError, DataErrors

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]

_QRELS_SUFFIXES = (".tsv", ".txt", ".parquet")
_QRELS_FORM = "query, document, grade (or TREC's four columns)"
# Columns of Parquet files, as they are called in the wild.
_QRELS_KEYS = (
    ("query-id", "query_id", "qid"),
    ("corpus-id", "corpus_id", "doc_id", "docid", "pid"),
    ("score", "relevance", "grade"),
)


def read_qrels(path: Path) -> Qrels:
    """Read judgments: BEIR's TSV, TREC's four columns, or Parquet with BEIR's columns.

    Raises:
        DataError: Lines of another form, or two different grades for one pair: all of them, with file and line.
    """
    problems = DataErrors()
    qrels = _gather_qrels(qrels_rows(path), problems)
    problems.settle(str(path), "bad lines")
    return qrels


def _gather_qrels(rows: Iterable[tuple[str, str, int, str] | DataError], problems: DataErrors) -> Qrels:
    qrels: Qrels = {}
    for row in rows:
        if isinstance(row, DataError):
            problems.add(row)
            continue
        query, doc, grade, where = row
        if qrels.setdefault(query, {}).setdefault(doc, grade) != grade:
            problems.add(DataError(f"query {query!r} and document {doc!r} are judged twice, differently", where))
    return qrels


def qrels_rows(path: Path) -> Iterator[tuple[str, str, int, str] | DataError]:
    """Query, document, grade and "file:line" of each judgment of a file; a bad line comes as an error in its place.

    Raises:
        DataError: The file can't be read.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    for line, where in read_rows(path) if is_parquet else read_lines(path):
        if isinstance(line, DataError):
            yield line
            continue
        if isinstance(line, str):
            fields: list[Any] = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
            if fields[0] in ("query-id", "query_id"):
                continue
            if len(fields) == 4:
                del fields[1]  # TREC's iteration, which nobody uses
        else:
            found = [next((line[key] for key in keys if key in line), None) for keys in _QRELS_KEYS]
            fields = [value for value in found if value is not None]
        if len(fields) != 3:
            wanted = f"the columns {', '.join(keys[0] for keys in _QRELS_KEYS)}" if is_parquet else _QRELS_FORM
            yield DataError(f"expected {wanted}", where)
            continue
        query, doc = map(str, fields[:2])
        grade: int | None = None
        with suppress(ValueError, TypeError, OverflowError):
            grade = int(fields[2])
        if grade is None or (isinstance(fields[2], float) and grade != fields[2]):
            yield DataError(f"the grade {fields[2]!r} is not a whole number", where)
        elif not query or not doc:
            yield DataError("an id is empty", where)
        else:
            yield query, doc, grade, where


def open_qrels(name: str, split: str) -> tuple[Qrels, str]:
    """The judgments of a dataset, and what `lsr.corpus.open_corpus` opens for its texts.

    Args:
        name: A BEIR folder, or an ir-datasets name with or without "irds:" before it.
        split: Of a folder, the name of the file in qrels/; of a dataset whose own name has no judgments, the last
            part of the name.

    Raises:
        DataError: No such dataset, split or judgments.
    """
    folder = Path(name)
    if folder.is_dir():
        path = qrels_file(folder, split)
        qrels, source = read_qrels(path), name
    else:
        source = name
        dataset = load_ir_dataset(name)
        if not dataset.has_qrels():
            source = f"{name}/{split}"
            dataset = load_ir_dataset(source)
        if not (dataset.has_qrels() and dataset.has_queries()):
            raise DataError("this dataset has no judged queries", name)
        problems = DataErrors()
        judgments = enumerate(ir_items(source, dataset.qrels_iter), start=1)
        rows = ((j.query_id, j.doc_id, int(j.relevance), f"{source}:{number}") for number, j in judgments)
        qrels = _gather_qrels(rows, problems)
        problems.settle(source, "bad judgments")
    if not qrels:
        raise DataError(f"the split {split!r} holds no judgment", name)
    return qrels, source


def qrels_file(folder: Path, split: str) -> Path:
    """The file of a BEIR folder that holds a split's judgments.

    Raises:
        DataError: There is none; the message lists those that are there.
    """
    names = [split + suffix for suffix in _QRELS_SUFFIXES]
    path = next((p for p in (folder / "qrels" / name for name in names) if p.is_file()), None)
    if path is None:
        files = [p for p in (folder / "qrels").glob("*.*") if p.suffix in _QRELS_SUFFIXES]
        there = sorted({p.stem for p in files}) or ["none"]
        raise DataError(f"no judgments for the split {split!r}; there are: {', '.join(there)}", str(folder / "qrels"))
    return path


def read_run(path: Path, problems: DataErrors | None = None) -> Run:
    """Read a TREC run: query, Q0, document, rank, score, tag.

    Args:
        path: The file.
        problems: Takes the bad lines, instead of their being raised; the run is then what is left.

    Raises:
        DataError: Lines of another form, or a document twice for a query: all of them, with file and line.
    """
    bad = DataErrors() if problems is None else problems
    run: Run = {}
    for row in run_rows(path):
        if isinstance(row, DataError):
            bad.add(row)
            continue
        query, doc, score, where = row
        if doc in run.setdefault(query, {}):
            bad.add(DataError(f"document {doc!r} occurs twice for query {query!r}", where))
        else:
            run[query][doc] = score
    if problems is None:
        bad.settle(str(path), "bad lines")
    return run


def run_rows(path: Path) -> Iterator[tuple[str, str, float, str] | DataError]:
    """Query, document, score and "file:line" of each line of a run; a bad line comes as an error in its place.

    Raises:
        DataError: The file can't be read.
    """
    for line, where in read_lines(path):
        try:
            if isinstance(line, DataError):
                raise line
            yield (*parse_run_line(line, where), where)
        except DataError as error:
            yield error


def parse_run_line(line: str, where: str) -> tuple[str, str, float]:
    """Query, document and score of a line of a TREC run.

    Raises:
        DataError: A line of another form, or a score that is not a finite number.
    """
    fields = line.split()
    if len(fields) != 6:
        raise DataError("expected TREC's six columns: query Q0 document rank score tag", where)
    try:
        score = float(fields[4])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"the score {fields[4]!r} is not a number", where)
    return fields[0], fields[2], score


def run_lines(query_id: str, hits: Iterable[tuple[str, float]], tag: str) -> Iterable[str]:
    """The lines of a TREC run for one query.

    Raises:
        DataError: An id with white space, which the format can't hold.
    """
    for rank, (doc_id, score) in enumerate(hits, start=1):
        for name in (query_id, doc_id):
            if not name or name.split() != [name]:
                raise DataError(f"the id {name!r} has white space, which a TREC run can't hold")
        yield f"{query_id} Q0 {doc_id} {rank} {score:.9g} {tag}"


def as_run(results: Mapping[str, Iterable[tuple[str, float]]]) -> Run:
    """A run from ranked (document, score) pairs."""
    return {query: dict(hits) for query, hits in results.items()}
