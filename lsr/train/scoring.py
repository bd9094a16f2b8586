"""Add teachers' scores to mined candidates, line by line. Interrupted work can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lsr.console import progress
from lsr.durable import take_name
from lsr.errors import DataError
from lsr.io.text_files import file_identity, read_rows
from lsr.train.teachers import PairTeacher, Teacher

_TOGETHER = 8  # queries that are scored together


@dataclass(frozen=True)
class Mined:
    """A line of the input: the query, the ids of its documents (positives first), and the other values."""

    query: str
    ids: list[str]
    line: Mapping[str, Any]


def score_mined(
    source: Path,
    out: Path,
    teachers: Sequence[Teacher],
    made_by: str,
    text_of: Callable[[Sequence[str]], Sequence[str]],
) -> int:
    """Copy a file of mined candidates, with teachers' scores instead of the file's own scores.

    Args:
        source: Lines {"query_id", "query", "positive_ids", "negative_ids"}, .jsonl or .jsonl.gz.
        out: Output file, .jsonl; its name is OUT.partial until it is complete.
        teachers: The teachers, in the order of their scores.
        made_by: Everything that decides the scores, as text. Unfinished work is resumed only if this text is the same.
        text_of: Function from ids to their texts.

    Returns:
        Number of lines written by this call.

    Raises:
        DataError: A line has no query or no documents, an id is unknown, or the file has no lines.
    """
    partial, key_path = out.with_name(out.name + ".partial"), out.with_name(out.name + ".partial.json")
    key = json.dumps([file_identity(source), made_by])
    done = _whole_lines(partial) if key_path.is_file() and key_path.read_text(encoding="utf-8") == key else 0
    if not done:
        partial.unlink(missing_ok=True)
        key_path.write_text(key, encoding="utf-8")
    lines = islice(_read(source), done, None)
    written = 0
    bar = progress(None, "scoring", "queries", done=done)
    with partial.open("a", encoding="utf-8") as file:
        while some := list(islice(lines, _TOGETHER)):
            for mined, scores in zip(some, _scored(some, teachers, text_of), strict=True):
                file.write(json.dumps({**mined.line, "scores": scores}, ensure_ascii=False) + "\n")
            file.flush()
            written += len(some)
            bar.update(len(some))
    bar.close()
    if not done + written:
        partial.unlink()
        key_path.unlink()
        raise DataError("there are no mined candidates in it", str(source))
    take_name(partial, out)
    key_path.unlink()
    return written


def _scored(
    some: Sequence[Mined], teachers: Sequence[Teacher], text_of: Callable[[Sequence[str]], Sequence[str]]
) -> list[list[list[float]]]:
    """For each query and each teacher, the scores of the query's documents."""
    ids = list(dict.fromkeys(name for mined in some for name in mined.ids))
    text = dict(zip(ids, text_of(ids), strict=True))
    found: list[list[list[float]]] = [[] for _ in some]
    place = {name: i for i, name in enumerate(ids)}
    for teacher in teachers:
        if isinstance(teacher, PairTeacher):
            pairs = [(mined.query, text[name]) for mined in some for name in mined.ids]
            parts = np.split(teacher.pair_scores(pairs), np.cumsum([len(mined.ids) for mined in some])[:-1])
        else:
            every = teacher.scores([mined.query for mined in some], [text[name] for name in ids])
            parts = [every[row, [place[name] for name in mined.ids]] for row, mined in enumerate(some)]
        for row, scores in enumerate(parts):
            found[row].append([float(f"{score:.6g}") for score in scores.tolist()])
    return found


def _read(source: Path) -> Iterator[Mined]:
    for values, where in read_rows(source):
        if isinstance(values, DataError):
            raise values
        query, positives, negatives = (values.get(key) for key in ("query", "positive_ids", "negative_ids"))
        if not isinstance(query, str) or not isinstance(positives, list) or not positives:
            raise DataError(
                'expected {"query": ..., "positive_ids": [...], "negative_ids": [...]}, as lsr mine writes it', where
            )
        ids = [str(name) for name in [*positives, *(negatives if isinstance(negatives, list) else [])]]
        yield Mined(query, ids, {key: value for key, value in values.items() if key != "scores"})


def _whole_lines(path: Path) -> int:
    """The number of complete lines; an incomplete last line is removed."""
    if not path.is_file():
        return 0
    n = whole = 0
    with path.open("r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                n += 1
                whole += len(line)
        file.truncate(whole)
    return n
