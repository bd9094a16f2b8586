"""Cluster search gives exact scores, and exact rankings if nothing is skipped. Forged files cause no invalid reads."""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.cli import cli
from lsr.errors import CorruptIndex, IndexFormatError
from lsr.index.index import Index
from lsr.index.kernels.clustered import CLUSTER, GROUP
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.clusters import CLUSTERS, document_of
from lsr.index.storage.arrow_file import write_arrow
from lsr.sparse import SparseMatrix

EVERYTHING = SearchSettings("clusters", cut=10_000, heap_factor=0)
FILES = (
    "clusters.arrow",
    "forward.arrow",
    "forward_groups.arrow",
    "forward_terms.arrow",
    "summaries.arrow",
    "summary_ends.arrow",
)


def random_matrix(rng, n_docs, n_terms, longest, palette=(1.0, 2.0, 255.0)):
    """A matrix with 0 to `longest` terms per row. Every fourth row repeats an earlier row."""
    pool = np.unique(np.concatenate((rng.integers(0, n_terms, 60), [0, n_terms - 1])))
    rows = []
    for i in range(n_docs):
        if i and i % 4 == 0:
            rows.append(rows[rng.integers(i)])
            continue
        terms = rng.choice(pool, rng.integers(0, min(longest, len(pool)) + 1), replace=False)
        rows.append((terms, rng.choice(palette, len(terms))))
    return SparseMatrix.from_rows(rows, n_terms)


def query(terms, weights=1.0):
    terms = np.unique(np.asarray(terms, np.uint32))
    return terms, np.broadcast_to(np.asarray(weights, np.float32), terms.shape).copy()


def require_exact(segment, terms, weights, ks=(1, 10, 10_000), chosen=EVERYTHING):
    for k in ks:
        docs, scores = segment.search(terms, weights, k, SearchSettings("exhaustive"))
        found = segment.search(terms, weights, k, chosen)
        assert found[0].tolist() == docs.tolist()
        assert found[1].tolist() == scores.tolist()


@pytest.fixture(scope="module")
def topical():
    """3,000 documents on 30 topics. Each document has terms of its topic and common terms."""
    rng = np.random.default_rng(5)
    rows = []
    for topic in rng.integers(0, 30, 3000):
        terms = np.unique(np.concatenate((topic * 40 + rng.integers(0, 40, 25), 1200 + rng.integers(0, 300, 15))))
        rows.append((terms, rng.integers(1, 200, len(terms)).astype(float)))
    return SparseMatrix.from_rows(rows, 1500)


@pytest.fixture(scope="module")
def path(topical, tmp_path_factory):
    path = tmp_path_factory.mktemp("clusters") / "idx"
    Index.build(path, topical, clusters=True)
    return path


@pytest.fixture
def copy(path, tmp_path):
    shutil.copytree(path, tmp_path / "idx")
    return tmp_path / "idx"


def data_folder(path):
    return path / json.loads((path / "manifest.json").read_bytes())["segments"][0]["name"]


# --- exact if nothing is skipped --------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    n_docs=st.sampled_from([1, 2, 60, 64, 65, 300]),
    n_terms=st.sampled_from([1, 40, 300_000, 2**31]),
    longest=st.sampled_from([0, 1, 12, 50]),
    memory=st.sampled_from([24 * 400, 1 << 30]),
)
@settings(max_examples=40, deadline=None)
def test_results_equal_exhaustive_search_if_nothing_is_skipped(seed, n_docs, n_terms, longest, memory):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, n_docs, n_terms, longest)
    order = "given" if n_terms == 2**31 else "bisection"
    with tempfile.TemporaryDirectory() as folder:
        built = Index.build(
            Path(folder) / "idx", matrix, clusters=True, summary_mass=1.0, memory=memory, order=order
        ).searcher
        for size in (0, 1, 5, 40):
            terms = np.concatenate(
                (rng.choice(matrix.indices, size) if matrix.nnz else [], rng.integers(0, n_terms, 2))
            )
            require_exact(built, *query(terms, rng.choice([0.5, 1.0, 3.0])))
            # Complete summaries are upper bounds, so the search is also exact with a heap factor of 1.
            require_exact(built, *query(terms), chosen=SearchSettings("clusters", cut=10_000, heap_factor=1))


def test_results_are_exact_for_weights_of_255_and_queries_of_2000_terms(tmp_path):
    rng = np.random.default_rng(2)
    rows = [(rng.choice(3000, 1500, replace=False), np.full(1500, 255.0)) for _ in range(130)]
    segment = Index.build(
        tmp_path / "idx", SparseMatrix.from_rows(rows, 3000), clusters=True, summary_mass=1.0
    ).searcher
    terms = np.sort(rng.choice(3000, 2000, replace=False))
    require_exact(segment, *query(terms, rng.random(2000)))


def test_results_are_exact_for_documents_with_distant_terms(tmp_path):
    # The terms of the first document span the whole vocabulary: up to 150,000 ranks lie between them.
    n_terms = 150_000
    filler = [(np.arange(i * 3000, (i + 1) * 3000), np.ones(3000)) for i in range(50)]
    rows = [(np.array([0, 65_534, 65_535, 149_999]), np.array([3.0, 4.0, 5.0, 6.0])), *filler]
    segment = Index.build(
        tmp_path / "idx", SparseMatrix.from_rows(rows, n_terms), clusters=True, summary_mass=1.0, order="given"
    ).searcher
    for term in (0, 1, 65_533, 65_534, 65_535, 65_536, 131_069, 149_999):
        require_exact(segment, *query([term]))
    require_exact(segment, *query([0, 65_534, 65_535, 149_999], [1.0, 2.0, 3.0, 4.0]))


def test_results_are_exact_over_several_windows(tmp_path):
    rng = np.random.default_rng(3)
    n = 70_000
    terms = np.sort(rng.integers(0, 5000, (n, 3)) * 3 + np.arange(3), axis=1)
    matrix = SparseMatrix(
        np.arange(n + 1) * 3, terms.ravel().astype(np.int32), rng.integers(1, 9, 3 * n).astype(np.float32), (n, 15_000)
    )
    segment = Index.build(tmp_path / "idx", matrix, clusters=True, summary_mass=1.0, order="given").searcher
    assert segment.n_windows == 2
    for _ in range(5):
        require_exact(segment, *query(rng.integers(0, 15_000, 20), rng.random()), ks=(10, 100))


# --- approximate search -----------------------------------------------------------------------------------------------


def test_scores_are_exact_even_if_clusters_are_skipped(path, topical):
    segment = Index.open(path).searcher
    for doc in range(0, 3000, 300):
        terms, weights = topical.row(doc)
        docs, scores = segment.search(terms, weights, 3000)
        truth = dict(zip(docs.tolist(), scores.tolist(), strict=True))
        for cut, heap_factor in ((1, 1.5), (3, 1), (8, 0.9), (12, 0.5)):
            docs, scores = segment.search(
                terms, weights, 20, SearchSettings("clusters", cut=cut, heap_factor=heap_factor)
            )
            assert len(set(docs.tolist())) == len(docs) == 20
            assert scores.tolist() == [truth[doc] for doc in docs.tolist()]
            assert sorted(zip(-scores, docs, strict=True)) == list(zip(-scores, docs, strict=True))


def test_recall_and_work_depend_on_cut_heap_factor_and_mass(path, topical, tmp_path):
    index = Index.open(path)
    sample = topical[np.arange(0, 3000, 60)]

    def recall(**chosen):
        return index.recall(sample, algorithm="clusters", **chosen)

    assert recall(cut=40, heap_factor=0) == 1.0
    assert recall(cut=1, heap_factor=3) < recall(cut=8, heap_factor=1) <= recall(cut=40, heap_factor=0.5)
    assert index.recall(sample) == 1.0

    def looked_into(**chosen):
        plans = [index.explain_plan(sample[i], algorithm="clusters", **chosen) for i in range(10)]
        return sum(plan.blocks_scored for plan in plans)

    assert looked_into(heap_factor=2) < looked_into(heap_factor=0.9) < looked_into(heap_factor=0)
    thin = Index.build(tmp_path / "thin", topical, clusters=True, summary_mass=0.01)
    assert thin.file_sizes()["summaries.arrow"] < index.file_sizes()["summaries.arrow"] / 4


def test_the_plan_counts_clusters_and_postings(path, topical):
    plan = Index.open(path).explain_plan(topical[0], algorithm="clusters")
    assert (plan.algorithm, plan.reason, plan.windows_scanned) == ("clusters", "asked for", 0)
    assert plan.blocks == -(-3000 // CLUSTER)
    assert 0 < plan.blocks_scored < plan.blocks
    assert 0 < plan.postings_scored < plan.postings
    assert "clusters scored" in str(plan)
    assert not SearchSettings("clusters").exact


def test_guaranteed_clusters_are_scored(path, topical):
    index = Index.open(path)
    few, all_of_them = (
        index.explain_plan(topical[7], algorithm="clusters", heap_factor=100, guaranteed=n).blocks_scored
        for n in (0, 10**30)
    )
    assert few < all_of_them


def test_threads_give_equal_results(path, topical):
    index = Index.open(path)
    wanted = [[hit.doc for hit in index.search(topical[i], algorithm="clusters")] for i in range(50)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: [h.doc for h in index.search(topical[i], algorithm="clusters")], range(50)))
    assert found == wanted


def test_the_forward_index_stores_the_vectors_of_documents(path, topical):
    (segment,) = Index.open(path).searcher.segments
    order = segment.order
    for place in (0, 1, CLUSTER - 1, CLUSTER, 1777, 2999):
        ranks, impacts = document_of(segment.clusters, place)
        terms, weights = topical.row(int(order[place]))
        assert segment.terms[ranks].tolist() == terms.tolist()
        assert impacts.tolist() == weights.tolist()
    assert segment.clusters.groups.ctypes.data % 64 == 0, "a group isn't aligned to a cache line"


# --- invalid requests -------------------------------------------------------------------------------------------------


def test_an_index_without_clusters_refuses_cluster_search(tmp_path, topical):
    index = Index.build(tmp_path / "idx", topical[:50])
    assert not set(index.file_sizes()) & set(FILES)
    with pytest.raises(IndexFormatError, match=r"no clusters.*--clusters"):
        index.search(topical[0], algorithm="clusters")
    with pytest.raises(IndexFormatError, match="no clusters"):
        index.recall(algorithm="clusters")
    index = Index.build(tmp_path / "float", topical[:50], impacts="float32")
    with pytest.raises(IndexFormatError, match="float32"):
        index.search(topical[0], algorithm="clusters")
    with pytest.raises(ValueError, match="8-bit"):
        Index.build(tmp_path / "never", topical[:50], impacts="float32", clusters=True)
    with pytest.raises(ValueError, match="summary_mass"):
        Index.build(tmp_path / "never", topical[:50], clusters=True, summary_mass=0)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "wrong", [{"cut": 0}, {"cut": 1.5}, {"cut": True}, {"heap_factor": -1}, {"heap_factor": np.nan}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchSettings("clusters", **wrong)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_missing_truncated_and_changed_files_are_detected(copy, name):
    file = data_folder(copy) / name
    content = file.read_bytes()
    file.write_bytes(content[:-200])
    with pytest.raises(CorruptIndex, match=name):
        Index.open(copy)
    file.write_bytes(content[:-300] + b"x" + content[-299:])
    with pytest.raises(CorruptIndex, match=name):
        Index.open(copy)
    file.unlink()
    with pytest.raises(CorruptIndex, match=name):
        Index.open(copy)


def forge(copy, name, **columns):
    """Replace a file and correct its checksum."""
    import hashlib

    from lsr.index.storage.manifest import read_manifest, with_checksum

    manifest = read_manifest(copy)
    file = data_folder(copy) / name
    write_arrow(file, columns)
    content = file.read_bytes()
    manifest["files"][f"{file.parent.name}/{name}"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (copy / "manifest.json").write_bytes(with_checksum(manifest))


def columns_of(copy, name):
    import pyarrow as pa

    with pa.OSFile(str(data_folder(copy) / name)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        return {field: batch.column(field).to_numpy(zero_copy_only=False).copy() for field in batch.schema.names}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["largest", "random", "zero", "half"])
def test_forged_files_are_refused_or_read_within_bounds(copy, topical, name, how):
    rng = np.random.default_rng(1)
    columns = columns_of(copy, name)
    for field, values in columns.items():
        largest = np.iinfo(values.dtype).max
        columns[field] = {
            "largest": np.full_like(values, largest),
            "random": rng.integers(0, largest, len(values), values.dtype, endpoint=True),
            "zero": np.zeros_like(values),
            "half": values[: len(values) // 2],
        }[how]
    forge(copy, name, **columns)
    try:
        index = Index.open(copy)
    except CorruptIndex:
        return
    for i in range(0, 3000, 250):
        for chosen in (EVERYTHING, SearchSettings("clusters")):
            docs, _ = index.searcher.search(*topical.row(i), 10, chosen)
            assert len(docs) == 0 or (docs.min() >= 0 and docs.max() < 3000)
    with suppress(CorruptIndex):
        index.recall(algorithm="clusters")


def test_files_of_another_index_are_refused(copy, topical, tmp_path):
    other = Index.build(tmp_path / "other", topical[:100], clusters=True)
    name = "summary_ends.arrow"
    assert other.searcher.segments[0].clusters.summary_ends.shape != (
        len(Index.open(copy).searcher.segments[0].terms) + 1,
    )
    forge(copy, name, end=columns_of(copy, name)["end"][1:])
    with pytest.raises(CorruptIndex, match="don't fit together"):
        Index.open(copy)
    groups = columns_of(path := tmp_path / "other", "forward_groups.arrow")["entry"]
    forge(path, "forward_groups.arrow", entry=groups[:-GROUP])
    with pytest.raises(CorruptIndex, match="don't fit together"):
        Index.open(path)


# --- on the command line ----------------------------------------------------------------------------------------------


def test_commands_build_and_search_clusters(tmp_path):
    docs = tmp_path / "docs.jsonl"
    docs.write_text(
        "".join(json.dumps({"_id": str(i), "text": f"wing flow number{i % 7} word{i}"}) + "\n" for i in range(300))
    )
    run, words = CliRunner().invoke, ("--encoder", "bm25")
    made = run(cli, ["index", str(docs), "--out", str(tmp_path / "idx"), *words, "--clusters", "--summary-mass", "1"])
    assert made.exit_code == 0, made.output
    assert "clusters: recall@10 " in made.stderr
    assert CLUSTERS in Index.open(tmp_path / "idx").file_sizes()
    ask = ["search", str(tmp_path / "idx"), "wing number3 word10"]
    exact = run(cli, ask).stdout
    chosen = ["--algorithm", "clusters", "--cut", "3", "--heap-factor", "0"]
    assert run(cli, [*ask, *chosen]).stdout == exact
    assert json.loads(run(cli, [*ask, *chosen, "--plan"]).stdout)["algorithm"] == "clusters"
    assert run(cli, ["verify", str(tmp_path / "idx")]).exit_code == 0
    for wrong in (["--cut", "0"], ["--heap-factor", "-1"]):
        assert run(cli, [*ask, *wrong]).exit_code == 2
    again = ["index", str(docs), "--out", str(tmp_path / "other"), *words]
    for wrong in (
        ["--clusters", "--impacts", "float32"],
        ["--summary-mass", "0.5"],
        ["--clusters", "--summary-mass", "2"],
    ):
        assert run(cli, [*again, *wrong]).exit_code == 2
    assert run(cli, again).exit_code == 0
    missing = run(cli, ["search", str(tmp_path / "other"), "wing", "--algorithm", "clusters"])
    assert missing.exit_code != 0
