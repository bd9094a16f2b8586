"""An Index is built from any source, accepts all kinds of queries, and explains scores term by term."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lsr
from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import DataError, EncoderError, EncoderMismatch
from lsr.eval.datasets import open_dataset
from lsr.eval.measures import parse_measures, score_run
from lsr.index.index import Index
from lsr.index.search.query_file import read_queries
from lsr.index.storage.arrow_file import ArrowFile
from lsr.io.corpus import open_corpus
from lsr.io.document import Document
from lsr.io.open_vectors import read_vectors
from lsr.sparse import SparseMatrix

TEXTS = {
    "wing": "The flutter of swept wings in supersonic flow",
    "plate": "Heat transfer on a flat plate; heat again",
    "layer": "Boundary layer transition on a flat plate",
    "none": "",
}
DOCUMENTS = [{"_id": i, "title": i.title(), "text": t, "year": 1950 + n} for n, (i, t) in enumerate(TEXTS.items())]


def found(index, query, k=10):
    return [(hit.id, hit.score) for hit in index.search(query, k)]


@pytest.fixture
def index(tmp_path):
    return Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25")


# --- sources ----------------------------------------------------------------------------------------------------------


def test_every_source_of_texts_gives_the_same_index(tmp_path, index):
    lines = "".join(json.dumps(d) + "\n" for d in DOCUMENTS)
    (tmp_path / "docs.jsonl").write_text(lines)
    (tmp_path / "docs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    sources = {
        "objects": [Document(d["_id"], d["text"], d["title"], {"year": d["year"]}) for d in DOCUMENTS],
        "generator": (d for d in DOCUMENTS),
        "file": open_corpus(tmp_path / "docs.jsonl"),
        "packed": open_corpus(tmp_path / "docs.jsonl.gz"),
    }
    for name, source in sources.items():
        other = Index.build(tmp_path / name, source, encoder="bm25")
        assert len(other) == 4
        assert found(other, "flat plate heat") == found(index, "flat plate heat")
        assert [h.metadata for h in other.search("flat", 9)] == [h.metadata for h in index.search("flat", 9)]


def test_vectors_from_parquet_include_texts_and_encoder(tmp_path, index, lsr_command):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    assert (
        lsr_command("encode", tmp_path / "docs.jsonl", "--out", tmp_path / "v.parquet", "--encoder", "bm25").code == 0
    )
    other = Index.build(tmp_path / "v", read_vectors(tmp_path / "v.parquet"))
    assert found(other, "flat plate heat") == found(index, "flat plate heat")
    assert other.search("flutter")[0].text == TEXTS["wing"]


def test_vectors_from_jsonl_are_searched_by_their_tokens(tmp_path):
    rows = [{"_id": "a", "vector": {"x": 1.5, "y": 2}}, {"_id": "b", "vector": {"z": 3, "x": 0}}]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    index = Index.build(tmp_path / "idx", read_vectors(tmp_path / "v.jsonl"), impacts="float32")
    assert index.vocabulary == ["x", "y", "z"]
    assert found(index, {"x": 2.0, "unknown": 5.0}) == [("a", 3.0)]
    with pytest.raises(EncoderError, match="without their encoder"):
        index.search("a text")


def test_a_matrix_can_be_indexed_with_or_without_ids(tmp_path):
    matrix = SparseMatrix.from_dicts([{0: 1.0}, {0: 2.0}], 3)
    assert found(Index.build(tmp_path / "a", matrix), matrix[0]) == [("1", 2.0), ("0", 1.0)]
    named = Index.build(tmp_path / "b", matrix, ids=["x", "y"])
    assert found(named, matrix[0]) == [("y", 2.0), ("x", 1.0)]
    with pytest.raises(DataError, match="tokens aren't known"):
        named.search({"x": 1.0})
    with pytest.raises(ValueError, match="2 rows but 1 ids"):
        Index.build(tmp_path / "c", matrix, ids=["x"])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("source", [[], SparseMatrix.empty(5)], ids=["documents", "matrix"])
def test_an_index_can_be_built_without_documents(tmp_path, source):
    index = Index.build(tmp_path / "idx", source)
    assert (len(index), index.n_postings, index.verify()) == (0, 0, [])
    assert (
        Index.open(tmp_path / "idx").search(
            SparseMatrix.from_dicts([{0: 1}], 5) if not isinstance(source, list) else "x"
        )
        == []
    )


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}], "'a' occurs twice"),
        ([{"text": "x"}], "no id"),
        ([{"_id": "a"}], "no text"),
        ([{"_id": "a", "text": 7}], "must be a string"),
        (["text"], "expected an object"),
        ([{"_id": "a", "text": "x", "extra": {1, 2}}], "metadata"),
    ],
)
def test_the_error_names_a_bad_document_and_no_index_is_left(tmp_path, documents, message):
    with pytest.raises(DataError, match=message):
        Index.build(tmp_path / "idx", documents, encoder="bm25")
    assert not (tmp_path / "idx").exists()


def test_an_unknown_type_of_impacts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float32"):
        Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25", impacts="int4")


def test_invalid_passage_sizes_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"passages must be Passages\(size, overlap\), got 128"):
        Index.build(tmp_path / "idx", [], encoder="bm25", passages=128)
    with pytest.raises(ValueError, match="size 5, overlap 5"):
        Passages(5, 5)


def test_only_ids_are_stored_if_store_text_is_false(tmp_path):
    index = Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25", store_text=False)
    (hit,) = index.search("flutter")
    assert (hit.id, hit.title, hit.text, hit.metadata) == ("wing", "", "", {})
    assert [c.kind for c in hit.explain()] == [""]
    assert not any(b"supersonic flow" in p.read_bytes() for p in index.path.rglob("*") if p.is_file())


def test_integer_weights_are_exact_and_other_weights_are_within_max_error(tmp_path):
    rng = np.random.default_rng(0)
    whole = SparseMatrix.from_dense(rng.integers(0, 256, (20, 8)))
    assert Index.build(tmp_path / "whole", whole).max_error == 0
    uneven = SparseMatrix.from_dense(rng.random((20, 8)))
    index = Index.build(tmp_path / "uneven", uneven)
    query = SparseMatrix.from_dense([[1, 0, 2, 0, 1, 0, 0, 3]])
    exact = uneven.dot(query)[:, 0]
    for hit in index.search(query, 20):
        assert abs(hit.score - exact[hit.doc]) <= 7 * index.max_error


# --- searching --------------------------------------------------------------------------------------------------------


def test_text_tokens_and_vectors_give_the_same_hits(index):
    query = "flat plate heat"
    vector = index.query_vectors([query])
    terms, weights = vector.row(0)
    tokens = {index.vocabulary[t]: float(w) for t, w in zip(terms, weights, strict=True)}
    assert found(index, query) == found(index, tokens) == found(index, vector)
    assert found(index, query)[0][0] == "plate"
    batch = index.search_batch([query, "flutter", ""], 10)
    assert [[h.id for h in hits] for hits in batch] == [[h.id for h in index.search(query)], ["wing"], []]


def test_an_empty_batch_of_queries_gives_no_results(index, tmp_path):
    assert index.search_batch([]) == []
    assert Index.build(tmp_path / "m", SparseMatrix.from_dicts([{0: 1}], 1)).search_batch([]) == []


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_invalid_query_weights_are_refused(index, weight):
    with pytest.raises(DataError, match="finite and not negative"):
        index.search({"flat": weight})


def test_queries_of_invalid_types_are_refused(index):
    with pytest.raises(ValueError, match="one query"):
        index.search(index.query_vectors(["a", "b"]))
    with pytest.raises(ValueError, match="one query"):
        index.explain(index.query_vectors(["a", "b"]), "wing")
    with pytest.raises(TypeError, match="int"):
        index.search_batch([7])
    for single in ("wing", {"wing": 1.0}):
        with pytest.raises(TypeError, match="a list or a matrix, got a single query"):
            index.search_batch(single)
    with pytest.raises(TypeError, match="got str; texts and vectors can't be mixed"):
        index.search_batch([{"wing": 1.0}, "wing"])


def test_a_hit_reads_its_text_on_first_access(index, monkeypatch):
    read = []
    monkeypatch.setattr(type(index.documents), "fields", lambda self, doc: read.append(doc) or ("t", "x", {}))
    monkeypatch.setattr(type(index.documents), "id", lambda self, doc: read.append(doc) or "i")
    (hit,) = index.search("flutter")
    assert read == []
    assert (hit.text, read) == ("x", [0])


def test_hits_have_the_fields_of_their_document(index):
    hit = Index.open(index.path).search("flutter")[0]
    assert (hit.id, hit.passage, hit.title, hit.text, hit.metadata) == (
        "wing",
        "wing",
        "Wing",
        TEXTS["wing"],
        {"year": 1950},
    )
    assert "wing" in repr(hit)


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
def test_contributions_sum_to_the_score_and_spans_locate_the_words(tmp_path, impacts):
    index = Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25", impacts=impacts)
    for hit in index.search("heat on flat plates in supersonic flow"):
        explanation = hit.explain()
        assert explanation.score == pytest.approx(hit.score, rel=1e-6)
        assert sum(c.score for c in explanation) == pytest.approx(hit.score, rel=1e-6)
        assert sum(c.share for c in explanation) == pytest.approx(1)
        assert [c.score for c in explanation] == sorted((c.score for c in explanation), reverse=True)
        for c in explanation:
            assert c.score == pytest.approx(c.query_weight * c.impact, rel=1e-5)  # query_weight and impact are rounded
            assert c.kind == ("match" if c.impact else "missing")
            for start, end in c.spans:
                assert explanation.content[start:end].lower().startswith(c.token)
    heat = next(c for c in index.explain("heat", "plate") if c.token == "heat")
    assert [index.explain("heat", "plate").content[a:b] for a, b in heat.spans] == ["Heat", "heat"]
    assert str(explanation).startswith(f"{explanation.id}: score")
    assert json.dumps(explanation.to_json())


def test_a_term_that_the_encoder_adds_is_an_expansion(tmp_path):
    encoder = load_encoder("bm25")
    encoder.fit(["wing flutter", "car"])
    flutter, wing = (list(encoder.vocabulary).index(t) for t in ("flutter", "wing"))
    encoder.encode_document = lambda texts: SparseMatrix.from_dicts([{flutter: 2.0, wing: 1.0}] * len(texts), 3)
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": "The wing"}], encoder=encoder)
    explanation = index.explain("wing flutter car", "a")  # the query leaves out "car", which no document has
    assert {c.token: c.kind for c in explanation} == {"flutter": "expansion", "wing": "match"}
    assert explanation.words() == "flutter* 67%, wing 33%"


def test_explaining_a_missing_document_is_refused(index):
    with pytest.raises(DataError, match="'absent'"):
        index.explain("wing", "absent")


# --- passages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
def test_a_document_gets_the_score_of_its_best_passage(tmp_path, impacts):
    rng = np.random.default_rng(2)
    words = ["alpha", "beta", "gamma", "delta", "omega"]
    documents = [{"_id": f"d{i}", "text": " ".join(rng.choice(words, rng.integers(1, 40)))} for i in range(150)]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", passages=Passages(6, 2), impacts=impacts)
    assert index.has_passages
    assert len(index) > 300
    for query in ("alpha", "beta omega", "alpha beta gamma delta omega"):
        vector = index.query_vectors([query])
        best: dict[str, tuple[float, int]] = {}
        for doc, score in zip(*index.searcher.search(*vector.row(0), len(index)), strict=True):
            parent = index.documents.parent(int(doc))
            best[parent] = min(best.get(parent, (0.0, 0)), (-score, int(doc)))
        ranking = sorted(best.items(), key=lambda item: item[1])
        for k in (1, 2, 10, 149, 500):
            hits = index.search(query, k)
            assert [(h.id, -h.score, h.doc) for h in hits] == [(i, *b) for i, b in ranking[:k]]
            assert all(h.passage.startswith(h.id + "#") for h in hits)
    hit = index.search("alpha")[0]
    assert hit.explain().score == pytest.approx(hit.score, rel=1e-6)
    assert hit.text in next(d["text"] for d in documents if d["_id"] == hit.id)
    assert index.explain("alpha", hit.id).score == pytest.approx(hit.score, rel=1e-6)


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_the_encoder_is_stored_in_the_index(index, tmp_path):
    expected = found(index, "flat plate")
    index.path.rename(tmp_path / "moved")
    assert found(Index.open(tmp_path / "moved"), "flat plate") == expected


def test_an_error_about_another_encoder_names_both_encoders(index):
    other = load_encoder("bm25", k1=1.2)
    other.fit(["other texts"])
    with pytest.raises(EncoderMismatch, match=r"bm25\(k1=0\.9.*bm25\(k1=1\.2"):
        Index.open(index.path, encoder=other)
    assert Index.open(index.path, encoder=index.encoder).search("flutter")


def test_vectors_of_a_different_encoder_are_refused(tmp_path, index, lsr_command):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    lsr_command("encode", tmp_path / "docs.jsonl", "--out", tmp_path / "v.parquet", "--encoder", "bm25")
    other = load_encoder("bm25", k1=2)
    other.fit(["something else"])
    with pytest.raises(EncoderMismatch, match="the encoder given"):
        Index.build(tmp_path / "v", read_vectors(tmp_path / "v.parquet"), encoder=other)
    assert not (tmp_path / "v").exists()


# --- query files ------------------------------------------------------------------------------------------------------


def test_unknown_tokens_of_query_files_are_counted_and_ignored(index, tmp_path):
    rows = [{"_id": "q1", "vector": {"flutter": 1, "unheard": 9}}, {"_id": "q2", "vector": {"unseen": 1}}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    queries = read_queries(tmp_path / "q.jsonl", index)
    assert (queries.ids, queries.unknown) == (["q1", "q2"], 2)
    batch = index.search_batch(queries.encoded(index))
    assert [[h.id for h in hits] for hits in batch] == [["wing"], []]


def test_duplicate_query_ids_are_refused(index, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"_id": "q", "vector": {"wing": 1}}\n' * 2)
    with pytest.raises(DataError, match="'q' occurs twice"):
        read_queries(tmp_path / "q.jsonl", index)


def test_queries_are_selected_by_id(index, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"_id": f"q{i}", "text": "flat"}) + "\n" for i in range(4)))
    queries = read_queries(tmp_path / "q.jsonl", index).only({"q1": 1, "q3": 1, "q9": 1})
    assert (queries.ids, queries.texts) == (["q1", "q3"], ["flat", "flat"])


# --- opening ----------------------------------------------------------------------------------------------------------


def test_opening_hashes_no_large_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    matrix = SparseMatrix.from_dense(rng.integers(1, 256, (50_000, 120)))
    Index.build(tmp_path / "idx", matrix)
    hashed = []
    from lsr.index.storage import manifest

    monkeypatch.setattr(
        manifest, "digest_file", lambda path, real=manifest.digest_file: hashed.append(path) or real(path)
    )
    index = Index.open(tmp_path / "idx")
    large = next(p for p in index.path.rglob("dense.arrow"))
    assert large.stat().st_size > manifest.CHECKED_AT_OPEN
    assert large not in hashed
    assert index.verify() == []
    assert large in hashed


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc")
def test_opening_maps_the_postings_without_reading_them(tmp_path):
    matrix = SparseMatrix.from_dense(np.ones((65_536, 100), np.float32))
    Index.build(tmp_path / "idx", matrix)
    code = """
import re, sys
from lsr.index.index import Index
index = Index.open(sys.argv[1])
maps = open("/proc/self/smaps").read()
part = maps[maps.index("postings.arrow"):]
print(re.search(r"Rss: +(\\d+) kB", part).group(1))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "idx"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2000  # kB in memory; the file has 19,000 kB


def test_processes_can_search_one_index_concurrently(index):
    code = "import sys; from lsr import Index; print([h.id for h in Index.open(sys.argv[1]).search('flat plate')])"
    with ThreadPoolExecutor(3) as pool:
        runs = pool.map(
            lambda _: (
                subprocess.run(
                    [sys.executable, "-c", code, index.path], capture_output=True, text=True, check=True
                ).stdout
            ),
            range(3),
        )
        assert set(runs) == {f"{[h.id for h in index.search('flat plate')]}\n"}


def test_the_package_exports_index_and_hit(index):
    assert lsr.Index is Index
    assert isinstance(index.search("flat")[0], lsr.Hit)


def test_an_open_index_works_while_it_is_replaced(index):
    before = found(index, "flat plate")
    assert index.vocabulary
    Index.build(index.path, DOCUMENTS[:1], encoder="bm25", overwrite=True)
    assert found(index, "flat plate") == before
    assert len(Index.open(index.path)) == 1


def test_an_index_opened_during_its_replacement_is_the_old_or_the_new_index(index):
    def replace():
        for size in (1, 4) * 8:
            Index.build(index.path, DOCUMENTS[:size], encoder="bm25", overwrite=True)

    with ThreadPoolExecutor(1) as pool:
        replaced = pool.submit(replace)
        while not replaced.done():
            assert len(Index.open(index.path)) in (1, 4)
        replaced.result()


def test_a_damaged_arrow_file_is_refused(tmp_path):
    import pyarrow as pa

    (tmp_path / "x.arrow").write_bytes(b"ARROW1\x00\x00" + b"\xff" * 200)
    with pytest.raises(lsr.LsrError, match=r"x\.arrow"):
        ArrowFile(tmp_path / "x.arrow", pa.schema([("doc", pa.uint32())]))


# --- real vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
def test_splade_reaches_the_expected_ndcg_on_nfcorpus(real_data, tmp_path, impacts):
    pytest.importorskip("ir_measures")
    folder = real_data("nfcorpus-splade-v3")
    vectors = read_vectors(folder / "corpus.splade-v3.jsonl.gz")
    index = Index.build(tmp_path / "idx", vectors, impacts=impacts)
    queries = read_queries(folder / "queries.splade-v3.jsonl.gz", index).only(open_dataset(str(folder)).qrels)
    encoded = queries.encoded(index)
    hits = index.search_batch(encoded, 100)
    run = {q: {h.id: h.score for h in found} for q, found in zip(queries.ids, hits, strict=True)}
    means, _ = score_run(open_dataset(str(folder)).qrels, run, parse_measures("nDCG@10"))
    assert means["nDCG@10"] >= 0.353
    if impacts == "float32":
        matrix = SparseMatrix.vstack([batch.vectors for batch in vectors])
        for i in range(0, len(encoded), 20):
            scores = matrix.dot(encoded[i])[:, 0]
            best = np.argsort(-scores, kind="stable")[:100]
            best = best[scores[best] > 0]
            assert [h.doc for h in hits[i]] == best.tolist()
            assert [h.score for h in hits[i]] == scores[best].tolist()


def test_bm25_reaches_the_expected_ndcg_on_scifact(real_data, tmp_path):
    pytest.importorskip("ir_measures")
    dataset = open_dataset(str(real_data("scifact")))
    index = Index.build(tmp_path / "idx", dataset.corpus(), encoder="bm25")
    queries = read_queries(dataset.source, index).only(dataset.qrels)
    hits = index.search_batch(queries.encoded(index), 10)
    run = {q: {h.id: h.score for h in found} for q, found in zip(queries.ids, hits, strict=True)}
    assert score_run(dataset.qrels, run, parse_measures("nDCG@10"))[0]["nDCG@10"] >= 0.67


def test_a_source_may_be_a_path_of_documents_or_vectors(tmp_path):
    for name, text in (("docs", "wing"), ("more", "flutter")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"_id": name, "text": text}) + "\n")
    index = Index.build(tmp_path / "idx", str(tmp_path / "docs.jsonl"), encoder="bm25")
    index.update(tmp_path / "more.jsonl")
    index.commit()
    assert list(index.documents.all_ids()) == ["docs", "more"]
    (tmp_path / "vectors.jsonl").write_text(json.dumps({"id": "a", "vector": {"wing": 1.5}}) + "\n")
    assert Index.build(tmp_path / "v", str(tmp_path / "vectors.jsonl")).search({"wing": 1.0})[0].id == "a"
    with_encoder = Index.build(tmp_path / "terms", str(tmp_path / "vectors.jsonl"), encoder=index.encoder)
    assert with_encoder.search("wing")[0].id == "a"  # the vectors are mapped to the encoder's terms
    for call in (index.add, lambda source: Index.build(tmp_path / "none", source)):
        with pytest.raises(DataError, match="no-such-file"):
            call("no-such-file")
    assert not (tmp_path / "none").exists()
