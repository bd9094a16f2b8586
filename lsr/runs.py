"""Topics, qrels and runs: what evaluation is made of, as plain containers, read and written in the field's formats.

    Qrels   {query_id: {doc_id: grade}}
    Run     {query_id: {doc_id: score}}

Qrels come as BEIR's TSV (header `query-id corpus-id score`) or TREC's four columns, runs as TREC's six.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from lsr.corpus import load_ir_dataset, read_lines
from lsr.errors import DataError

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def read_qrels(path: Path) -> Qrels:
    """Read judgments.

    Raises:
        DataError: A line of another form, or two different grades for one pair; with file and line.
    """
    qrels: Qrels = {}
    for line, where in read_lines(path):
        if isinstance(line, DataError):
            raise line
        fields = line.split("\t") if "\t" in line else line.split()
        if fields[0].strip() in ("query-id", "query_id"):
            continue
        if len(fields) == 4:
            del fields[1]  # TREC's iteration, which nobody uses
        if len(fields) != 3:
            raise DataError("expected query, document, grade (or TREC's four columns)", where)
        query, doc, grade = (field.strip() for field in fields)
        try:
            value = int(grade)
        except ValueError:
            raise DataError(f"the grade {grade!r} is not a whole number", where) from None
        if qrels.setdefault(query, {}).setdefault(doc, value) != value:
            raise DataError(f"query {query!r} and document {doc!r} are judged twice, differently", where)
    return qrels


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
        qrels = {}
        for judgment in dataset.qrels_iter():
            qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
    if not qrels:
        raise DataError(f"the split {split!r} holds no judgment", name)
    return qrels, source


def qrels_file(folder: Path, split: str) -> Path:
    """The file of a BEIR folder that holds a split's judgments.

    Raises:
        DataError: There is none; the message lists those that are there.
    """
    names = (f"{split}.tsv", f"{split}.txt")
    path = next((p for p in (folder / "qrels" / name for name in names) if p.is_file()), None)
    if path is None:
        there = sorted(p.stem for p in (folder / "qrels").glob("*.t*")) or ["none"]
        raise DataError(f"no judgments for the split {split!r}; there are: {', '.join(there)}", str(folder / "qrels"))
    return path


def read_run(path: Path) -> Run:
    """Read a TREC run: query, Q0, document, rank, score, tag.

    Raises:
        DataError: A line of another form or a document twice for a query; with file and line.
    """
    run: Run = {}
    for line, where in read_lines(path):
        if isinstance(line, DataError):
            raise line
        query, doc, score = parse_run_line(line, where)
        if doc in run.setdefault(query, {}):
            raise DataError(f"document {doc!r} occurs twice for query {query!r}", where)
        run[query][doc] = score
    return run


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
