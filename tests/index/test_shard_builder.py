"""build_shards: the shards give the same results as one index, and a second run builds only missing shards."""

import json
import random

import numpy as np
import pytest

from lsr.distributed.pool import Workers
from lsr.encode import corpus as encoding
from lsr.encode import parts
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.passages import Passages
from lsr.errors import DataError, OutputExists
from lsr.index.distributed import build as module
from lsr.index.distributed.build import build_shards
from lsr.index.index import Index
from lsr.index.sharding.manifest import SHARDS
from lsr.index.sharding.remote import folder_of
from lsr.index.storage.manifest import read_manifest
from lsr.index.write.builder import BuildSettings
from lsr.io.corpus import open_corpus
from lsr.io.object_store import Place, with_suffix
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

WORDS = ["wing", "flow", "plate", "shock", "heat", "boundary", "layer", "speed"]
QUERIES = ["wing flow", "heat", "layer speed shock plate"]
PASSAGES = BuildSettings(passages=Passages(2))


@pytest.fixture(scope="module", autouse=True)
def credentials():
    """Set the environment variables that the machines of a cluster need."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "anybody")
        yield


@pytest.fixture(scope="module")
def ray_nodes():
    return 1


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Encode three documents at a time, and write parts of six documents."""
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(parts, "PART", 6)


@pytest.fixture
def corpus(tmp_path):
    """Documents with many equal scores. Some documents are empty, and some are long."""
    rng = random.Random(5)
    lines = [
        {"_id": f"d{i}", "text": " ".join(rng.choices(WORDS, k=rng.choice((0, 2, 3, 3, 9)))), "year": i}
        for i in range(40)
    ]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def build(out, source, shards=3, settings=None, **options):
    made, report = build_shards(
        out,
        open_corpus(source),
        shards=shards,
        encoder=BM25Encoder(),
        settings=settings,
        **options,
    )
    return made, report


def one_index(path, source, settings=None):
    settings = settings or BuildSettings()
    return Index.build(path, open_corpus(source), encoder="bm25", passages=settings.passages, impacts=settings.impacts)


def answers(index):
    return [
        [(hit.id, hit.score, hit.text, hit.metadata) for hit in index.search(query, k, **how)]
        for query in QUERIES
        for k in (1, 7, 40)
        for how in ({}, {"algorithm": "exhaustive"}, {"where": {"year": {">=": 11}}})
    ]


@pytest.mark.parametrize("shards", [1, 3, 7])
@pytest.mark.parametrize("settings", [None, PASSAGES, BuildSettings("float32")])
def test_results_equal_those_of_one_index(tmp_path, corpus, shards, settings):
    one = one_index(tmp_path / "one", corpus, settings)
    made, report = build(tmp_path / "shards", corpus, shards, settings)
    index = Index.open(tmp_path / "shards")
    assert answers(index) == answers(one)
    assert list(index.documents.all_ids()) == list(one.documents.all_ids())
    assert made.documents == len(one)
    assert report.documents == 40
    assert index.max_error == one.max_error
    sizes = [entry.documents for entry in made.entries]
    if settings is not PASSAGES:
        assert max(sizes) - min(sizes) <= 1
    for entry in made.entries:  # each shard is an index of its own
        assert Index.open(made.location(entry)).verify() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs.jsonl", "one", "shards"]


def test_passages_of_a_document_stay_in_one_shard(tmp_path, corpus):
    made, _ = build(tmp_path / "shards", corpus, 7, PASSAGES)
    parents = [set(Index.open(made.location(entry)).documents.all_ids(parents=True)) for entry in made.entries]
    assert sum(map(len, parents)) == len(set.union(*parents)) == 40


class Shouting(FixedBM25Encoder):
    """BM25 whose weights are a thousand times as large for texts that contain "SHOCK"."""

    def encode_document(self, texts):
        made = super().encode_document(texts)
        factors = np.array([1000 if "SHOCK" in text else 1 for text in texts], np.float32)
        return SparseMatrix(made.indptr, made.indices, made.data * factors[made.row_numbers()], made.shape)


@pytest.mark.parametrize("at", [0, 256])
def test_a_document_with_large_weights_does_not_reduce_the_precision_of_other_documents(tmp_path, monkeypatch, at):
    """The document is in the first part, or is the only document of the last part."""
    monkeypatch.setattr(parts, "PART", 128)
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(256)]
    texts.insert(at, "SHOCK flow")
    encoder, path = Shouting(), tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    build_shards(tmp_path / "shards", open_corpus(path), shards=2, encoder=encoder)
    index = Index.open(tmp_path / "shards")
    exact = encoder.encode_document(texts)
    for doc in set(range(257)) - {at}:
        assert index.document_vectors([doc]).row(0)[1] == pytest.approx(exact.row(doc)[1], abs=0.05)
    (found,) = index.search("shock", 1)
    assert found.id == str(at)


def test_all_shards_have_the_same_scale(tmp_path):
    """The scale fits the largest weight of all shards, although the first shard has only small weights."""
    rows = [{1: 3.0, 2: 1.0}] * 4 + [{1: 0.5, 3: 2.0}] * 3 + [{2: 1000.0}]
    matrix = SparseMatrix.from_dicts(rows, 5)
    save_matrix(tmp_path / "v.parquet", matrix)
    made, _ = build_shards(tmp_path / "shards", tmp_path / "v.parquet", shards=2)
    one = Index.build(tmp_path / "one", matrix)
    index = Index.open(tmp_path / "shards")
    assert [s.scale for s in index.searcher.segments] == [s.scale for s in one.searcher.segments] * 2
    query = SparseMatrix.from_dicts([{1: 1.0, 2: 0.1, 3: 7.0}], 5)
    assert [(h.id, h.score) for h in index.search(query)] == [(h.id, h.score) for h in one.search(query)]
    assert made.scale == one.searcher.segments[0].scale


# --- built from vectors


@pytest.mark.parametrize("source", ["folder", "file", "s3"])
def test_shards_can_be_built_from_vectors(tmp_path, corpus, request, source, lsr_command):
    out = {"folder": tmp_path / "v", "file": tmp_path / "v.parquet"}.get(source) or request.getfixturevalue("bucket")(
        "v"
    )
    extra = ["--passages", "2"]
    assert lsr_command("encode", corpus, "--encoder", "bm25", "--out", out, *extra).code == 0
    ran = lsr_command("index", out, "--shards", "3", "--out", tmp_path / "shards")
    *more, last = ran.err.splitlines()
    assert (ran.code, last.startswith(f"{tmp_path / 'shards'}: ")) == (0, True)
    assert [line.rpartition(": ")[0] for line in more] == ["texts without a term of the encoder, which match nothing"]
    assert answers(Index.open(tmp_path / "shards")) == answers(one_index(tmp_path / "one", corpus, PASSAGES))
    assert lsr_command("index", out, "--shards", "3", "--out", tmp_path / "x", "--encoder", "bm25").code == 2


def test_duplicate_ids_in_different_shards_are_refused(tmp_path):
    save_matrix(tmp_path / "v.parquet", SparseMatrix.from_dicts([{1: 1.0}] * 4, 5), ["a", "b", "c", "b"])
    with pytest.raises(DataError, match=r"v\.parquet: row 4: the id 'b' occurs twice, first in .*v\.parquet: row 2"):
        build_shards(tmp_path / "shards", tmp_path / "v.parquet", shards=2)


def test_vectors_in_unsupported_formats_are_refused(tmp_path, lsr_command):
    (tmp_path / "v.jsonl").write_text('{"_id": "a", "vector": {"x": 1.0}}\n')
    ran = lsr_command("index", tmp_path / "v.jsonl", "--shards", "2", "--out", tmp_path / "shards")
    assert (ran.code, "not vectors in Parquet, such as the folder that lsr encode writes" in ran.err) == (1, True)


def test_more_shards_than_documents_are_refused(tmp_path, corpus):
    with pytest.raises(DataError, match="40 documents, too few for 41 shards"):
        build(tmp_path / "shards", corpus, 41)


# --- interrupted and repeated builds


class Stopped(Exception):
    pass


def stop_at(monkeypatch, number):
    """Stop a build at a shard, as a kill would. Returns a list that collects the numbers of the shards that began."""
    built, real = [], module.build_shard

    def build_shard(task, job):
        built.append(int(job[0].split("-")[1]))
        if built[-1] == number:
            raise Stopped
        return real(task, job)

    monkeypatch.setattr(module, "build_shard", build_shard)
    return built


@pytest.fixture(params=["folder", "file", "s3"])
def out(request, tmp_path, own_cache):
    if request.param == "s3":
        return request.getfixturevalue("bucket")("shards")
    return tmp_path / "shards" if request.param == "folder" else (tmp_path / "shards").as_uri()


def test_a_second_run_builds_missing_shards(tmp_path, corpus, monkeypatch, out):
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Stopped):
            build(out, corpus)
    assert SHARDS not in Place(out).sizes()
    built = stop_at(monkeypatch, None)
    encoded = []
    monkeypatch.setattr(parts, "_encode_part", lambda *args: encoded.append(args))
    build(out, corpus)
    assert (built, encoded) == ([1, 2], [])
    assert answers(Index.open(str(out))) == answers(one_index(tmp_path / "one", corpus))
    assert Place(with_suffix(out, ".partial")).sizes() == {}


def test_the_old_index_stays_until_the_new_index_is_complete(tmp_path, corpus, monkeypatch, out):
    build(out, corpus)
    before = answers(Index.open(str(out)))
    with pytest.raises(OutputExists, match="a sharded index exists already"):
        build(out, corpus)
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:20]))
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Stopped):
            build(out, corpus, overwrite=True)
    index = Index.open(str(out))
    assert answers(index) == before
    made, _ = build(out, corpus, overwrite=True)
    assert len(Index.open(str(out))) == 20
    if index.uri:
        index.refresh()
        assert len(index) == 20
        assert {p.name for p in index.path.glob("shard-*")} == {entry.path for entry in made.entries}
    tops = {name.partition("/")[0] for name in Place(out).sizes()}
    assert tops == {SHARDS, *(entry.path for entry in made.entries)}


def test_a_damaged_index_is_rebuilt(tmp_path, corpus):
    """Damaged shards aren't reused, although documents and settings are the same."""
    made, _ = build(tmp_path / "shards", corpus)
    for path in (tmp_path / "shards").rglob("postings.arrow"):
        path.write_bytes(b"")
    again, _ = build(tmp_path / "shards", corpus, overwrite=True)
    assert {e.path for e in made.entries}.isdisjoint(e.path for e in again.entries)
    assert Index.open(tmp_path / "shards").verify() == []


def test_shards_do_not_replace_an_index(tmp_path, corpus, own_cache):
    one_index(tmp_path / "one", corpus)
    with pytest.raises(OutputExists, match=r"something other than shards is here \(manifest\.json\)"):
        build(tmp_path / "one", corpus, overwrite=True)


def test_a_bad_line_is_reported_and_can_be_skipped(tmp_path, corpus, lsr_command):
    corpus.write_text(corpus.read_text() + "no JSON\n")
    ran = lsr_command("index", corpus, "--encoder", "bm25", "--shards", "2", "--out", tmp_path / "s")
    assert (ran.code, ran.err.count("docs.jsonl:41: not JSON")) == (1, 1)
    ran = lsr_command("index", corpus, "--encoder", "bm25", "--shards", "2", "--out", tmp_path / "s", "--skip-bad")
    assert ran.code == 0
    assert "skipped 1 bad document, the first" in ran.err
    assert len(Index.open(tmp_path / "s")) == 40


# --- on a Ray cluster


def digests(made):
    """For each shard, {file name without the segment's random name: SHA-256}."""
    manifests = [read_manifest(folder_of(made.location(entry))) for entry in made.entries]
    return [{name.partition("/")[2]: file["sha256"] for name, file in m["files"].items()} for m in manifests]


def test_losing_a_machine_during_a_build_changes_no_shard(tmp_path, corpus, ray_cluster, monkeypatch):
    alone, _ = build(tmp_path / "alone", corpus, 6)
    doomed = ray_cluster.add_node(num_cpus=1, memory=4 << 30, object_store_memory=80 << 20)
    real, built = module.do_jobs, []

    def do(*args):
        for number, name in enumerate(real(*args)):
            if number == 1:
                ray_cluster.remove_node(doomed, allow_graceful=False)
            built.append(name)
            yield name

    monkeypatch.setattr(module, "do_jobs", do)
    made, _ = build(tmp_path / "many", corpus, 6, workers=Workers(ray_cluster.address))
    assert sorted(built) == [entry.path for entry in made.entries]
    assert digests(made) == digests(alone)
    assert answers(Index.open(tmp_path / "many")) == answers(one_index(tmp_path / "one", corpus))


def test_shards_of_a_remote_corpus_are_built_in_object_storage(tmp_path, corpus, ray_cluster, bucket, lsr_command):
    Place(bucket()).put(corpus, "docs.jsonl")
    args = ["index", bucket("docs.jsonl"), "--encoder", "bm25", "--out", bucket("idx"), "--shards", "3"]
    ran = lsr_command(*args, "--ray", ray_cluster.address, "--workers", "2", "--memory", "1024")
    assert ran.code == 0, ran.err
    assert answers(Index.open(bucket("idx"))) == answers(one_index(tmp_path / "one", corpus))
    assert Index.open(bucket("idx")).verify() == []
    ran = lsr_command(*args, "--overwrite", "--ray", ray_cluster.address, "--memory", "9999999")
    assert (ran.code, "building workers of 1 CPU" in ran.err) == (1, True)
    assert "fit: there is room for 0" in ran.err
