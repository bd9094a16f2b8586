"""Measure BM25's analyzer and weights on judged collections, on developers' questions and in eleven scripts.

    python benchmarks/bm25.py --data FOLDER [--setting stop_words=drop] [--setting pivot=50]

FOLDER holds collections in BEIR layout. Three tables:

    judged     nDCG@10 on the judged collections, and on docs-open with the questions of questions.tsv; in these
               questions, function words such as "not" often matter
    scripts    for each script, 200 random words are searched for; the table counts searches that find a passage with
               the word among the first ten. Texts are translated messages of programs installed on this machine
               (/usr/share/locale). In scripts without spaces, words are runs of two to five characters.
    held out   nDCG@10 on collections that were not used to choose a constant, with the defaults and other settings
"""

from __future__ import annotations

import argparse
import gettext
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

from machine import conditions, keep
from quality import SETS

from lsr import Index, load_encoder
from lsr.console import table
from lsr.encode.analyzer import clusters, normalized
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import evaluate_run, search_run
from lsr.index.search.query_file import read_queries

MEASURE = "nDCG@10"
LOCALES = Path("/usr/share/locale")
LANGUAGES = {
    "hi": "Hindi", "ar": "Arabic", "he": "Hebrew", "zh_CN": "Chinese", "ja": "Japanese", "ko": "Korean", "th": "Thai",
    "ru": "Russian", "el": "Greek", "bn": "Bengali", "ta": "Tamil",
}  # fmt: skip
WITHOUT_SPACES = ("zh_CN", "ja", "th")
# Collections and splits that were not used to choose BM25Encoder's constants or the analyzer's weights.
HELD_OUT = {"stackexchange-small": "train", "covid-qa": "train", "docs-business-central": "train", "squadshifts": "dev"}
OTHER_CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"stop_words": "drop"},
    {"stop_words": "lucene"},
    {"pivot": 15.0},
    {"pivot": 60.0},
    {"k1": 1.2, "b": 0.75},
)
PUNCTUATION = ".,;:!?()[]{}\"'«»“”„…،؛؟।॥-—–%<>=*/|`"
_WORDS, _PASSAGES, _SHORTEST = 200, 3000, 25


def judged(dataset: Dataset, settings: dict[str, Any], work: Path) -> float:
    """Measure nDCG@10 on a collection."""
    index = Index.build(work, dataset.corpus(), encoder=load_encoder("bm25", **settings), store_text=False)
    queries = read_queries(dataset.query_source, index).only(dataset.qrels)
    run = search_run(index, dataset, queries.ids, queries.encoded(index), 10)
    return evaluate_run(run, dataset, MEASURE).measures[MEASURE]


def held_out(data: Path, work: Path) -> list[dict[str, Any]]:
    """Measure nDCG@10 on the held-out collections, with the defaults and with other settings."""
    rows = []
    for choice in OTHER_CHOICES:
        said = ", ".join(f"{name}={value}" for name, value in choice.items()) or "default"
        row: dict[str, Any] = {"chosen": said}
        for name, split in HELD_OUT.items():
            if (data / name).is_dir():
                place = work / f"{name}-{len(rows)}"
                row[name] = judged(open_dataset(str(data / name), split), choice, place)
        rows.append(row)
    return rows


def questions(data: Path, work: Path) -> Dataset:
    """Return docs-open with the questions of questions.tsv."""
    lines = (Path(__file__).parent / "questions.tsv").read_text(encoding="utf-8").splitlines()
    asked = {f"q{i}": line.split("\t") for i, line in enumerate(lines)}
    path = work / "questions.jsonl"
    rows = [json.dumps({"_id": name, "text": text}) for name, (text, _) in asked.items()]
    path.write_text("\n".join(rows), encoding="utf-8")
    qrels = {name: dict.fromkeys(passages.split(), 1) for name, (_, passages) in asked.items()}
    return Dataset("questions", "all", str(data / "docs-open"), qrels, str(path))


def messages(language: str) -> list[str]:
    """Return messages of installed programs in a language."""
    found: dict[str, None] = {}
    for path in sorted((LOCALES / language / "LC_MESSAGES").glob("*.mo")):
        if path.name.startswith("iso_"):  # names of countries and languages, not sentences
            continue
        with path.open("rb") as file:
            catalog: dict[Any, str] = vars(gettext.GNUTranslations(file))["_catalog"]
        texts = [text for key, text in catalog.items() if key and len(text) >= _SHORTEST and not text.isascii()]
        found |= dict.fromkeys(texts)
    return random.Random(0).sample(list(found), min(_PASSAGES, len(found)))


def drawn(texts: list[str], language: str) -> list[str]:
    """Draw random words of a language, or runs of characters if its script has no spaces."""
    chance, words = random.Random(1), set[str]()
    while len(words) < _WORDS:
        text = normalized(chance.choice(texts))
        if language in WITHOUT_SPACES:
            runs = [run for run in re.findall("[\u0e01-\u0e4f]+|[\u3040-\u30ff\u3400-\u9fff]+", text) if len(run) > 1]
            letters = clusters(chance.choice(runs)) if runs else []
            first = chance.randrange(max(len(letters) - 1, 1))
            words.add("".join(letters[first : first + chance.randint(2, 5)]))
        else:
            pieces = [piece.strip(PUNCTUATION) for piece in text.split()]
            words |= {piece for piece in [chance.choice(pieces or [""])] if len(piece) > 1 and not piece.isascii()}
        words.discard("")
    return sorted(words)


def finds(language: str, settings: dict[str, Any], work: Path) -> tuple[int, int, int]:
    """Return the numbers of passages, of words, and of words that found a passage with the word."""
    texts = messages(language)
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(texts)]
    index = Index.build(work, rows, encoder=load_encoder("bm25", **settings))
    words = drawn(texts, language)
    found = 0
    for word, hits in zip(words, index.search_batch(words, 10), strict=True):
        wanted = normalized(word).casefold()
        found += any(wanted in normalized(hit.text).casefold() for hit in hits)
    return len(texts), len(words), found


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="setting of the encoder")
    args = parser.parse_args()
    given = dict(setting.split("=", 1) for setting in args.setting)
    settings: dict[str, Any] = {name: float(v) if v[:1].isdigit() else v for name, v in given.items()}
    rows, scripts, others = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in (*SETS, "docs-open"):
            if (args.data / name).is_dir():
                dataset = open_dataset(str(args.data / name)) if name in SETS else questions(args.data, Path(folder))
                rows.append((dataset.name, judged(dataset, settings, Path(folder) / name)))
        for language, name in LANGUAGES.items():
            if (LOCALES / language).is_dir():
                scripts.append((name, *finds(language, settings, Path(folder) / language)))
        if not settings:
            others = held_out(args.data, Path(folder))
    for key, value in conditions().items():
        print(f"{key}: {value}")
    print(f"\n{table([(Path(n).name, f'{v:.4f}') for n, v in rows], ('collection', MEASURE), '<>')}\n")
    print(table([tuple(map(str, row)) for row in scripts], ("script", "passages", "words", "found"), "<>>>"))
    if others:
        lines = [tuple(v if isinstance(v, str) else f"{v:.4f}" for v in row.values()) for row in others]
        print(f"\n{table(lines, tuple(others[0]), '<' + '>' * (len(others[0]) - 1))}")
    if not settings:
        kept = [{"collection": Path(name).name, MEASURE: value} for name, value in rows]
        keep(
            "bm25",
            {
                "rows": kept,
                "scripts": [dict(zip(("script", "passages", "words", "found"), r, strict=True)) for r in scripts],
                "held_out": others,
            },
        )


if __name__ == "__main__":
    main()
