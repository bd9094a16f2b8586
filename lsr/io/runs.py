"""Queries, judgments (qrels) and runs in plain dictionaries, read and written in the usual formats.

    Qrels   {query_id: {doc_id: grade}}
    Run     {query_id: {doc_id: score}}

Qrels are BEIR's TSV (header `query-id corpus-id score`) or TREC's four columns, runs are TREC's six columns. Both can
also be JSON, `{query_id: {doc_id: number}}`, or tables: Parquet, CSV, JSONL. One error lists all bad lines of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lsr.errors import DataError, DataErrors
from lsr.io.document import short
from lsr.io.ir_datasets import ir_items, load_ir_dataset
from lsr.io.text_files import file_kind, open_bytes, read_json, read_lines, read_rows

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]

_QRELS_SUFFIXES = (
    *(".tsv", ".txt", ".csv", ".parquet", ".jsonl", ".json"),
    *(".tsv.gz", ".txt.gz", ".csv.gz", ".jsonl.gz", ".json.gz"),
)
_QRELS_FORM = "query, document, grade (or TREC's four columns)"
MAX_GRADE = 10_000  # trec_eval's time and memory grow with the highest grade
_MOST = 1e38  # largest score that is written; float32 ends at 3.4e38
# Usual names of the columns.
_QUERY_KEYS = ("query-id", "query_id", "qid", "q_id", "topic", "query")
_DOC_KEYS = ("corpus-id", "corpus_id", "doc_id", "docid", "docno", "pid", "cid", "_id")
_QRELS_KEYS = (_QUERY_KEYS, _DOC_KEYS, ("score", "relevance", "rel", "grade", "label"))
_RUN_KEYS = (_QUERY_KEYS, _DOC_KEYS, ("score",))
_ITERATION = ("iteration", "iter")  # a column of TREC's qrels that is ignored


def read_qrels(path: Path) -> Qrels:
    """Read judgments of any of the formats above.

    Raises:
        DataError: Lines are invalid, or a pair has two different grades; the message lists these with file and line.
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
        if problem := grade_problem(grade):
            problems.add(DataError(problem, where))
        elif qrels.setdefault(query, {}).setdefault(doc, grade) != grade:
            problems.add(DataError(f"query {query!r} and document {doc!r} are judged twice, differently", where))
    return qrels


def grade_problem(grade: int) -> str | None:
    """Why a grade can't be used, or None."""
    if -MAX_GRADE <= grade <= MAX_GRADE:
        return None
    return f"the grade {short(grade)} is out of range: -{MAX_GRADE:,} to {MAX_GRADE:,}"


def qrels_rows(path: Path) -> Iterator[tuple[str, str, int, str] | DataError]:
    """Yield query, document, grade and "file:line" of each judgment of a file; a bad line yields an error.

    Raises:
        DataError: The file can't be read.
    """
    for row in _table_rows(path, _QRELS_KEYS) if _is_table(path) else _qrels_lines(path):
        if isinstance(row, DataError):
            yield row
            continue
        query, doc, written, where = row
        grade: int | None = None
        with suppress(ValueError, TypeError, OverflowError):
            number = float(written)
            grade = int(number) if abs(number) < 2**53 else int(written)
        if grade is None or grade != number:
            yield DataError(f"the grade {short(written)} is not a whole number", where)
        else:
            yield query, doc, grade, where


def _qrels_lines(path: Path) -> Iterator[tuple[str, str, Any, str] | DataError]:
    order = None  # order of the columns, if there is a header
    for line, where in read_lines(path):
        if isinstance(line, DataError):
            yield line
            continue
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        if (header := _header(fields)) is not None:
            order, n_columns = header, len(fields)
        elif order is not None and len(fields) == n_columns:
            fields = [fields[i] for i in order]
        elif len(fields) == 4:
            del fields[1]  # TREC's iteration
        if header is not None or _is_comment(line, len(fields) == 3 and _is_number(fields[2])):
            continue
        if len(fields) != 3:
            yield DataError(f"expected {_QRELS_FORM}", where)
        elif not fields[0] or not fields[1]:
            yield DataError("an id is empty", where)
        else:
            yield fields[0], fields[1], fields[2], where


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _header(fields: list[str]) -> list[int] | None:
    """Positions of the columns query, document and grade, if the line is a header; else None."""
    names = [field.lower() for field in fields]
    known = [next((i for i, name in enumerate(names) if name in keys), None) for keys in _QRELS_KEYS]
    there = [i for i in known if i is not None]
    others = {name for i, name in enumerate(names) if i not in there} - set(_ITERATION)
    return there if len(set(there)) == 3 and not others else None


def _is_comment(line: str, whole: bool) -> bool:
    """Whether a line is a comment. A line with all columns is a comment only if a space follows the #."""
    return line.startswith("#") and (not whole or line[1:2].isspace())


def _is_table(path: Path) -> bool:
    """Whether a file is JSON or a table, not lines in the format of TREC or BEIR."""
    with suppress(DataError):
        return file_kind(path) != "tsv"
    return False


def _nested(path: Path) -> dict[str, dict[str, Any]] | None:
    """The content of a file with one JSON object {query: {document: number}}; else None."""
    if file_kind(path) != "jsonl":
        return None
    first: Any = None
    with suppress(DataError):  # a line over the limit for documents
        first, _ = next(iter(read_json(path)), ({}, ""))
    if isinstance(first, Mapping) and not _is_nested(first):
        return None
    with suppress(DataError, ValueError, RecursionError), open_bytes(path) as file:
        values = json.loads(file.read().decode("utf-8-sig"))
        return values if _is_nested(values) else None
    return None


def _is_nested(values: Any) -> bool:
    return isinstance(values, dict) and bool(values) and all(isinstance(found, dict) for found in values.values())


def _table_rows(path: Path, keys: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, str, Any, str] | DataError]:
    """Yield query, document, number and "file:line" of each row of a table, or of {query: {document: number}}."""
    if (nested := _nested(path)) is not None:
        for query, found in nested.items():
            for doc, number in found.items():
                yield query, doc, number, f"{path}: query {query!r}"
        return
    for row, where in read_rows(path):
        if isinstance(row, DataError):
            yield row
            continue
        values = [next((row[key] for key in names if row.get(key) is not None), None) for names in keys]
        if None in values:
            yield DataError(f"expected the columns {', '.join(names[0] for names in keys)}", where)
        elif values[0] == "" or values[1] == "":
            yield DataError("an id is empty", where)
        else:
            yield str(values[0]), str(values[1]), values[2], where


def open_qrels(name: str, split: str) -> tuple[Qrels, str]:
    """The judgments of a dataset, and the name under which `lsr.io.corpus.open_corpus` opens its texts.

    Args:
        name: A BEIR folder, or an ir-datasets name with or without "irds:" before it.
        split: For a folder, the name of the file in qrels/. For an ir-datasets name without judgments, the suffix that
            names a dataset with judgments: "test" adds "/test".

    Raises:
        DataError: There is no such dataset or split, or it has no judgments.
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
        raise DataError(f"the split {split!r} has no judgments", name)
    return qrels, source


def qrels_file(folder: Path, split: str) -> Path:
    """The file with a split's judgments in a BEIR folder.

    Raises:
        DataError: There is no such file; the message lists the splits that exist.
    """
    files = sorted(path for path in (folder / "qrels").glob("*.*") if path.is_file())
    found = [(suffix, path) for suffix in _QRELS_SUFFIXES for path in files if path.name.lower().endswith(suffix)]
    splits = [(path.name[: -len(suffix)], path) for suffix, path in found]
    path = next((path for name, path in splits if name == split), None)
    if path is None:
        there = sorted({name for name, _ in splits}) or ["none"]
        raise DataError(f"no judgments for the split {split!r}; there are: {', '.join(there)}", str(folder / "qrels"))
    return path


def read_run(path: Path, problems: DataErrors | None = None) -> Run:
    """Read a run: TREC's six columns, JSON, or a table, as described at the top of this module.

    Args:
        path: The file.
        problems: If given, bad lines are added to it and left out of the run; otherwise they raise an error.

    Raises:
        DataError: Lines are invalid, or a document occurs twice for a query; the message lists these with file and
            line.
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
    """Yield query, document, score and "file:line" of each line of a run; a bad line yields an error.

    Raises:
        DataError: The file can't be read.
    """
    if _is_table(path):
        for row in _table_rows(path, _RUN_KEYS):
            try:
                if isinstance(row, DataError):
                    raise row
                query, doc, score, where = row
                yield query, doc, _score(score, where), where
            except DataError as error:
                yield error
        return
    for line, where in read_lines(path):
        try:
            if isinstance(line, DataError):
                raise line
            if not _is_comment(line, len(line.split()) == 6):
                yield (*parse_run_line(line, where), where)
        except DataError as error:
            yield error


def parse_run_line(line: str, where: str) -> tuple[str, str, float]:
    """Query, document and score of a line of a TREC run.

    Raises:
        DataError: The line is invalid, or the score isn't finite.
    """
    fields = line.split()
    if len(fields) != 6:
        why = "; a tag is one word" if len(fields) > 6 else ""
        raise DataError(f"expected TREC's six columns: query Q0 document rank score tag{why}", where)
    return fields[0], fields[2], _score(fields[4], where)


def _score(written: Any, where: str) -> float:
    try:
        score = float(written)
    except (ValueError, TypeError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"the score {short(written)} is not a number", where)
    return score


def run_lines(query_id: str, hits: Iterable[tuple[str, float]], tag: str, *, keep_ties: bool = False) -> Iterator[str]:
    """The lines of a TREC run for one query, highest score first.

    trec_eval reads scores as float32 and sorts equal scores by id. To keep the order of the hits, a score that isn't
    lower than the previous one is written as the next lower float32.

    Args:
        query_id: The query.
        hits: Documents and scores; equal scores keep their order.
        tag: The last column.
        keep_ties: Write equal scores unchanged, for files that only lsr reads.

    Raises:
        DataError: An id or the tag has white space, which the format can't hold.
    """
    ranked = sorted(hits, key=itemgetter(1), reverse=True)
    for what, name in (("tag", tag), ("id", query_id), *(("id", doc_id) for doc_id, _ in ranked)):
        if not name or name.split() != [name]:
            raise DataError(f"the {what} {name!r} has white space, which a TREC run can't hold")
    before = np.float32(np.inf)
    for rank, (doc_id, score) in enumerate(ranked, start=1):
        read = as_float32(score)
        if abs(score) > _MOST:
            score = float(read)
        if read >= before and not keep_ties:
            score = read = np.nextafter(before, np.float32(-np.inf))
        before = read
        yield f"{query_id} Q0 {doc_id} {rank} {score:.9g} {tag}"


def as_float32(score: float) -> np.float32:
    """A score as float32, limited so that lower values can follow it."""
    return np.float32(min(max(float(f"{score:.9g}"), -_MOST), _MOST))


def as_run(results: Mapping[str, Iterable[tuple[str, float]]]) -> Run:
    """A run from ranked (document, score) pairs."""
    return {query: dict(hits) for query, hits in results.items()}
