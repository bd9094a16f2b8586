"""The recipe of the shipped encoders: data, teachers, training, 8-bit quantization, and the weight of BM25.

    python examples/shipped_models.py --data FOLDER --work FOLDER --sparse FOLDER --dense FOLDER [--model lsr-tiny]

The model is lsr-tiny, lsr-mini or splade-tiny. splade-tiny isn't trained, only converted to an 8-bit graph.

--data is a folder with a BEIR folder for each collection named in this file. All output is in --work: documents,
queries with candidates (`documents.jsonl.gz`, `train/`), caches, training runs and encoders. Finished steps are
skipped; if the command was interrupted, run it again.

    --sparse    rasyosef/splade-tiny: the initial weights of lsr-tiny, and a teacher
    --dense     Snowflake/snowflake-arctic-embed-xs: a teacher of both models, and the backbone of lsr-mini

lsr-tiny is a teacher of lsr-mini, so train it first.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lsr import Index, SparseMatrix, load_encoder
from lsr.config import read_config
from lsr.console import note, progress
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.onnx_export import compress
from lsr.eval.measures import parse_measures, score_run
from lsr.eval.training.cli import run_training
from lsr.io.corpus import open_corpus
from lsr.io.runs import read_qrels
from lsr.io.text_files import new_text
from lsr.train.settings import TrainSettings
from lsr.train.teachers import DenseTeacher, SparseTeacher

PRESETS = Path(__file__).parents[1] / "configs" / "train"
_CANDIDATES = 40  # candidates per query
_DEPTH = 48  # search depth of each of the three systems that find candidates
_LENGTH = 160  # tokens per text in training
_NEAR = 0.002  # smaller differences in nDCG@10 are noise on the held-out sets
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Collection:
    """The part of a collection that is used.

    Attributes:
        name: Folder of the collection.
        title: Whether a document's text includes its title; False if queries are titles or headings.
        limit: Number of documents to use, judged documents first; None for all.
        sentences: Whether sentences of the documents are also used as queries.
        share: Relative frequency of the queries in training; lower for collections with many similar queries.
        split: Split of the judgments.
    """

    name: str
    title: bool = False
    limit: int | None = None
    sentences: bool = True
    share: float = 1.0
    split: str = "train"


# Only collections whose licence permits publishing weights trained on them; the model card lists the licences.
COLLECTIONS = (
    Collection("squadshifts", title=True, share=0.5),
    Collection("nq-qed", title=True),
    Collection("boolq-passages", title=True),
    Collection("medquad", limit=9000),
    Collection("pubmedqa"),
    Collection("arxiv-abstracts", limit=12000),
    Collection("openstax", limit=18000),
    Collection("law-us", limit=3000, sentences=False),
    Collection("gov-guidance", limit=8000),
    Collection("docs-open", limit=14000),
    Collection("docs-microsoft", limit=12000),
    Collection("wikinews"),
    Collection("world-factbook", limit=1500),
    Collection("wordnet-glosses", limit=4000, sentences=False, share=0.3),
)
# Held out from training, to choose the weight of BM25. squadshifts is also in the training data, with other queries.
HELD_OUT = (
    Collection("stackexchange-small"),
    Collection("covid-qa", title=True),
    Collection("docs-business-central"),
    Collection("squadshifts", title=True, split="dev"),
)
SHARES = (0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5)
_SENTENCES = 0.4  # `share` of queries that are sentences of documents
_JUDGED = 0.85  # if there is a limit: largest share of judged documents


def read_collection(folder: Path, collection: Collection) -> tuple[dict[str, str], dict[str, tuple[str, list[str]]]]:
    """Return documents by id, and queries by id with their relevant documents."""
    prefix = f"{collection.name}/"
    found = open_corpus(folder)
    texts = {d.id: (d.content if collection.title else d.text).strip() for d in found}
    queries = {query.id: query.text for query in open_corpus(folder, queries=True)}
    qrels = read_qrels(folder / "qrels" / f"{collection.split}.tsv")
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
    """Draw a sentence from most documents, as a query for the document."""
    for key, text in documents.items():
        if rng.random() > 0.62:
            continue
        some = [s.strip() for s in _SENTENCE.split(text) if 5 <= len(s.split()) <= 30]
        if some:
            yield f"sentence/{key}", rng.choice(some), [key]


def prepare(data: Path, work: Path, dense: DenseTeacher, sparse: SparseTeacher) -> None:
    """Write documents, and queries with the candidates that BM25 and both teachers find."""
    if (work / "sources.json").is_file():
        return
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
    bm25 = BM25Encoder()
    bm25.fit(texts)
    lexical = Index.build(work / "bm25", bm25.encode_document(texts), overwrite=True)
    parts, vectors = [], []
    with progress(len(texts), "vectors") as bar:
        for i in range(0, len(texts), 1024):
            vectors.append(dense.vectors(texts[i : i + 1024]))
            parts.append(sparse.vectors(texts[i : i + 1024]).top_k(128))
            bar.update(len(vectors[-1]))
    learned = Index.build(work / "sparse", SparseMatrix.vstack(parts), overwrite=True)
    matrix = np.concatenate(vectors).T
    with new_text(work / "documents.jsonl.gz") as file:
        for key, text in documents.items():
            file.write(json.dumps({"_id": key, "text": text}) + "\n")
    counts = Counter(key.split("/")[0] for key, _, _ in queries)
    (work / "train").mkdir(exist_ok=True)
    with ExitStack() as stack:
        bar = stack.enter_context(progress(len(queries), "candidates", "queries"))
        files = {name: stack.enter_context(new_text(work / "train" / f"{name}.jsonl.gz")) for name in counts}
        for i in range(0, len(queries), 1024):
            some_queries = queries[i : i + 1024]
            words = [text for _, text, _ in some_queries]
            near = dense.vectors(words, queries=True) @ matrix
            best = np.argpartition(-near, _DEPTH, axis=1)[:, :_DEPTH]
            by_words = lexical.search_batch(bm25.encode_query(words), _DEPTH)
            by_terms = learned.search_batch(sparse.vectors(words, queries=True).top_k(16), _DEPTH)
            found = zip(some_queries, near, best, by_words, by_terms, strict=True)
            for (key, text, relevant), similar, top, *listed in found:
                low, high = similar[top].min(), similar[top].max()
                votes = Counter({int(p): 2 * (0.3 + 0.7 * float(similar[p] - low) / (high - low + 1e-6)) for p in top})
                for hits in listed:
                    votes.update({int(hit.id): 1 - place / _DEPTH for place, hit in enumerate(hits)})
                positives = {places[document] for document in relevant}
                others = [place for place, _ in votes.most_common() if place not in positives][:_CANDIDATES]
                row = {
                    "query_id": key,
                    "query": text,
                    "positive_ids": relevant,
                    "negative_ids": [keys[place] for place in others],
                }
                files[key.split("/")[0]].write(json.dumps(row) + "\n")
            bar.update(len(some_queries))
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


def share_of_bm25(encoder: InferenceFreeEncoder, data: Path, limit: int = 3000, n_queries: int = 400) -> float:
    """Choose BM25's weight: the smallest weight with nearly the best mean nDCG@10 over the held-out collections.

    Args:
        encoder: The learned encoder.
        data: Folder of BEIR folders.
        limit: Number of documents per collection, judged documents first.
        n_queries: Number of queries per collection.
    """
    found: dict[float, list[float]] = {share: [] for share in (0.0, *SHARES)}
    for collection in HELD_OUT:
        texts, pairs = read_collection(data / collection.name, replace(collection, limit=None))
        chosen = dict(random.Random(3).sample(sorted(pairs.items()), min(n_queries, len(pairs))))
        judged = {document for _, relevant in chosen.values() for document in relevant}
        others = [key for key in texts if key not in judged][: max(0, limit - len(judged))]
        kept = [*sorted(judged), *others]
        documents, queries = [texts[key] for key in kept], [text for text, _ in chosen.values()]
        bm25 = BM25Encoder()
        bm25.fit(documents)
        scores = [e.encode_document(documents).dot(e.encode_query(queries)) for e in (encoder, bm25)]
        qrels = {query: dict.fromkeys(relevant, 1) for query, (_, relevant) in chosen.items()}
        for share, values in found.items():
            run = {}
            for query, column in zip(chosen, (scores[0] + share * scores[1]).T, strict=True):
                top = np.argsort(-column, kind="stable")[:10]
                run[query] = {kept[place]: float(column[place]) for place in top if column[place] > 0}
            values.append(score_run(qrels, run, parse_measures("nDCG@10"))[0]["nDCG@10"])
        note(f"{collection.name}: " + ", ".join(f"{share:g}: {values[-1]:.3f}" for share, values in found.items()))
    means = {share: float(np.mean(values)) for share, values in found.items()}
    note("mean: " + ", ".join(f"{share:g}: {value:.4f}" for share, value in means.items()))
    return min(share for share in SHARES if means[share] >= max(means.values()) - _NEAR)


def main() -> None:
    """Train an encoder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BEIR folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for all output")
    parser.add_argument("--sparse", type=Path, required=True, help="splade-tiny")
    parser.add_argument("--dense", type=Path, required=True, help="arctic-embed-xs")
    parser.add_argument("--model", choices=("lsr-tiny", "lsr-mini", "splade-tiny"), default="lsr-tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    if given.model == "splade-tiny":
        compress(load_encoder(given.sparse, max_length=512), work / given.model)
        note(f"the encoder is in {work / given.model}")
        return
    if not (work / "teacher").is_dir():
        compress(load_encoder(given.sparse, max_length=_LENGTH), work / "teacher")
    dense = DenseTeacher(str(given.dense), max_length=_LENGTH, cache=work / "cache", device="cpu", half=True)
    sparse = SparseTeacher(load_encoder(work / "teacher"), cache=work / "cache")
    prepare(given.data, work, dense, sparse)
    tiny = work / "learned" / "lsr-tiny"  # the folder's name becomes the encoder's name
    places = [f"data.sources={(work / 'sources.json').read_text()}"]
    checkpoint, teacher = (given.sparse, work / "teacher") if given.model == "lsr-tiny" else (given.dense, tiny)
    if given.model == "lsr-mini":
        if not tiny.is_dir():
            parser.error(f"{tiny} doesn't exist: train lsr-tiny first")
        words = load_encoder(tiny)
        table = {token: float(w) for token, w in zip(words.vocabulary, words.table, strict=True) if w > 0}
        (work / "table.json").write_text(json.dumps(table))
        places.append(f"queries.weights={work / 'table.json'}")
    teachers = [{"encoder": "bm25"}, *[{"dense": str(given.dense)}] * 2, {"encoder": str(teacher)}]
    places += [
        f"model.checkpoint={checkpoint}",
        f"teachers={json.dumps(teachers)}",
    ]
    settings = read_config(PRESETS / f"{given.model}.yaml", TrainSettings, [*places, *given.overrides])
    run = work / f"{given.model}-run"
    run.mkdir(exist_ok=True)
    if not (run / "cache").exists():
        (run / "cache").symlink_to("../cache")  # the work folder's cache already has the teachers' scores
    trained = run_training(settings, run)
    (work / "learned").mkdir(exist_ok=True)
    if given.model == "lsr-mini":  # also adds the upper layers of the dense model, which shares the lower layers
        how = dense.settings
        compress(load_encoder(trained), work / "learned" / given.model, how.model, how.query_prompt)
    else:
        compress(load_encoder(trained), work / "learned" / given.model)
    learned = load_encoder(work / "learned" / given.model, max_length=512)
    share = share_of_bm25(learned, given.data)
    HybridEncoder(learned, BM25Encoder(), share).save(work / given.model)
    note(f"BM25's weight is {share:g}; the encoder is in {work / given.model}")


if __name__ == "__main__":
    main()
