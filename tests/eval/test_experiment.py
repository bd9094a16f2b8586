"""Experiments measure the same values as direct calls, reuse cached artifacts, and report all problems."""

from __future__ import annotations

import json

import filelock
import numpy as np
import pyarrow.parquet as pq
import pytest

from lsr.config import read_config
from lsr.errors import DataError, OutputExists
from lsr.eval.datasets import Dataset, open_dataset, open_datasets
from lsr.eval.evaluate import evaluate_index, evaluate_run
from lsr.eval.experiment import systems as module
from lsr.eval.experiment.experiment import file_name, named, run_experiment
from lsr.eval.experiment.settings import ExperimentSettings, IndexSettings, LatencySettings, SystemSettings
from lsr.eval.overlap import rank_biased_overlap
from lsr.eval.report.load_results import read_results
from lsr.eval.report.report import write_report
from lsr.eval.report.tables import queries
from lsr.eval.significance import compare_seeds, holm
from lsr.index.hybrid.fusion import reciprocal_rank_fusion
from lsr.index.index import Index
from lsr.index.search.settings import SearchSettings
from lsr.io.corpus import open_corpus
from lsr.io.runs import as_run, read_run

pytest.importorskip("ir_measures")

WORDS = ["wing", "flow", "heat", "shock", "layer", "plate", "jet", "nozzle", "drag", "lift", "body", "cone"]
MEASURES = "nDCG@10 R@100"
LATENCY = LatencySettings(k=3, queries=5, rounds=1)


def make_dataset(folder, seed, n_docs=60, n_queries=8):
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(n_docs)]
    queries = [" ".join(rng.choice(WORDS, 2, replace=False)) for _ in range(n_queries)]
    docs = "".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text(docs)
    lines = "".join(json.dumps({"_id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(queries))
    (folder / "queries.jsonl").write_text(lines)
    qrels = "".join(f"q{i}\td{d}\t1\n" for i in range(n_queries) for d in rng.choice(n_docs, 4, replace=False))
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return named([open_dataset(str(make_dataset(root / name, seed))) for seed, name in enumerate(("one", "two"))])


@pytest.fixture(scope="module")
def vectors(datasets, tmp_path_factory, module_command):
    """For each dataset: document vectors, query vectors, and a run that could be another engine's."""
    root = tmp_path_factory.mktemp("theirs")
    for name, dataset in datasets.items():
        docs = root / f"{name}.parquet"
        assert module_command("encode", dataset.source, "--out", docs, "--encoder", "bm25", "--no-text") == 0
        queries = root / f"{name}-queries.jsonl"
        assert module_command("encode", dataset.source, "--queries", "--encoder", docs, "--out", queries) == 0
        index = Index.build(root / f"{name}-index", dataset.corpus(), encoder="bm25")
        evaluated = evaluate_index(index, dataset, MEASURES)
        with (root / f"{name}.trec").open("w") as file:
            for query, hits in evaluated.run.items():
                file.writelines(f"{query} Q0 {d} {i + 1} {s} other\n" for i, (d, s) in enumerate(hits.items()))
    return root


@pytest.fixture(scope="module")
def module_command():
    from lsr.cli import main

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return int(ended.value.code or 0)

    return run


@pytest.fixture(scope="module")
def settings(vectors):
    clustered, theirs = IndexSettings(clusters=True), f"{vectors}/{{dataset}}"
    return ExperimentSettings(
        systems=(
            SystemSettings("BM25", encoder="bm25"),
            SystemSettings("exact", encoder="bm25", index=clustered),
            SystemSettings(
                "clusters", encoder="bm25", index=clustered, search=SearchSettings(algorithm="clusters", cut=1)
            ),
            SystemSettings("theirs", documents=f"{theirs}.parquet", queries=f"{theirs}-queries.jsonl"),
            SystemSettings("their run", run=f"{theirs}.trec"),
            SystemSettings("fused", fuse=("BM25", "clusters")),
            SystemSettings("added up", fuse=("BM25", "clusters"), method="interpolation", weights=(0.3, 0.7)),
        ),
        measures=MEASURES,
        latency=LATENCY,
    )


@pytest.fixture(scope="module")
def done(settings, datasets, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "out"
    return out, run_experiment(settings, datasets, out)


def result(record, dataset, system):
    return next(r for r in record["results"] if (r["dataset"], r["system"]) == (dataset, system))


def test_an_experiment_measures_the_same_values_as_direct_calls(done, datasets, tmp_path):
    _, record = done
    for name, dataset in datasets.items():
        direct = evaluate_index(Index.build(tmp_path / name, dataset.corpus(), encoder="bm25"), dataset, MEASURES)
        for system in ("BM25", "exact", "theirs", "their run"):
            assert result(record, name, system)["measures"] == pytest.approx(direct.measures)


def test_each_search_mode_of_an_encoder_can_be_a_system(datasets, tmp_path):
    pytest.importorskip("onnxruntime")
    from lsr.encode.load import load_encoder

    modes = ("sparse", "hybrid", "dense")
    systems = tuple(SystemSettings(mode, encoder="lsr-mini", mode=mode) for mode in modes)
    settings = ExperimentSettings(systems, measures=MEASURES, latency=LATENCY)
    one = {"one": datasets["one"]}
    record = run_experiment(settings, one, tmp_path / "out")
    encoder = load_encoder("lsr-mini")
    index = Index.build(tmp_path / "index", one["one"].corpus(), encoder=encoder, hybrid=True, passages=None)
    values = []
    for mode in modes:
        found = result(record, "one", mode)
        direct = evaluate_index(index, one["one"], MEASURES, mode=mode)
        assert found["measures"] == pytest.approx(direct.measures)
        assert found["search_ms"]["p50"] > 0
        values.append(found["measures"]["nDCG@10"])
    assert len(set(values)) == 3
    assert result(record, "one", "hybrid")["encode_ms"]["p50"] > result(record, "one", "sparse")["encode_ms"]["p50"]
    lengths = [result(record, "one", mode)["document_terms"] for mode in modes]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=1e-3)


def test_the_record_has_settings_sizes_and_times(done):
    out, record = done
    assert json.loads((out / "experiment.json").read_text()) == record
    assert [dataset["documents"] for dataset in record["datasets"]] == [60, 60]
    assert (record["baseline"], record["k"]) == ("BM25", 3)
    clusters = next(system for system in record["systems"] if system["name"] == "clusters")
    assert (clusters["exact"], clusters["exact_name"]) == (False, "exact")
    timed = result(record, "one", "clusters")
    assert 0 <= timed["recall"] <= 1
    assert timed["search_ms"]["p50"] > 0
    assert timed["queries_per_second"] > 0
    assert timed["index_bytes"] == sum(timed["index_parts"].values())
    assert sum(timed["lengths"]["counts"]) == 60
    assert result(record, "one", "BM25")["recall"] is None
    assert result(record, "one", "their run")["search_ms"] is None


def test_flops_count_the_terms_that_queries_and_documents_share(done, datasets):
    _, record = done
    dataset = datasets["one"]
    docs = [set(d.content.split()) for d in dataset.corpus()]
    queries = [set(query.text.split()) for query in open_corpus(dataset.source, queries=True)]
    shared = np.mean([len(q & d) for q in queries for d in docs])
    assert result(record, "one", "BM25")["flops"] == pytest.approx(shared)
    assert result(record, "one", "BM25")["query_terms"] == 2


def test_times_and_values_per_query_are_written(done, datasets):
    out, record = done
    rows = pq.read_table(out / "per-query.parquet").to_pylist()
    assert len(rows) == len(datasets) * 7 * 2 * 8
    mine = [r["value"] for r in rows if (r["dataset"], r["system"], r["measure"]) == ("two", "fused", "nDCG@10")]
    assert np.mean(mine) == pytest.approx(result(record, "two", "fused")["measures"]["nDCG@10"])
    times = pq.read_table(out / "latencies.parquet").to_pylist()
    assert len(times) == len(datasets) * 6 * LATENCY.queries  # all systems except the run from a file
    texts = {(row["dataset"], row["query"]): row["text"] for row in pq.read_table(out / "queries.parquet").to_pylist()}
    assert texts == {
        (name, query.id): query.text
        for name, dataset in datasets.items()
        for query in open_corpus(dataset.source, queries=True)
        if query.id in dataset.qrels
    }


def test_fused_runs_equal_the_fusion_of_the_written_runs(done):
    out, _ = done
    kept = {name: read_run(out / "runs" / "one" / f"{name}.trec.gz") for name in ("BM25", "clusters", "fused")}
    expected = reciprocal_rank_fusion([kept["BM25"], kept["clusters"]])
    assert kept["fused"] == {q: pytest.approx(hits) for q, hits in expected.items()}


def test_a_fusion_has_a_latency_and_the_total_size_of_its_indexes(done):
    _, record = done
    for dataset in ("one", "two"):
        bm25, exact, clusters, fused = (
            result(record, dataset, name) for name in ("BM25", "exact", "clusters", "fused")
        )
        assert fused["search_ms"]["p50"] > 0
        assert fused["queries_per_second"] is None
        assert fused["index_bytes"] == bm25["index_bytes"] + clusters["index_bytes"]
        assert exact["index_bytes"] == clusters["index_bytes"]


def test_the_timed_search_of_a_fusion_finds_the_hits_of_its_written_run(datasets, vectors, tmp_path, monkeypatch):
    """The size counts each index once. A fusion with a run from a file has neither latency nor size."""
    systems = (
        SystemSettings("BM25", encoder="bm25"),
        SystemSettings("again", encoder="bm25"),
        SystemSettings("their run", run=f"{vectors}/{{dataset}}.trec"),
        SystemSettings("both", fuse=("BM25", "again")),
        SystemSettings("nested", fuse=("both", "BM25")),
        SystemSettings("with a run", fuse=("BM25", "their run")),
    )
    found = []

    def take(calls, n, rounds):
        found.extend([call(i) for i in range(n)] for call in calls)
        return np.arange(1.0, len(calls) + 1)[:, None].repeat(n, 1)

    monkeypatch.setattr("lsr.eval.experiment.systems.time_together", take)
    out = tmp_path / "out"
    how = ExperimentSettings(systems, measures=MEASURES, latency=LATENCY)
    record = run_experiment(how, {"one": datasets["one"]}, out)
    bm25, both, nested, run = (result(record, "one", name) for name in ("BM25", "both", "nested", "with a run"))
    assert bm25["index_bytes"] == both["index_bytes"] == nested["index_bytes"]
    assert [one["search_ms"]["p50"] for one in (bm25, both, nested)] == [1, 3, 4]
    assert (run["index_bytes"], run["search_ms"]) == (None, None)
    rows = pq.read_table(out / "latencies.parquet").to_pylist()
    queries = [row["query"] for row in rows if row["system"] == "both"]
    for number, name in ((2, "both"), (3, "nested")):
        written = read_run(out / "runs" / "one" / f"{name}.trec.gz")
        assert [list(hits) for hits in found[number]] == [list(written[query])[:3] for query in queries]


def test_all_other_systems_are_compared_with_the_baseline(done):
    _, record = done
    assert {c["system"] for c in record["comparisons"]} == {s["name"] for s in record["systems"]} - {"BM25"}
    same = next(c for c in record["comparisons"] if c["system"] == "their run")
    assert (same["difference"], same["p"], same["ties"]) == (0, 1, 8)


def test_all_pairs_are_tested_with_one_correction_of_p_values(done):
    _, record = done
    pairs = record["pairs"]
    assert len(pairs) == 2 * 7 * 6 / 2
    assert [row["p_corrected"] for row in pairs] == holm([row["p"] for row in pairs])
    for row in record["comparisons"]:
        if row["measure"] == "nDCG@10":
            same = next(
                p for p in pairs if all(p[key] == row[key] for key in ("dataset", "system", "baseline", "measure"))
            )
            assert (same["p"], same["difference"]) == (row["p"], row["difference"])


def test_the_similarity_of_rankings_is_recorded(done, datasets):
    out, record = done
    found = {(a["dataset"], a["system"], a["other"]): a for a in record["alike"]}
    assert found["one", "their run", "BM25"]["rbo"] == pytest.approx(1)
    assert found["one", "their run", "BM25"]["tau"] == pytest.approx(1)
    first, second = (read_run(out / "runs" / "one" / f"{name}.trec.gz") for name in ("clusters", "BM25"))
    queries = first.keys() | second.keys()
    expected = [rank_biased_overlap(list(first.get(q, ())), list(second.get(q, ()))) for q in queries]
    assert found["one", "clusters", "BM25"]["rbo"] == pytest.approx(np.mean(expected)) != pytest.approx(1)


def test_query_texts_and_recall_by_depth_are_written(done, datasets):
    out, record = done
    found = result(record, "one", "BM25")
    run = read_run(out / "runs" / "one" / "BM25.trec.gz")
    for k, value in found["recall_at"].items():
        assert value == pytest.approx(evaluate_run(run, datasets["one"], f"R@{k}").measures[f"R@{k}"])
    assert list(found["recall_at"]) == ["1", "2", "5", "10", "20", "50"]
    texts = pq.read_table(out / "queries.parquet").to_pylist()
    assert len(texts) == 16
    write_report(out)
    page = (out / "report.html").read_text()
    assert all(caption in page for caption in ("All pairs, nDCG@10", "Similarity of rankings", "Recall against depth"))


def test_a_second_run_reuses_all_cached_artifacts(done, settings, datasets, monkeypatch):
    out, record = done
    for name in ("encode_to", "time_together", "throughput"):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(Index, "build", None)
    again = run_experiment(settings, datasets, out)
    assert {**again, "date": ""} == {**record, "date": ""}


def test_a_changed_setting_rebuilds_only_dependent_artifacts(done, settings, datasets, monkeypatch, tmp_path):
    out, _ = done
    monkeypatch.setattr(module, "encode_to", None)  # fails if a document is encoded
    more = (*settings.systems, SystemSettings("floats", encoder="bm25", index=IndexSettings(impacts="float32")))
    record = run_experiment(ExperimentSettings(more, measures=MEASURES, latency=LATENCY), datasets, out)
    assert result(record, "one", "floats")["measures"]["R@100"] > 0


def test_a_killed_run_resumes(settings, datasets, monkeypatch, tmp_path):
    encoded = []
    real = module.encode_to

    def counted(corpus, *args, **kwargs):
        encoded.append(corpus.name)
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return real(corpus, *args, **kwargs)

    monkeypatch.setattr(module, "encode_to", counted)
    few = ExperimentSettings(settings.systems[:2], measures=MEASURES, latency=LATENCY)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(few, datasets, tmp_path / "out")
    assert not (tmp_path / "out" / "experiment.json").exists()
    record = run_experiment(few, datasets, tmp_path / "out")
    assert len(record["results"]) == 4
    assert encoded == [encoded[0], encoded[1], encoded[1]]


def test_changed_documents_are_encoded_again(tmp_path, settings):
    few = ExperimentSettings(settings.systems[:1], measures=MEASURES, latency=LATENCY)
    folder = make_dataset(tmp_path / "data", 5)
    first = run_experiment(few, named([open_dataset(str(folder))]), tmp_path / "out")
    (folder / "corpus.jsonl").write_text('{"_id": "d0", "text": "wing"}\n')
    (folder / "qrels" / "test.tsv").write_text("q0\td0\t1\n")
    second = run_experiment(few, named([open_dataset(str(folder))]), tmp_path / "out")
    assert first["datasets"][0]["documents"] == 60
    assert second["datasets"][0]["documents"] == 1
    assert result(second, "data", "BM25")["document_terms"] == 1


def test_a_dataset_may_consist_of_vectors(datasets, vectors, tmp_path):
    documents, queries = str(vectors / "one.parquet"), str(vectors / "one-queries.jsonl")
    qrels = str(datasets["one"].qrels_path)
    dataset = open_dataset("ours", documents=documents, queries=queries, qrels=qrels)
    systems = (SystemSettings("theirs", documents=documents, queries=queries),)
    record = run_experiment(ExperimentSettings(systems, latency=LATENCY), named([dataset]), tmp_path / "out")
    assert (record["datasets"][0]["documents"], record["datasets"][0]["notes"]) == (60, ["its documents are vectors"])
    assert result(record, "ours", "theirs")["measures"]["R@100"] > 0


def test_own_documents_are_left_out(tmp_path):
    folder = make_dataset(tmp_path / "arguana", 7)
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(
            json.dumps(
                {"_id": "q0", "text": json.loads((folder / "queries.jsonl").read_text().splitlines()[0])["text"]}
            )
        )
    systems = (SystemSettings("BM25", encoder="bm25"), SystemSettings("again", fuse=("BM25",)))
    dataset = open_dataset(str(folder))
    record = run_experiment(ExperimentSettings(systems, depth=61, latency=LATENCY), named([dataset]), tmp_path / "out")
    for system in ("BM25", "again"):
        assert "q0" not in read_run(tmp_path / "out" / "runs" / "arguana" / f"{system}.trec.gz")["q0"]
    assert "own document" in record["datasets"][0]["notes"][1]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (
            SystemSettings("x", documents="no/{dataset}.parquet", queries="no"),
            r"no/one.parquet and no: no such vectors",
        ),
        (SystemSettings("x", run="no/{dataset}.trec"), r"no/one.trec"),
        (SystemSettings("x", encoder="bm25", mode="hybrid"), "has no dense vectors"),
    ],
)
def test_the_error_names_a_missing_input(system, message, datasets, tmp_path):
    with pytest.raises((DataError, OSError), match=message):
        run_experiment(ExperimentSettings((system,), latency=LATENCY), datasets, tmp_path / "out")


def test_all_missing_inputs_are_reported_before_any_work(datasets, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "encode_to", None)
    (tmp_path / "one.trec").write_text("q0 Q0 d1 1 9 x\nq0 Q0 d1 2 8 x\n")
    systems = (
        *settings.systems[:1],
        SystemSettings("no model", encoder="no/such-model"),
        SystemSettings("vectors", documents="no/{dataset}.parquet", queries="no/{dataset}-queries.jsonl"),
        SystemSettings("run", run=f"{tmp_path}/{{dataset}}.trec"),
    )
    wrong = ExperimentSettings(systems, measures="nDGC@10", references=("SPLADE-v9",), latency=LATENCY)
    with pytest.raises(DataError) as error:
        run_experiment(wrong, datasets, tmp_path / "out")
    for text in (
        "'nDGC@10'",
        "figures of SPLADE-v9",
        "the system 'no model'",
        "no/one.parquet and no/one-queries.jsonl",
        "no/two.parquet",
        "one.trec:2: ",
        "two.trec",
    ):
        assert text in str(error.value)
    assert not (tmp_path / "out").exists()


def test_approximate_systems_are_searched_to_the_depth_of_each_measure(tmp_path):
    folder = make_dataset(tmp_path / "data", 11, n_docs=2000)
    queries = list(open_corpus(folder, queries=True))
    index = Index.build(tmp_path / "idx", open_corpus(folder), encoder="bm25", clusters=True)
    exact = index.search_batch([query.text for query in queries], 3)
    judged = [f"{query.id}\t{hit.id}\t1\n" for query, hits in zip(queries, exact, strict=True) for hit in hits]
    (folder / "qrels" / "test.tsv").write_text("".join(judged))
    dataset, how = open_dataset(str(folder)), {"algorithm": "clusters", "cut": 1}
    clustered, search = IndexSettings(clusters=True), SearchSettings(**how)
    settings = ExperimentSettings(
        (SystemSettings("clusters", encoder="bm25", index=clustered, search=search),),
        measures="AP@3 R@100",
        latency=LATENCY,
    )
    record = run_experiment(settings, named([dataset]), tmp_path / "out")

    def measured(measure, k):
        hits = index.search_batch([query.text for query in queries], k, **how)
        run = as_run({q.id: [(hit.id, hit.score) for hit in one] for q, one in zip(queries, hits, strict=True)})
        return evaluate_run(run, dataset, measure).measures[measure]

    assert result(record, "data", "clusters")["measures"] == {
        "AP@3": pytest.approx(measured("AP@3", 3)),
        "R@100": pytest.approx(measured("R@100", 100)),
    }
    assert measured("AP@3", 3) != pytest.approx(measured("AP@3", 100))


def test_an_output_folder_with_other_files_is_refused(datasets, settings, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputExists, match="something other than an experiment"):
        run_experiment(settings, datasets, tmp_path)


def test_a_second_process_on_the_same_folder_is_refused(datasets, settings, tmp_path):
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / ".lock"), pytest.raises(OutputExists, match="another process"):
        run_experiment(settings, datasets, tmp_path / "out")


def test_all_invalid_settings_are_reported():
    one = SystemSettings("one", encoder="bm25")
    with pytest.raises(ValueError, match=r"(?s)two systems have the name 'one'.*baseline 'three'.*needs 'two'"):
        ExperimentSettings((one, one, SystemSettings("f", fuse=("two",))), baseline="three")
    with pytest.raises(ValueError, match="needs one of"):
        SystemSettings("x", encoder="bm25", run="y")
    with pytest.raises(ValueError, match="clusters: true"):
        SystemSettings("x", encoder="bm25", search=SearchSettings(algorithm="clusters"))


@pytest.fixture(scope="module")
def seeded(datasets, vectors, tmp_path_factory):
    """An experiment with runs of two seeds. The run of seed 2 has every second line of the run of seed 1."""
    root = tmp_path_factory.mktemp("seeded")
    for name in datasets:
        lines = (vectors / f"{name}.trec").read_text().splitlines(keepends=True)
        (root / f"{name}-1.trec").write_text("".join(lines))
        (root / f"{name}-2.trec").write_text("".join(lines[::2]))
    systems = (
        SystemSettings("BM25", encoder="bm25"),
        SystemSettings("trained", run=f"{root}/{{dataset}}-{{seed}}.trec"),
        SystemSettings("both", fuse=("BM25", "trained")),
    )
    settings = ExperimentSettings(systems, seeds=(1, 2), measures=MEASURES, depth=60, latency=LATENCY)
    return root, run_experiment(settings, datasets, root / "out")


def test_seeds_are_averaged_into_one_result_per_system(seeded, datasets):
    root, record = seeded
    assert record["seeds"] == [1, 2]
    assert [(r["dataset"], r["system"]) for r in record["results"]][:3] == [
        ("one", "BM25"), ("one", "trained"), ("one", "both"),
    ]  # fmt: skip
    found = result(record, "one", "trained")
    each = [evaluate_run(read_run(root / f"one-{seed}.trec"), datasets["one"], MEASURES).measures for seed in (1, 2)]
    assert found["seeds"] == {m: [pytest.approx(one[m]) for one in each] for m in MEASURES.split()}
    assert found["measures"] == {m: pytest.approx((each[0][m] + each[1][m]) / 2) for m in MEASURES.split()}
    assert result(record, "one", "BM25")["seeds"] is None
    assert len(result(record, "one", "both")["seeds"]["R@100"]) == 2
    runs = {path.name for path in (root / "out" / "runs" / "one").iterdir()}
    assert {"trained-seed-1.trec.gz", "both-seed-2.trec.gz", "BM25.trec.gz"} <= runs


def test_comparisons_account_for_variance_over_queries_and_seeds(seeded):
    root, record = seeded
    rows = pq.read_table(root / "out" / "per-seed.parquet").to_pylist()
    values = {}
    for row in rows:
        if (row["dataset"], row["measure"], row["system"]) == ("two", "R@100", "trained"):
            values.setdefault(row["seed"], {})[row["query"]] = row["value"]
    means = pq.read_table(root / "out" / "per-query.parquet").to_pylist()
    mine = {
        system: {
            row["query"]: row["value"]
            for row in means
            if (row["dataset"], row["measure"], row["system"]) == ("two", "R@100", system)
        }
        for system in ("BM25", "trained")
    }
    assert mine["trained"] == {q: pytest.approx((values[1][q] + v) / 2) for q, v in values[2].items()}
    expected = compare_seeds([values[1], values[2]], [mine["BM25"]])
    found = next(
        c for c in record["comparisons"] if (c["dataset"], c["system"], c["measure"]) == ("two", "trained", "R@100")
    )
    assert (found["p"], found["low"]) == pytest.approx((expected.p, expected.low))


def test_the_report_has_the_standard_deviation_over_seeds(seeded):
    root, record = seeded
    write_report(root / "out")
    text = (root / "out" / "report.md").read_text()
    spread = np.std(result(record, "one", "trained")["seeds"]["nDCG@10"], ddof=1)
    assert f"± {spread:.3f}" in text
    assert "mean ± standard deviation over the seeds" in " ".join(text.split())
    texts = pq.read_table(root / "out" / "queries.parquet").to_pylist()
    known = {(row["dataset"], row["query"]): row["text"] for row in texts}
    table = queries(read_results(root / "out"), "trained")
    assert table.columns[:2] == ("dataset", "query")
    assert all(known[dataset.text, query.aside] == query.text for dataset, query, *_ in table.rows)


def test_seeds_without_a_system_that_uses_them_are_refused():
    with pytest.raises(ValueError, match=r"\{seed\} needs seeds"):
        ExperimentSettings((SystemSettings("x", encoder="runs/{seed}/best"),))
    with pytest.raises(ValueError, match=r"no system has \{seed\}"):
        ExperimentSettings((SystemSettings("x", encoder="bm25"),), seeds=(1,))


def test_datasets_need_different_names(datasets):
    with pytest.raises(DataError, match="both have the name 'one'"):
        named([datasets["one"], datasets["one"]])
    with pytest.raises(DataError, match="no dataset"):
        named([])
    one, other = (Dataset(name, "test", "", {}) for name in ("SPLADE (a)", "splade-A"))
    with pytest.raises(DataError, match=r"the runs of SPLADE \(a\) and splade-A would both be in 'splade-A'"):
        named([one, other])


def test_systems_need_different_file_names():
    """Otherwise the second run would overwrite the first."""
    with pytest.raises(ValueError, match=r"of 'SPLADE' and 'SPLADE\+' would have the same file name"):
        ExperimentSettings(tuple(SystemSettings(name, encoder="bm25") for name in ("SPLADE", "SPLADE+")))


def test_unknown_references_are_refused(datasets, settings, tmp_path):
    with pytest.raises(DataError, match=r"no published figures of SPLADE-v9; there are .*SPLADE-v3"):
        run_experiment(ExperimentSettings(settings.systems, references=("SPLADE-v9",)), datasets, tmp_path / "out")


def test_published_figures_are_in_the_record(settings, tmp_path):
    dataset = open_dataset(str(make_dataset(tmp_path / "scifact", 3)))
    few = ExperimentSettings(settings.systems[:1], latency=LATENCY, references=("SPLADE-v3",))
    (found,) = run_experiment(few, named([dataset]), tmp_path / "out")["references"]
    assert (found["dataset"], found["measure"], found["value"]) == ("scifact", "nDCG@10", 0.71)


def test_file_names_have_only_safe_characters():
    assert file_name("lsr-mini, alpha 0.8/..") == "lsr-mini-alpha-0.8"
    assert file_name("../..") == "unnamed"


def test_the_command_reads_yaml_and_writes_a_report(tmp_path, lsr_command):
    folder = make_dataset(tmp_path / "one", 1)
    config = tmp_path / "config.yaml"
    config.write_text(
        "systems:\n  - {name: BM25, encoder: bm25}\n  - {name: again, fuse: [BM25]}\nlatency: {queries: 3}\n"
    )
    ran = lsr_command("experiment", config, "--dataset", folder, "--out", tmp_path / "out")
    assert ran.code == 0
    assert "BM25" in ran.out
    assert (tmp_path / "out" / "report.html").is_file()
    config.write_text("systems:\n  - {name: BM25, encodr: bm25}\n")
    ran = lsr_command("experiment", config, "--dataset", folder, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "config.yaml:2: unknown key" in ran.err
    assert "did you mean encoder" in ran.err


def test_the_command_reports_all_problems_and_accepts_a_split(tmp_path, lsr_command):
    folder = make_dataset(tmp_path / "one", 1)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    config = tmp_path / "config.yaml"
    config.write_text("measures: nDGC@10\nsystems:\n  - {name: BM25, encoder: bm25}\nlatency: {queries: 3}\n")
    out = tmp_path / "out"
    ran = lsr_command("experiment", config, "--dataset", folder, "--suite", tmp_path / "none.yaml", "--out", out)
    assert ran.code == 1
    assert all(text in ran.err for text in ("none.yaml", "'nDGC@10'"))
    ran = lsr_command(
        "experiment", config, "--dataset", folder, "--dataset", folder / "qrels" / "dev.tsv", "--out", out
    )
    assert all(text in ran.err for text in ("there are: dev", "'nDGC@10'"))
    how = ("--split", "dev", "--set", "measures=nDCG@10")
    ran = lsr_command("experiment", config, "--dataset", folder / "qrels" / "dev.tsv", *how, "--out", out)
    assert (ran.code, "only judgments" in ran.err) == (1, True)
    assert lsr_command("experiment", config, "--dataset", folder, *how, "--out", out).code == 0
    assert json.loads((out / "experiment.json").read_text())["datasets"][0]["split"] == "dev"


def test_written_runs_reproduce_the_report_despite_ties(done, datasets):
    """trec_eval computes the report's values from the written runs, and the `by_id` values from the original scores."""
    import ir_measures

    out, record = done
    measures = [ir_measures.parse_measure(name) for name in MEASURES.split()]
    changes = []
    for name, dataset in datasets.items():
        for system in ("BM25", "exact", "theirs", "their run", "fused", "added up"):
            found = result(record, name, system)
            run = read_run(out / "runs" / name / f"{file_name(system)}.trec.gz")
            by_trec_eval = {str(m): v for m, v in ir_measures.calc_aggregate(measures, dataset.qrels, run).items()}
            assert by_trec_eval == pytest.approx(found["measures"])
            changes.append(found["ties"]["by_id"] != found["measures"])
            assert 0 <= found["ties"]["queries"] <= 1
        as_found = evaluate_index(
            Index.build(out / f"direct-{name}", dataset.corpus(), encoder="bm25"), dataset, MEASURES
        ).run
        expected = {str(m): v for m, v in ir_measures.calc_aggregate(measures, dataset.qrels, as_found).items()}
        assert result(record, name, "BM25")["ties"]["by_id"] == pytest.approx(expected)
    assert any(changes)
    write_report(out)
    text = (out / "report.md").read_text()
    assert "with ties ordered by id, nDCG@10 would change by at most 0." in text
    assert "Ties: how measures change with equal scores ordered by id" in text
    assert "stronger baseline than the BM25 of Anserini" in " ".join(text.split())


def test_counts_have_no_interval_and_undefined_values_are_left_out(datasets, tmp_path):
    systems = tuple(
        SystemSettings(name, encoder="bm25", search=SearchSettings(alpha=a)) for name, a in (("a", 1), ("b", 0.5))
    )
    settings = ExperimentSettings(systems=systems, measures="NumRet Accuracy@5", latency=LatencySettings(queries=0))
    record = run_experiment(settings, {"one": datasets["one"]}, tmp_path / "out")
    of_a = result(record, "one", "a")
    assert of_a["measures"]["NumRet"] > 60  # the sum over all queries
    assert list(of_a["intervals"]) == ["Accuracy@5"]
    assert {row["n"] for row in record["comparisons"] if row["measure"] == "Accuracy@5"} <= set(range(9))


def test_each_collection_has_its_own_mean_pivot(datasets, tmp_path):
    """`pivot: mean` uses the mean document length of each collection: 12.0 for short documents, 28.0 for long ones."""
    short, long = tmp_path / "short", tmp_path / "long"
    for folder, times in ((short, 1), (long, 3)):
        make_dataset(folder, 5)
        lines = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
        lines = [{**line, "text": " ".join([line["text"]] * (times + i % 2))} for i, line in enumerate(lines)]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "both.yaml").write_text(
        "measures: nDCG@10\nlatency: {queries: 0}\nsystems:\n  - {name: mean, encoder: bm25, pivot: mean}\n"
        "  - {name: short, encoder: bm25, pivot: 12.0}\n  - {name: long, encoder: bm25, pivot: 28.0}\n"
    )
    settings = read_config(tmp_path / "both.yaml", ExperimentSettings)
    run_experiment(settings, named(open_datasets([str(short), str(long)])), tmp_path / "out")
    runs = {path: read_run(path) for path in (tmp_path / "out" / "runs").rglob("*.gz")}
    for name in ("short", "long"):
        mean, own = (runs[tmp_path / "out" / "runs" / name / f"{system}.trec.gz"] for system in ("mean", name))
        assert mean == own
    assert runs[tmp_path / "out/runs/short/mean.trec.gz"] != runs[tmp_path / "out/runs/short/long.trec.gz"]


def test_reproducing_gives_equal_measures_and_reports_changes(tmp_path, lsr_command):
    folder = make_dataset(tmp_path / "one", 1)
    (tmp_path / "mine.trec").write_text("q0 Q0 d1 1 9 x\nq1 Q0 d2 1 8 x\n")
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(
        "systems:\n  - {name: BM25, encoder: bm25, k1: 1.2}\n"
        f"  - {{name: mine, run: {tmp_path / 'mine.trec'}}}\nlatency: {{queries: 3, rounds: 1}}\n"
    )
    assert lsr_command("experiment", config, "--dataset", folder, "--out", out).code == 0
    record = json.loads((out / "experiment.json").read_text())
    assert set(record["datasets"][0]["checksums"]) == {"documents", "queries", "judgments"}
    assert set(record["results"][0]["checksums"]) == {"encoder", "run"}
    assert set(record["results"][1]["checksums"]) == {"run that was given", "run"}
    assert record["results"][0]["checksums"]["run"] in (out / "report.md").read_text()
    ran = lsr_command("reproduce", out)
    assert (ran.code, ran.out) == (0, "")
    assert "all measures are the same" in ran.err
    assert (out / "again" / "report.html").is_file()
    ran = lsr_command("reproduce", out)
    assert (ran.code, "there is an experiment already" in ran.err) == (1, True)

    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    others = [json.dumps({"_id": f"d{i}", "text": "wing flow"}) + "\n" for i in range(30)]
    (folder / "corpus.jsonl").write_text("".join([*others, *lines[30:]]))
    record["versions"]["numpy"] = "1.0"
    (out / "experiment.json").write_text(json.dumps(record))
    ran = lsr_command("reproduce", out, "--out", tmp_path / "third")
    assert ran.code == 1
    found = {one["what"]: one for one in map(json.loads, ran.out.splitlines())}
    assert found["version of numpy"]["then"] == "1.0"
    assert "one, checksum of documents" in found
    assert "one, BM25, checksum of run" in found
    assert any(one["measured"] for one in found.values())
    assert not any(what.startswith("one, mine") for what in found)


def test_the_command_reproduce_refuses_a_missing_or_invalid_record(tmp_path, lsr_command):
    ran = lsr_command("reproduce", tmp_path)
    assert (ran.code, "is this the result folder of an experiment?" in ran.err) == (1, True)
    (tmp_path / "experiment.json").write_text('{"settings": {"systems": [{"name": "x"}]}}')
    ran = lsr_command("reproduce", tmp_path)
    assert (ran.code, "this version of lsr can't read its settings" in ran.err) == (1, True)


def test_encoders_with_different_query_models_do_not_share_cached_vectors(datasets, tmp_path):
    """A vector file contains the query encoder, so encoders that differ only in their query model need two files."""
    pytest.importorskip("onnxruntime")
    from lsr.encode.load import load_encoder

    for name, model in (("table", None), ("model", "splade-tiny")):
        load_encoder("lsr-tiny", lexical=0, query_model=model).save(tmp_path / name)
    systems = tuple(SystemSettings(name, encoder=str(tmp_path / name)) for name in ("table", "model"))
    settings = ExperimentSettings(systems, measures=MEASURES, latency=LATENCY)
    record = run_experiment(settings, {"one": datasets["one"]}, tmp_path / "out")
    table, model = (result(record, "one", name) for name in ("table", "model"))
    assert model["query_terms"] > table["query_terms"]
    assert model["checksums"] != table["checksums"]
