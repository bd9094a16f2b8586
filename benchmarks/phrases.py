"""Find answers within a passage: compare a trained phrase reader with the sentence that BM25 finds.

    NUMBA_NUM_THREADS=1 python benchmarks/phrases.py --answers FOLDER

FOLDER holds the published files of SQuADShifts (new_wiki_v1.0.json, reddit_v1.0.json, amazon_reviews_v1.0.json). The
reader is trained on the questions of 150 paragraphs per file, and tested on the questions of 40 other paragraphs. It
gets each question with its paragraph.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr import load_encoder
from lsr.console import note, table
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.phrases import Asked, PhraseReader

FILES = ("new_wiki", "reddit", "amazon_reviews")
_TRAINED, _TESTED = 150, 40  # paragraphs per file


def paragraphs(path: Path) -> list[list[tuple[Asked, list[str]]]]:
    """Return questions by paragraph, each with the position of its first answer and the texts of all its answers."""
    found = []
    for article in json.loads(path.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            text, own = paragraph["context"], []
            for question in paragraph["qas"]:
                answers = question["answers"]
                start = answers[0]["answer_start"]
                asked = Asked(question["question"], text, start, start + len(answers[0]["text"]))
                own.append((asked, [one["text"] for one in answers]))
            found.append(own)
    return found


def sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?]+[\s\"')]*", text)]
    starts = [0, *ends]
    return [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True) if text[start:end].strip()]


def words(text: str) -> list[str]:
    """Return lower-case words without articles and punctuation, as SQuAD's measures do."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


def f1(found: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall of the words."""
    one, other = Counter(words(found)), Counter(words(answer))
    same = sum((one & other).values())
    return 2 * same / (sum(one.values()) + sum(other.values())) if same else 0.0


def compared(answers: Path) -> tuple[int, list[dict[str, Any]]]:
    """Train and test the reader; return the number of training questions, and the means of each file and of all."""
    train, test = [], []
    for name in FILES:
        every = paragraphs(answers / f"{name}_v1.0.json")
        chosen = [every[i] for i in np.random.default_rng(0).permutation(len(every))[: _TRAINED + _TESTED]]
        train += [asked for one in chosen[:_TRAINED] for asked, _ in one]
        test += [(name, *question) for one in chosen[_TRAINED:] for question in one]
    note(f"{len(train)} questions to train, {len(test)} to test")
    reader = PhraseReader.fit(load_encoder("lsr-mini"), train)
    lexical = BM25Encoder()
    lexical.fit([asked.passage[start:end] for _, asked, _ in test for start, end in sentences(asked.passage)])
    rows: list[dict[str, Any]] = []
    for name, asked, right_ones in test:
        parts = sentences(asked.passage)
        right = next(i for i, (_, end) in enumerate(parts) if asked.start < end or i == len(parts) - 1)
        scores = lexical.encode_query([asked.question]).dot(
            lexical.encode_document([asked.passage[start:end] for start, end in parts])
        )[0]
        (answer,) = reader.answers(asked.question, [asked.passage])
        mine = next(i for i, (_, end) in enumerate(parts) if answer.start < end or i == len(parts) - 1)
        row = {"set": name, "bm25": int(np.argmax(scores)) == right, "reader": mine == right, "sentences": len(parts)}
        row["exact"] = max(words(answer.text) == words(one) for one in right_ones)
        row["f1"] = max(f1(answer.text, one) for one in right_ones)
        rows.append(row)
    means = [
        {"set": name, "questions": len(own)}
        | {key: float(np.mean([row[key] for row in own])) for key in ("sentences", "bm25", "reader", "exact", "f1")}
        for name in (*FILES, "all")
        if (own := [row for row in rows if name in (row["set"], "all")])
    ]
    return len(train), means


def main() -> None:
    """Train, compare, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, required=True)
    trained, means = compared(parser.parse_args().answers)
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [
        (
            m["set"],
            str(m["questions"]),
            f"{m['sentences']:.1f}",
            *(f"{m[key]:.3f}" for key in ("bm25", "reader", "exact", "f1")),
        )
        for m in means
    ]
    header = ["set", "questions", "sentences", "BM25's sentence", "reader's sentence", "exact match", "F1"]
    print(table(lines, header, "<>>>>>>"))
    keep("phrases", {"trained": trained, "rows": means})


if __name__ == "__main__":
    main()
