"""Compare BM25 on texts in two languages: with one language for all, with known and with detected languages.

    python benchmarks/languages.py --data FOLDER

FOLDER holds XQuAD's files, such as xquad.en.json.

XQuAD (Artetxe, Ruder & Yogatama 2020) has the same 240 paragraphs and 1,190 questions in 12 languages, translated by
people. Each collection here has the paragraphs in two languages. A question's relevant paragraph is the version in
the question's language.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from machine import keep

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.languages import MixedAnalyzer
from lsr.eval.significance import compare

PAIRS = ("en de", "en es", "en ru", "en ar", "en hi", "en tr", "en zh", "de tr")


class Known(MixedAnalyzer):
    """Analyze texts in known languages; a question is analyzed in its own language only."""

    language_by_text: dict[str, str]

    def language_of(self, text):
        return self.language_by_text[text]

    def query(self, text, among=None):
        return self._analyzers[self.language_by_text[text]].query(text)


def read(folder, code):
    """Return paragraphs, and [(question, number of its paragraph)]."""
    paragraphs, questions = [], []
    for article in json.loads((folder / f"xquad.{code}.json").read_text(encoding="utf-8"))["data"]:
        for one in article["paragraphs"]:
            questions += [(asked["question"], len(paragraphs)) for asked in one["qas"]]
            paragraphs.append(one["context"])
    return paragraphs, questions


def ndcg(encoder, paragraphs, questions):
    """Return nDCG@10 of each question, (n,); paragraphs with equal scores get their mean rank."""
    encoder.fit(paragraphs)
    documents, asked = encoder.encode_document(paragraphs), encoder.encode_query([text for text, _ in questions])
    dense = np.zeros((len(paragraphs), encoder.n_terms), np.float32)
    for doc in range(len(paragraphs)):
        terms, weights = documents.row(doc)
        dense[doc, terms] = weights
    found = np.zeros(len(questions))
    for i, (_, right) in enumerate(questions):
        terms, weights = asked.row(i)
        scores = dense[:, terms] @ weights
        rank = 1 + (scores > scores[right]).sum() + ((scores == scores[right]).sum() - 1) / 2
        found[i] = 1 / np.log2(rank + 1) if scores[right] > 0 and rank <= 10 else 0
    return found


def compared(folder, codes):
    """Return {method: nDCG@10 of each question} on the collection in some languages."""
    paragraphs, questions, language_by_text = [], [], {}
    for code in codes:
        texts, asked = read(folder, code)
        questions += [(text, right + len(paragraphs)) for text, right in asked]
        paragraphs += texts
        language_by_text |= dict.fromkeys([*texts, *(text for text, _ in asked)], code)
    names = ",".join(codes)
    by_hand = BM25Encoder(language=names)
    by_hand.analyzer = Known(names)
    spoken = dict(zip(codes, by_hand.analyzer.language.split(","), strict=True))
    by_hand.analyzer.language_by_text = {text: spoken[code] for text, code in language_by_text.items()}
    encoders = {code: BM25Encoder(language=code) for code in codes}
    encoders |= {"by hand": by_hand, names: BM25Encoder(language=names), "auto": BM25Encoder(language="auto")}
    return {how: ndcg(encoder, paragraphs, questions) for how, encoder in encoders.items()}


def main() -> None:
    """Print a row for each pair of languages, and store all rows in results/languages.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of XQuAD's files")
    folder = parser.parse_args().data
    rows = {}
    for pair in PAIRS:
        found = compared(folder, pair.split())
        values = [dict(enumerate(found[how].tolist())) for how in ("auto", "by hand")]
        told = compare(*({str(n): value for n, value in one.items()} for one in values))
        means = [float(one.mean()) for one in found.values()]
        rows[pair] = {"means": means, "difference": told.difference, "low": told.low, "high": told.high, "p": told.p}
        print(pair, json.dumps(rows[pair]), flush=True)
    keep("languages", {"pairs": rows})


if __name__ == "__main__":
    main()
