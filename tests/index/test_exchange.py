"""An index that is exported to any format and imported again has the same documents, weights and scores."""

import json

import numpy as np
import pytest

from lsr import Index, SparseMatrix
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.errors import CorruptIndex, EncoderMismatch
from lsr.index.cli.export import index_vectors
from lsr.io import external_sort
from lsr.io.convert import Form, convert
from lsr.io.document import Document, document_batch
from lsr.io.open_vectors import read_vectors
from lsr.io.text_files import unfinished
from lsr.io.vectors import VectorBatch, Vectors, matrix_batches

TOKENS = [f"t{i}.ö" for i in range(60)]
FILES = {
    "v.parquet": Form(),
    "v.jsonl": Form(),
    "v.jsonl.gz": Form("anserini"),
    "v.ndjson": Form(),
    "v.ciff": Form(),
    "v.ciff.gz": Form(),
}
DOCUMENTS = [
    {"_id": "d1", "title": "Wings", "text": "flutter of swept wings", "year": 1955},
    {"_id": "d2", "title": "", "text": ""},
    {"_id": "größe", "title": "Layers", "text": "boundary layer on a flat plate"},
]


def matrix(n=700, seed=0):
    """A matrix with empty documents and with terms of all frequencies: their lists are dense, long or short."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.9, 0.002, 60)
    dense = rng.gamma(2.0, 1.0, (n, 60)) * (rng.random((n, 60)) < shares)
    dense[::50] = 0
    return SparseMatrix.from_dense(dense)


def vectors_of(rows):
    ids = [f"id {i}" for i in range(len(rows))]
    return Vectors("test", lambda _: matrix_batches(rows, ids), vocabulary=TOKENS)


def read_all(vectors):
    ids, rows = [], []
    for batch in vectors:
        ids += batch.ids
        for terms, weights in batch.vectors.rows():
            rows.append({vectors.vocabulary[t]: w for t, w in zip(terms.tolist(), weights.tolist(), strict=True)})
    return ids, rows


@pytest.mark.parametrize("options", [{}, {"order": "bisection"}, {"impacts": "float32"}, {"memory": 1}], ids=str)
def test_exported_weights_are_in_document_order(tmp_path, monkeypatch, options):
    monkeypatch.setattr(external_sort, "_MEMORY", 5000)
    rows = matrix(5000 if options.get("order") else 700)
    index = Index.build(tmp_path / "idx", vectors_of(rows), **options)
    assert (options != {"memory": 1}) or index.searcher.n_windows > 1
    vectors = index_vectors(index)
    for _ in range(2):
        batches = list(vectors)
        stored = SparseMatrix.vstack([batch.vectors for batch in batches])
        assert [i for batch in batches for i in batch.ids] == [f"id {i}" for i in range(len(rows))]
        assert np.array_equal(stored.indptr, rows.indptr)
        assert np.array_equal(stored.indices, rows.indices)
        assert np.abs(stored.data - rows.data).max() <= index.max_error
    steps = stored.data / (vectors.step or 1)
    assert (vectors.step is None) == (options.get("impacts") == "float32")
    assert vectors.step is None or np.abs(steps - np.rint(steps)).max() < 1e-4
    assert (vectors.count, vectors.vocabulary) == (len(rows), TOKENS)


@pytest.mark.parametrize("name", FILES)
def test_an_index_built_from_an_export_gives_equal_results(tmp_path, name):
    index = Index.build(tmp_path / "idx", vectors_of(matrix()))
    vectors = index_vectors(index)
    convert(vectors, tmp_path / name, FILES[name])
    read = read_vectors(tmp_path / name)
    factor = 1 / vectors.step if FILES[name].format == "anserini" else 1.0
    ids, rows = read_all(read)
    assert ids == read_all(vectors)[0]
    for found, stored in zip(rows, read_all(vectors)[1], strict=True):
        assert found == pytest.approx({token: weight * factor for token, weight in stored.items()}, rel=1e-6)
    again = Index.build(tmp_path / "again", read)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        query = {TOKENS[t]: float(w) for t, w in zip(rng.integers(0, 60, 6), rng.random(6), strict=True)}
        hits, expected = again.search(query, 50), index.search(query, 50)
        assert [hit.score for hit in hits] == pytest.approx([hit.score * factor for hit in expected], rel=1e-5)
        assert [hit.id for hit in hits] == [hit.id for hit in expected]


@pytest.mark.parametrize("name", ["v.parquet", "v.ciff", "anserini.jsonl"])
def test_an_export_gives_equal_results_after_the_largest_weight_is_deleted(tmp_path, name):
    rows = matrix()
    index = Index.build(tmp_path / "idx", vectors_of(rows))
    index.add(matrix(100, seed=1), ids=[f"new {i}" for i in range(100)])
    loudest = int(np.searchsorted(rows.indptr, rows.data.argmax(), side="right")) - 1
    index.delete([f"id {loudest}", "id 1"])
    index.commit()
    index.merge()
    vectors = index_vectors(index)
    assert max(batch.vectors.data.max() for batch in vectors) < 254.5 * vectors.step
    convert(vectors, tmp_path / name, Form("anserini" if "anserini" in name else None))
    again = Index.build(tmp_path / "again", tmp_path / name)
    factor = 1 / vectors.step if "anserini" in name else 1.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        query = {TOKENS[t]: float(w) for t, w in zip(rng.integers(0, 60, 6), rng.random(6), strict=True)}
        hits, expected = again.search(query, 50), index.search(query, 50)
        assert [hit.score for hit in hits] == pytest.approx([hit.score * factor for hit in expected], rel=1e-12)
        assert [hit.id for hit in hits] == [hit.id for hit in expected]


@pytest.mark.parametrize("name", ["v.parquet", "v.ndjson"])
def test_parquet_keeps_texts_and_the_encoder_but_ndjson_keeps_only_texts(tmp_path, name):
    index = Index.build(tmp_path / "idx", DOCUMENTS, encoder=BM25Encoder())
    convert(index_vectors(index), tmp_path / name)
    again = Index.build(tmp_path / "again", read_vectors(tmp_path / name))
    assert [again.documents.id(i) for i in range(3)] == ["d1", "d2", "größe"]
    for doc in range(3):
        assert again.documents.fields(doc) == index.documents.fields(doc)
    if name == "v.parquet":
        assert (again.fingerprint, again.vocabulary) == (index.fingerprint, index.vocabulary)
        hits = [(hit.id, hit.score) for hit in again.search("flat wings")]
        assert hits == [(hit.id, hit.score) for hit in index.search("flat wings")]


def test_exported_passages_keep_their_parents(tmp_path):
    documents = document_batch([Document("a#0", "x", parent="a"), Document("a#1", "y", parent="a")])
    rows = SparseMatrix.from_dicts([{0: 1.0}, {1: 2.0}], 60)
    source = Vectors("test", lambda _: iter([VectorBatch(documents, rows)]), vocabulary=TOKENS)
    convert(index_vectors(Index.build(tmp_path / "idx", source)), tmp_path / "v.ndjson")
    again = Index.build(tmp_path / "again", read_vectors(tmp_path / "v.ndjson"))
    assert again.has_passages
    assert [hit.id for hit in again.search({TOKENS[1]: 1.0})] == ["a"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("n", [0, 1])
def test_very_few_documents_can_be_exported(tmp_path, name, n):
    index = Index.build(tmp_path / "idx", vectors_of(SparseMatrix.from_dicts([{3: 0.5}] * n, 60)))
    convert(index_vectors(index), tmp_path / name, FILES[name])
    again = Index.build(tmp_path / "again", read_vectors(tmp_path / name))
    assert len(again) == n
    assert [hit.id for hit in again.search({TOKENS[3]: 1.0})] == ["id 0"] * n


def test_a_damaged_order_is_refused(tmp_path, monkeypatch):
    index = Index.build(tmp_path / "idx", vectors_of(matrix()), order="bisection")
    segment = index.snapshot.parts[0].segment
    monkeypatch.setattr(segment, "order", np.zeros_like(segment.order))
    with pytest.raises(CorruptIndex, match=r"places.arrow: damaged; run lsr verify for details"):
        list(index_vectors(index))


def test_exported_terms_keep_the_term_numbers_of_the_encoder(tmp_path, idx, lsr_command):
    encoder = Index.open(idx).encoder
    export = tmp_path / "vectors.jsonl"
    assert lsr_command("export", idx, "--out", export).code == 0
    assert lsr_command("index", export, "--out", tmp_path / "again", "--encoder", idx).code == 0
    for query in ("swept boundary layer", "plate"):
        expected = [(hit.id, pytest.approx(hit.score, rel=0.01)) for hit in Index.open(idx).search(query)]
        assert [(hit.id, hit.score) for hit in Index.open(tmp_path / "again").search(query)] == expected
    # An encoder whose vocabulary can grow adopts the term numbers of the index.
    Index.build(tmp_path / "other", read_vectors(export))
    found = [hit.id for hit in Index.open(idx).search("swept boundary layer")]
    for index in (
        Index.build(tmp_path / "numbered", read_vectors(export), encoder=encoder),
        Index.open(tmp_path / "other", encoder=encoder),
    ):
        assert [hit.id for hit in index.search("swept boundary layer")] == found
    fixed = FixedBM25Encoder()
    fixed.fit(["boundary layer"])
    with pytest.raises(EncoderMismatch, match="in the vectors and"):
        Index.build(tmp_path / "wrong", read_vectors(export), encoder=fixed)
    with pytest.raises(EncoderMismatch, match=r"in the index .*other and"):
        Index.open(tmp_path / "other", encoder=fixed)


# --- lsr export


@pytest.fixture
def idx(tmp_path, lsr_command):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    assert lsr_command("index", tmp_path / "docs.jsonl", "--out", tmp_path / "idx", "--encoder", "bm25").code == 0
    return tmp_path / "idx"


@pytest.mark.parametrize("name", FILES)
def test_exports_can_be_indexed_again(tmp_path, idx, lsr_command, name):
    ran = lsr_command("export", idx, "--out", tmp_path / name)
    assert (ran.code, ran.out) == (0, "")
    assert f"{tmp_path / name}" in ran.err
    assert "exists already (--overwrite replaces it)" in lsr_command("export", idx, "--out", tmp_path / name).err
    assert lsr_command("export", idx, "--out", tmp_path / name, "--overwrite").code == 0
    assert lsr_command("index", tmp_path / name, "--out", tmp_path / "again").code == 0
    assert Index.open(tmp_path / "again").search({"flat": 1.0})[0].id == "größe"
    assert lsr_command("export", tmp_path / name, "--out", tmp_path / "w.ciff", "--levels", 9).code == 0
    assert lsr_command("encode", tmp_path / "w.ciff", "--out", tmp_path / "w.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert [line["_id"] for line in lines] == ["d1", "d2", "größe"]


def test_an_export_for_opensearch_has_a_mapping_file(tmp_path, idx, lsr_command):
    out = tmp_path / "docs.ndjson"
    assert lsr_command("export", idx, "--out", out, "--name", "papers", "--field", "v").code == 0
    first = json.loads(out.read_text().splitlines()[0])
    assert first == {"index": {"_index": "papers", "_id": "d1"}}
    assert json.loads((tmp_path / "docs.mapping.json").read_text())["mappings"]["properties"]["v"]
    assert "docs.ndjson: exists already" in lsr_command("export", idx, "--out", out).err
    out.unlink()
    assert "docs.mapping.json: exists already" in lsr_command("export", idx, "--out", out).err
    unfinished(out).touch()  # after a killed export, the mapping file may be overwritten
    assert lsr_command("export", idx, "--out", out).code == 0
    args = ("export", idx, "--out", out, "--format", "opensearch-ann", "--overwrite")
    assert lsr_command(*args).code == 0
    assert set(json.loads(out.read_text().splitlines()[1])["vector"]) <= {str(i) for i in range(100)}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["idx", "--out", "v.tsv"], "vectors are written to .parquet, .jsonl(.gz), .ndjson(.gz) or .ciff(.gz)"),
        (["idx", "--out", "folder"], "vectors are written to"),
        (["idx", "--out", "v.ciff", "--format", "anserini"], "the format anserini has the endings .jsonl"),
        (["missing", "--out", "v.ciff"], "no such index"),
        (["bare", "--out", "v.ciff"], "CIFF needs the tokens of the terms, and these vectors lack them"),
        (["idx", "--out", "Docs.ndjson"], "(--name)"),
    ],
)
def test_invalid_exports_are_refused(tmp_path, idx, lsr_command, monkeypatch, args, problem):
    Index.build(tmp_path / "bare", SparseMatrix.from_dicts([{1: 1.0}], 3))
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    ran = lsr_command("export", *args)
    assert (ran.code, ran.out) == (1, "")
    assert problem in ran.err
    assert sorted(tmp_path.iterdir()) == before


def test_ambiguous_tokens_are_refused(tmp_path):
    rows = SparseMatrix.from_dicts([{0: 1.0, 2: 1.0}], 4)
    for tokens, problem in (
        (["a", "b", "a", "d"], "two terms have the token 'a'"),
        (["a", "b"], "term 2 has no token"),
    ):
        vectors = Vectors("test", lambda _: matrix_batches(rows), vocabulary=tokens)
        for name in ("v.jsonl", "v.ciff", "v.ndjson"):
            with pytest.raises(ValueError, match=problem):
                convert(vectors, tmp_path / name)


def test_duplicate_ids_are_reported(tmp_path, lsr_command):
    vectors = Vectors(
        "x", lambda _: matrix_batches(SparseMatrix.from_dicts([{0: 1.0}] * 2, 60), ["a", "a"]), vocabulary=TOKENS
    )
    for name in ("v.ciff", "v.ndjson", "v.jsonl"):
        convert(vectors, tmp_path / name)
        ran = lsr_command("index", tmp_path / name, "--out", tmp_path / "idx")
        assert ran.code == 1
        assert "the id 'a' occurs twice" in ran.err
