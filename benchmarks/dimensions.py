"""Recall against the number of documents, for dense vectors of several dimensions, codes, sparse models and BM25.

    NUMBA_NUM_THREADS=1 python benchmarks/dimensions.py --data FOLDER --work FOLDER --sparse FOLDER

Three collections (after arXiv 2012.14210 and 2508.21038):

    growing    the evidence documents of 300 claims of climate-fever-evidence; then the collection's other documents,
               passages of msmarco-dl19-pool, and glosses of wordnet-glosses are added
    random     all documents of climate-fever-evidence; then texts of random letters are added
    pairs      46 documents that say who likes what, and a query for each pair of documents; then documents that answer
               no query are added

--data has the collections in BEIR layout, --sparse is the folder of splade-tiny. Dense vectors are those of lsr-mini,
projected onto their first singular directions; codes are learned from these vectors. --work keeps vectors and figures,
so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from numpy.typing import NDArray

from lsr import load_encoder, open_corpus
from lsr.console import progress, table
from lsr.encode.autoencoder import CodeSettings
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.codes import CsrEncoder
from lsr.encode.hybrid import HybridEncoder
from lsr.eval.dimensions import best, cut, growing, pair_set, random_texts, recall, slope
from lsr.io.open_vectors import load_matrix
from lsr.io.runs import read_qrels
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTHS = (384, 256, 128, 64, 32)
LATENTS = (8, 16, 32, 64)
_CHUNK = 500  # texts per file in --work
_QUERIES = 300
_GLOSSES = 20_000
_RANDOM = 10_000
_OTHERS = 954  # documents of "pairs" that answer no query
Scores = Callable[[int], NDArray[np.floating]]  # maps n to the scores of the first n documents, (n_queries, n)


@dataclass
class Texts:
    """A collection in the order in which it grows.

    Attributes:
        name: Name of the collection.
        documents: Texts.
        queries: Texts.
        relevant: Numbers of each query's relevant documents.
        sizes: Numbers of documents to search in.
        noise: Number of the first document of random letters; None if there is none.
    """

    name: str
    documents: list[str]
    queries: list[str]
    relevant: list[list[int]]
    sizes: list[int]
    noise: int | None = None


def climate(data: Path) -> tuple[dict[str, str], list[str], list[list[str]]]:
    """Return documents by id, claims, and the ids of each claim's evidence."""
    folder = data / "climate-fever-evidence"
    documents = {doc.id: doc.content for doc in open_corpus(str(folder))}
    queries = {query.id: query.content for query in open_corpus(str(folder), queries=True)}
    judged = {
        query: [doc for doc, grade in grades.items() if grade > 0]
        for query, grades in read_qrels(folder / "qrels" / "test.tsv").items()
    }
    some = [query for query in sorted(judged) if judged[query]][:_QUERIES]
    return documents, [queries[query] for query in some], [judged[query] for query in some]


def collections(data: Path) -> Iterator[Texts]:
    """Yield the three collections."""
    documents, queries, judged = climate(data)
    rng = np.random.default_rng(0)

    def shuffled(texts: list[str], n: int | None = None) -> list[str]:
        return [texts[i] for i in rng.permutation(len(texts))[:n]]

    wanted = sorted({doc for docs in judged for doc in docs})
    places = {doc: number for number, doc in enumerate(wanted)}
    relevant = [[places[doc] for doc in docs] for docs in judged]
    first = [documents[doc] for doc in wanted]
    rest = shuffled([text for doc, text in documents.items() if doc not in places])
    known = set(first)
    more = [doc.content for doc in open_corpus(str(data / "msmarco-dl19-pool"))]
    glosses = [doc.content for doc in open_corpus(str(data / "wordnet-glosses"))]
    added = [
        text for text in dict.fromkeys([*rest, *shuffled(more), *shuffled(glosses, _GLOSSES)]) if text not in known
    ]
    whole = [*first, *added]
    yield Texts("growing", whole, queries, relevant, list(growing(len(first), len(whole))))
    base = [*first, *(text for text in dict.fromkeys(rest) if text not in known)]
    noise = random_texts(_RANDOM)
    sizes = [len(base), *(len(base) + n for n in growing(1250, _RANDOM))]
    yield Texts("random", [*base, *noise], queries, relevant, sizes, len(base))
    terms = [q.content for q in open_corpus(str(data / "wordnet-glosses"), queries=True) if q.content.isalpha()]
    made = pair_set(sorted({term for term in terms if term.islower()}), others=_OTHERS)
    sizes = list(growing(46, len(made.documents)))
    yield Texts("pairs", made.documents, made.queries, made.relevant.tolist(), sizes)


def encoded(encoder: Any, texts: list[str], work: Path, *, both: bool) -> tuple[SparseMatrix, NDArray[np.float32]]:
    """Return sparse and dense vectors of texts, and keep them in `work`; without `both`, dense vectors have width 0."""
    parts, dense = [], []
    with progress(len(texts), "encode", "documents") as bar:
        for first in range(0, len(texts), _CHUNK):
            some = texts[first : first + _CHUNK]
            name = hashlib.blake2b("\0".join(some).encode(), digest_size=12).hexdigest()
            path, beside = work / f"{name}.parquet", work / f"{name}.npy"
            if not path.exists() or (both and not beside.exists()):
                work.mkdir(parents=True, exist_ok=True)
                if both:
                    found, vectors = encoder.encode_both(some)
                    np.save(beside, vectors)
                else:
                    found = encoder.encode_document(some)
                save_matrix(path, found)
            parts.append(load_matrix(path))
            dense.append(np.load(beside) if both else np.zeros((len(some), 0), np.float32))
            bar.update(len(some))
    n_terms = max(part.shape[1] for part in parts)
    wide = [SparseMatrix(one.indptr, one.indices, one.data, (len(one), n_terms), check=False) for one in parts]
    return SparseMatrix.vstack(wide), np.concatenate(dense)


def products(queries: SparseMatrix, documents: SparseMatrix) -> Scores:
    """Return the inner products of sparse vectors."""
    width = max(queries.shape[1], documents.shape[1])
    mine, theirs = (_scipy(one, width) for one in (queries, documents))
    scores = np.asarray((mine @ theirs.T).todense(), np.float32)
    return lambda n: scores[:, :n]


def _scipy(matrix: SparseMatrix, width: int) -> Any:
    found = matrix.to_scipy()
    found.resize((len(matrix), width))
    return found


def systems(texts: Texts, work: Path, sparse: Path) -> Iterator[tuple[str, Scores]]:
    """Yield the name and the scores of each system."""
    mini = load_encoder("lsr-mini")
    assert isinstance(mini, HybridEncoder)
    learned, dense = encoded(mini.learned, texts.documents, work / "lsr-mini", both=True)
    asked = mini.learned.encode_dense(texts.queries, queries=True)

    @cache
    def fitted(n: int) -> tuple[BM25Encoder, NDArray[np.floating]]:
        """Return BM25 fitted to the first n documents, and its scores."""
        lexical, some = BM25Encoder(), texts.documents[:n]
        lexical.fit(some)
        return lexical, products(lexical.encode_query(texts.queries), lexical.encode_document(some))(n)

    def shipped(n: int) -> NDArray[np.floating]:
        lexical, scores = fitted(n)
        own = mini.learned.encode_known(texts.queries, lexical)
        return products(own, learned)(n) + np.float32(mini.weight) * scores

    yield "BM25", lambda n: fitted(n)[1]
    yield "lsr-mini", shipped
    yield "lsr-mini without BM25", products(mini.learned.encode_query(texts.queries), learned)
    tiny = load_encoder(sparse)
    vectors, _ = encoded(tiny, texts.documents, work / "splade-tiny", both=False)
    yield "splade-tiny", products(tiny.encode_query(texts.queries), vectors)
    for width in WIDTHS:
        fewer, query = cut(dense, asked, width) if width < dense.shape[1] else (dense, asked)
        scores = query @ fewer.T
        yield f"dense, {width} dimensions", lambda n, scores=scores: scores[:, :n]
    for latents in LATENTS:
        theirs, mine = (work / f"{texts.name}-{latents}-{side}.parquet" for side in ("documents", "queries"))
        if not mine.exists():
            encoder = CsrEncoder(lambda some: some, settings=CodeSettings(top_k=latents))
            encoder.learn(dense)
            assert encoder.codes is not None
            save_matrix(theirs, encoder.codes.encode(dense, latents))
            save_matrix(mine, encoder.codes.encode(asked, latents, queries=True))
        yield f"codes, {latents} latents", products(load_matrix(mine), load_matrix(theirs))


def studied(texts: Texts, work: Path, sparse: Path) -> list[dict[str, Any]]:
    """Return a row for each system: recall at each size, slopes, and the share of random texts among the best ten."""
    kept = work / f"{texts.name}.json"
    if kept.exists():
        found: list[dict[str, Any]] = json.loads(kept.read_text())
        return found
    rows = []
    for name, scores in systems(texts, work, sparse):
        values: dict[str, list[NDArray[np.float64]]] = {"R@10": [], "R@100": []}
        noise = 0.0
        for size in texts.sizes:
            top = best(scores(size), min(100, size))
            values["R@10"].append(recall(top[:, :10], texts.relevant))
            values["R@100"].append(recall(top, texts.relevant))
            if texts.noise is not None and size == texts.sizes[-1]:
                noise = float((top[:, :10] >= texts.noise).mean())
        row: dict[str, Any] = {"system": name}
        for measure, of_size in values.items():
            row[measure] = [round(float(one.mean()), 4) for one in of_size]
            row[f"{measure} slope"] = [round(one, 4) for one in slope(texts.sizes, np.array(of_size))]
        row["noise in the best ten"] = round(noise, 5)
        rows.append(row)
    kept.write_text(json.dumps(rows))
    return rows


def shown(name: str, sizes: list[int], rows: list[dict[str, Any]]) -> str:
    """Return the table of a collection."""
    lines = [
        (
            row["system"],
            *(f"{one:.3f}" for one in row["R@10"]),
            "{:+.4f} ({:+.4f} to {:+.4f})".format(*row["R@10 slope"]),
            f"{row['noise in the best ten']:.4f}",
        )
        for row in rows
    ]
    header = ["system", *map(str, sizes), "slope", "noise"]
    return f"\n{name}: R@10 by the number of documents\n" + table(lines, header, "<" + ">" * (len(header) - 1))


def drawn(results: dict[str, Any]) -> str:
    """Return the figure as SVG: recall at 10 against the number of documents of the growing collection."""
    import matplotlib as mpl

    mpl.use("svg")
    import io

    import matplotlib.pyplot as plt

    style = {"svg.fonttype": "none", "svg.hashsalt": "lsr", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context({**style, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        found = results["growing"]
        kinds = {"dense": "-", "codes": ":"}
        for number, row in enumerate(found["rows"]):
            line = next((dash for kind, dash in kinds.items() if row["system"].startswith(kind)), "--")
            axes.plot(found["sizes"], row["R@10"], line, color=f"C{number % 10}", label=row["system"], linewidth=1.3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(found["sizes"], [f"{size:,}" for size in found["sizes"]])
        axes.minorticks_off()
        axes.set_xlabel("documents")
        axes.set_ylabel("R@10")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
        page = io.StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None})
        plt.close(figure)
    return page.getvalue()


def main() -> None:
    """Run the study, print and keep its tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sparse", type=Path, required=True)
    args = parser.parse_args()
    results = {
        texts.name: {
            "sizes": texts.sizes,
            "queries": len(texts.queries),
            "rows": studied(texts, args.work, args.sparse),
        }
        for texts in collections(args.data)
    }
    for name, found in results.items():
        print(shown(name, found["sizes"], found["rows"]))
    for key, value in conditions().items():
        print(f"{key}: {value}")
    keep("dimensions", results)
    (IMAGES / "dimensions.svg").write_text(drawn(results))


if __name__ == "__main__":
    main()
