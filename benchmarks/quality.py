"""Quality and latency on judged collections: shipped encoders, BM25 of lsr and of bm25s, and real SPLADE-v3 vectors.

    pip install bm25s                     # to compare with
    NUMBA_NUM_THREADS=1 python benchmarks/quality.py --data FOLDER [--sets scifact cranfield]
        [--encoder PATH] [--encoder "lsr-mini, hybrid"] [--encoder "lsr-mini, learned half"]

FOLDER holds collections in BEIR layout (scifact/, cranfield/) and nfcorpus-splade-v3/ (vectors as JSONL). All rows are
measured in this process, one query at a time on one thread, with the same data. Both BM25 implementations read title
and text with k1 = 0.9, b = 0.4, Lucene's idf and Snowball stems; each has its own list of English stop words.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr import Index, SparseMatrix, load_encoder, read_vectors
from lsr.console import table
from lsr.encode.hybrid import HybridEncoder
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import LATENCY_K, Evaluation, evaluate_index
from lsr.eval.latency import Latency, time_each
from lsr.eval.measures import DEFAULT_MEASURES, parse_measures, score_run
from lsr.eval.significance import bootstrap_interval, compare
from lsr.index.search.query_file import QuerySet, read_queries
from lsr.io.runs import read_qrels

SETS = ("scifact", "cranfield", "cacm", "climate-fever-evidence", "mtrag-clapnq-pool", "msmarco-dl19-pool")
SYSTEMS = ("lsr-mini, hybrid", "lsr-mini, query model", "lsr-mini", "lsr-tiny", "bm25")
PARTS = ("lsr-mini, dense", "lsr-mini, learned half", "lsr-mini, query model, learned half", "lsr-tiny, learned half")
QUERY_MODEL = "splade-tiny"
BASELINE = "lsr bm25"


@dataclass(frozen=True)
class Row:
    """A system on a collection.

    Attributes:
        collection: Name of the collection.
        system: "lsr" and the encoder with its options, or the rival's name.
        means: {measure: mean}.
        values: {query_id: nDCG@10}.
        latency: Latency of a search, k = 10, one thread.
    """

    collection: str
    system: str
    means: dict[str, float]
    values: dict[str, float]
    latency: Latency

    def to_json(self, baseline: Row | None) -> dict[str, Any]:
        """Return a JSON object, with 95 % bootstrap intervals of nDCG@10 and of its difference from the baseline."""
        found = {
            "collection": self.collection,
            "system": self.system,
            **self.means,
            "interval": [round(end, 4) for end in bootstrap_interval(self.values)],
            "search_ms": self.latency.to_json(),
        }
        if baseline is not None and baseline is not self:
            away = compare(self.values, baseline.values)
            found["beside_bm25"] = {key: round(getattr(away, key), 4) for key in ("difference", "low", "high", "p")}
        return found


def ours(dataset: Dataset, work: Path, encoder: str) -> Evaluation:
    """Encode, index, search and evaluate with an encoder.

    Args:
        dataset: The collection.
        work: Folder for indexes. Systems that differ only in the search share an index.
        encoder: Name or path of the encoder, with options: ", query model" adds `QUERY_MODEL`, ", hybrid" or ", dense"
            sets the search mode, ", learned half" drops BM25's terms from the query.
    """
    name, *hows = encoder.split(", ")
    made = load_encoder(name, query_model=QUERY_MODEL) if "query model" in hows else load_encoder(name)
    how = next((one for one in hows if one != "query model"), "")
    place = work / f"{Path(dataset.name).name}-{Path(name).name}"
    if not place.exists():
        Index.build(place, dataset.corpus(), encoder=made, hybrid=made.dense_width > 0, passages=None)
    index = Index.open(place, encoder=made)
    if how == "learned half":
        asked = read_queries(dataset.query_source, index)
        assert isinstance(index.encoder, HybridEncoder)
        learned, _ = index.encoder.split_by_encoder(asked.encoded(index))
        return evaluate_index(index, dataset, DEFAULT_MEASURES, QuerySet(asked.ids, None, learned))
    mode: Any = how or "sparse"
    return evaluate_index(index, dataset, DEFAULT_MEASURES, mode=mode)


def theirs(dataset: Dataset) -> tuple[dict[str, float], dict[str, float], Latency] | None:
    """Search and evaluate with bm25s; None if it isn't installed."""
    try:
        import bm25s
        import Stemmer
    except ImportError:
        return None
    corpus = list(dataset.corpus())
    stemmer = Stemmer.Stemmer("english")

    def tokenize(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)

    retriever = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="numba")
    retriever.index(tokenize([d.content for d in corpus]), show_progress=False)
    queries = [q for q in _queries(dataset) if q[0] in dataset.qrels]
    tokens = [tokenize([text]) for _, text in queries]
    ids = [d.id for d in corpus]

    def search(i: int, k: int) -> Any:
        return retriever.retrieve(tokens[i], k=k, n_threads=1, show_progress=False)

    run = {}
    for i, (query_id, _) in enumerate(queries):
        docs, scores = search(i, min(100, len(ids)))
        run[query_id] = {ids[d]: float(s) for d, s in zip(docs[0], scores[0], strict=True) if s > 0}
    means, values = score_run(dataset.qrels, run, parse_measures(DEFAULT_MEASURES))
    return means, values["nDCG@10"], time_each(lambda i: search(i, LATENCY_K), len(queries))


def row_of(collection: str, system: str, found: Evaluation) -> Row:
    """Convert an evaluation to a row."""
    return Row(collection, system, found.measures, found.per_query["nDCG@10"], found.search)


def _queries(dataset: Dataset) -> list[tuple[str, str]]:
    from lsr.io.corpus import open_corpus

    return [(q.id, q.text) for q in open_corpus(dataset.query_source, queries=True)]


def splade(folder: Path, work: Path) -> list[Row]:
    """Evaluate SPLADE-v3 vectors with 8-bit and float32 impacts, and with scipy's product of the float weights."""
    rows: list[Row] = []
    source = folder / "corpus.splade-v3.jsonl.gz"
    dataset = Dataset("nfcorpus", "test", str(folder), read_qrels(folder / "qrels" / "test.tsv"))
    for impacts in ("uint8", "float32"):
        index = Index.build(work / impacts, read_vectors(source), impacts=impacts)  # type: ignore[arg-type]
        queries = read_queries(folder / "queries.splade-v3.jsonl.gz", index)
        result = evaluate_index(index, dataset, DEFAULT_MEASURES, queries)
        rows.append(row_of("nfcorpus, SPLADE-v3", f"lsr, {impacts}", result))
    vectors = read_vectors(source)
    matrix = SparseMatrix.vstack([batch.vectors for batch in vectors])
    matrix = SparseMatrix(matrix.indptr, matrix.indices, matrix.data, (len(matrix), vectors.n_terms), check=False)
    ids = [doc_id for batch in vectors for doc_id in batch.ids]
    columns = matrix.to_scipy().tocsc()

    def search(i: int, k: int) -> Any:
        terms, weights = queries.encoded(index).row(i)
        scores = columns[:, terms.astype(np.int64)] @ weights
        best = np.argpartition(-scores, k)[:k]
        return best[np.lexsort((best, -scores[best]))], scores

    run = {}
    for i, query_id in enumerate(queries.ids):
        docs, scores = search(i, 100)
        run[query_id] = {ids[d]: float(scores[d]) for d in docs if scores[d] > 0}
    means, values = score_run(dataset.qrels, run, parse_measures(DEFAULT_MEASURES))
    latency = time_each(lambda i: search(i, LATENCY_K), len(queries.ids))
    return [*rows, Row("nfcorpus, SPLADE-v3", "scipy CSC", means, values["nDCG@10"], latency)]


def main() -> None:
    """Run all available sets and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME|PATH", help="instead of the shipped encoders"
    )
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for name in args.sets:
            if not (args.data / name).is_dir():
                continue
            dataset = open_dataset(str(args.data / name))
            for encoder in args.encoder or (*SYSTEMS, *PARTS):
                rows.append(row_of(name, f"lsr {encoder}", ours(dataset, Path(work), encoder)))
            if rival := theirs(dataset):
                rows.append(Row(name, "bm25s", *rival))
        if args.sets == list(SETS) and (args.data / "nfcorpus-splade-v3").is_dir():
            rows += splade(args.data / "nfcorpus-splade-v3", Path(work))
    if not rows:
        raise SystemExit(f"{args.data}: none of the collections is here")
    for key, value in conditions().items():
        print(f"{key}: {value}")
    print(f"\nms per query: search only, k = {LATENCY_K}, one thread\n")
    measures = list(rows[0].means)
    lines = [
        (
            row.collection,
            row.system,
            *(f"{value:.4f}" for value in row.means.values()),
            *(f"{getattr(row.latency, part):.3f}" for part in ("p50", "mean", "p99")),
        )
        for row in rows
    ]
    print(table(lines, ("collection", "system", *measures, "p50", "mean", "p99"), "<<" + ">" * (len(measures) + 3)))
    for system in dict.fromkeys(row.system for row in rows if row.collection in args.sets):
        found = [row.means[measures[0]] for row in rows if row.system == system and row.collection in args.sets]
        print(f"{system}: {measures[0]} {np.mean(found):.4f}, mean of {len(found)} collections")
    baselines = {row.collection: row for row in rows if row.system == BASELINE}
    kept = [row.to_json(baselines.get(row.collection)) for row in rows]
    if args.sets == list(SETS) and not args.encoder:
        keep("quality", {"rows": kept})


if __name__ == "__main__":
    main()
