"""An experiment runs methods from papers: feedback, densified vectors, pairwise comparisons and codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lsr.data
from lsr.config import read_config
from lsr.encode.autoencoder import CodeSettings
from lsr.encode.latent_terms import SETTINGS
from lsr.encode.load import load_encoder
from lsr.encode.token_vectors import LateReranker
from lsr.eval.datasets import open_dataset
from lsr.eval.experiment.experiment import named, run_experiment
from lsr.eval.experiment.settings import (
    ComparisonSettings,
    DensifySettings,
    ExperimentSettings,
    FeedbackSettings,
    ImitateSettings,
    LatencySettings,
    LateSettings,
    SystemSettings,
    VerifySettings,
    VisitSettings,
)
from lsr.index.hybrid.hybrid import Hybrid, build_dense
from lsr.index.index import Index
from lsr.index.search.feedback import expand_query
from lsr.io.corpus import open_corpus
from lsr.io.runs import read_run
from lsr.lexical_head import HeadSettings

pytest.importorskip("ir_measures")
pytest.importorskip("torch")

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "eval" / "literature.yaml"
LATENCY = LatencySettings(k=3, queries=3, rounds=1)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Forty documents of Cranfield, with six queries and judgments of these documents."""
    whole = open_dataset(str(Path(lsr.data.__file__).parent / "cranfield"))
    folder = tmp_path_factory.mktemp("data") / "small"
    (folder / "qrels").mkdir(parents=True)
    queries = sorted(whole.qrels, key=lambda q: -sum(value > 0 for value in whole.qrels[q].values()))[:6]
    wanted = {doc for q in queries for doc in [doc for doc, value in whole.qrels[q].items() if value > 0][:7]}
    docs = [doc for doc in whole.corpus() if doc.id in wanted]
    texts = {query.id: query.content for query in open_corpus(whole.query_source, queries=True)}
    lines = [json.dumps({"_id": doc.id, "title": doc.title, "text": doc.text}) for doc in docs]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": texts[q]}) + "\n" for q in queries))
    kept = {doc.id for doc in docs}
    judged = [(q, doc) for q in queries for doc, value in whole.qrels[q].items() if value > 0 and doc in kept]
    (folder / "qrels" / "test.tsv").write_text("".join(f"{q}\t{doc}\t1\n" for q, doc in judged))
    return named([open_dataset(str(folder))])


def runs(out, names):
    return {name: read_run(out / "runs" / "small" / f"{name.replace(' ', '-')}.trec.gz") for name in names}


@pytest.fixture(scope="module")
def result(datasets, tmp_path_factory):
    """The record of an experiment with one system of each kind, and its folder."""
    out = tmp_path_factory.mktemp("experiment") / "out"
    settings = ExperimentSettings(
        (
            SystemSettings("bm25", encoder="bm25"),
            SystemSettings("tiny", encoder="lsr-tiny"),
            SystemSettings("fused", fuse=("bm25", "tiny")),
            SystemSettings("feedback", encoder="bm25", feedback=FeedbackSettings(documents=2, weight=0.4)),
            SystemSettings("no feedback", encoder="bm25", feedback=FeedbackSettings(weight=0)),
            SystemSettings("after fusion", encoder="bm25", feedback=FeedbackSettings(source="fused")),
            SystemSettings("dense", encoder="bm25", densify=DensifySettings(width=4000)),
            SystemSettings("dense 50", encoder="bm25", densify=DensifySettings(width=50, by="random")),
            SystemSettings("projected", encoder="bm25", densify=DensifySettings(width=100, by="projection")),
            SystemSettings("compared", compare=ComparisonSettings("bm25", "tiny", share=1.0)),
            SystemSettings("verified", encoder="bm25", verify=VerifySettings(terms=1000)),
            SystemSettings("verified 5", encoder="bm25", verify=VerifySettings(terms=5, candidates=20)),
            SystemSettings("all clusters", encoder="lsr-mini", mode="hybrid", visit=VisitSettings(1.0)),
            SystemSettings("some clusters", encoder="lsr-mini", mode="hybrid", visit=VisitSettings(0.2, results=0)),
            SystemSettings("imitated", encoder="bm25", imitate=ImitateSettings(width=16)),
            SystemSettings("beside", encoder="bm25", imitate=ImitateSettings(width=16, own=1e4)),
            SystemSettings("refined", late=LateSettings("bm25", "late:lsr-tiny", depth=3)),
        ),
        measures="nDCG@10 R@100",
        latency=LATENCY,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsr.eval.experiment.literature.HeadSettings", short_head)
        return run_experiment(settings, datasets, out), out


def short_head(width):
    """Settings of a head that trains for a few steps."""
    return HeadSettings(width=width, steps=10)


def test_feedback_equals_a_direct_call(result, datasets, tmp_path):
    found = runs(result[1], ("bm25", "feedback", "no feedback", "after fusion", "fused"))
    assert found["no feedback"] == found["bm25"]
    dataset = datasets["small"]
    index = Index.build(tmp_path / "idx", dataset.corpus(), encoder="bm25")
    for query in open_corpus(dataset.query_source, queries=True):
        direct = index.search(expand_query(index, query.content, documents=2, weight=0.4), 20)
        # Only the first ten hits are compared: terms of equal weight are chosen by number, and the indexes number them
        # differently.
        assert [hit.id for hit in direct][:10] == list(found["feedback"][query.id])[:10]
        source = list(found["fused"][query.id])[:3]
        direct = index.search(expand_query(index, query.content, source=source), 20)
        assert [hit.id for hit in direct][:10] == list(found["after fusion"][query.id])[:10]


def test_densified_vectors_with_enough_slices_rank_like_the_index(result):
    found = runs(result[1], ("bm25", "dense", "dense 50", "projected"))
    for query, hits in found["bm25"].items():
        assert list(found["dense"][query])[:5] == list(hits)[:5]
        assert set(list(found["projected"][query])[:3]) & set(list(hits)[:3])
    assert found["dense 50"] != found["dense"]
    facts = {one["system"]: one for one in result[0]["results"]}
    assert facts["dense"]["search_ms"] is None
    assert facts["feedback"]["search_ms"]["p50"] > 0


def test_verification_and_late_interaction_rerank_the_first_results(result, datasets):
    found = runs(result[1], ("bm25", "verified", "verified 5", "refined"))
    reranker = LateReranker(load_encoder("late:lsr-tiny"))
    texts = {doc.id: doc.content for doc in datasets["small"].corpus()}
    asked = {query.id: query.content for query in open_corpus(datasets["small"].query_source, queries=True)}
    for query, hits in found["bm25"].items():
        assert list(found["verified"][query])[:5] == list(hits)[:5]
        best, refined = list(hits)[:3], list(found["refined"][query])
        scores = reranker.scores(asked[query], [texts[doc] for doc in best])
        assert refined[:3] == [best[i] for i in np.argsort(-np.array(scores), kind="stable")]
        assert refined[3:] == list(hits)[3:]
    assert found["verified 5"] != found["verified"]


def test_reading_all_clusters_equals_exhaustive_search(result, datasets, tmp_path):
    found = runs(result[1], ("all clusters", "some clusters"))
    dataset = datasets["small"]
    index = Index.build(tmp_path / "idx", dataset.corpus(), encoder="lsr-mini", hybrid=True, passages=None)
    dense = build_dense(index, tmp_path / "dense", index.encoder.encode_dense)
    hybrid = Hybrid(index, dense, method="interpolation")
    for query in open_corpus(dataset.query_source, queries=True):
        near = index.encoder.encode_dense([query.content], queries=True)[0]
        want = hybrid.search(query.content, 5, dense=near).ids
        # Four of five suffice, because the index quantizes impacts to 8 bits.
        assert len({*list(found["all clusters"][query.id])[:5]} & {*want}) >= 4
    assert found["some clusters"] != found["all clusters"]


def test_imitated_query_vectors_rank_alone_or_with_the_vectors_of_the_model(result, datasets):
    found = runs(result[1], ("bm25", "imitated", "beside"))
    model, dataset = load_encoder("lsr-mini"), datasets["small"]
    ids, texts = zip(*((doc.id, doc.content) for doc in dataset.corpus()), strict=True)
    documents = model.encode_dense(texts)
    for query in open_corpus(dataset.query_source, queries=True):
        scores = model.encode_dense([query.content], queries=True)[0] @ documents.T
        best = [ids[i] for i in np.argsort(-scores, kind="stable")[:5]]
        assert list(found["beside"][query.id])[:5] == best  # own=1e4: the model's vector outweighs the imitated vector
        assert len(found["imitated"][query.id]) > 5
    assert found["imitated"] != found["beside"]


def test_pairwise_comparisons_give_the_order_of_the_judge(result):
    found = runs(result[1], ("bm25", "tiny", "compared"))
    for query, hits in found["compared"].items():
        assert set(hits) == set(found["bm25"][query])
        judge = [doc for doc in found["tiny"][query] if doc in hits]
        known = [doc for doc in hits if doc in found["tiny"][query]]
        assert known == judge


def test_the_preset_runs_with_all_systems(datasets, tmp_path, monkeypatch):
    """Runs on a small collection; codes and heads train for a few steps."""
    short = lambda **given: replace(CodeSettings(**given), steps=5)  # noqa: E731
    monkeypatch.setattr("lsr.encode.load.CodeSettings", short)
    monkeypatch.setattr("lsr.encode.codes._WORDS", 50)
    monkeypatch.setattr("lsr.encode.load.SETTINGS", replace(SETTINGS, steps=5, latents=512))
    monkeypatch.setattr("lsr.encode.latent_terms._WORDS", 50)
    monkeypatch.setattr("lsr.eval.experiment.literature.HeadSettings", short_head)
    settings = replace(read_config(CONFIG, ExperimentSettings), latency=LATENCY)
    record = run_experiment(settings, datasets, tmp_path / "out")
    values = {one["system"]: one["measures"]["nDCG@10"] for one in record["results"]}
    assert set(values) == {system.name for system in settings.systems}
    assert all(np.isfinite(value) and value > 0.05 for value in values.values()), values
    assert len(values) >= 15


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_claims_of_the_papers_hold_on_cranfield(tmp_path):
    """On all of Cranfield, the preset's combined systems beat their parts, and its approximations lose little."""
    settings = replace(read_config(CONFIG, ExperimentSettings), latency=LatencySettings(queries=0))
    dataset = open_dataset(str(Path(lsr.data.__file__).parent / "cranfield"))
    record = run_experiment(settings, named([dataset]), tmp_path / "out")
    measures = {one["system"]: one["measures"] for one in record["results"]}
    quality = {name: values["nDCG@10"] for name, values in measures.items()}
    recall = {name: values["R@100"] for name, values in measures.items()}
    print(measures)
    # Codes and latent terms are about as good as the dense vector, and each improves a fusion.
    assert quality["codes, 64 latents"] >= 0.95 * quality["dense vector"]
    assert quality["codes and lsr-mini"] > max(quality["codes, 64 latents"], quality["lsr-mini"])
    assert quality["latent terms"] >= quality["dense vector"] - 0.01
    assert recall["latent terms and BM25"] > recall["BM25 and dense vector"]
    # Feedback both before and after fusion is as good as the best of the four simpler systems.
    single = ("BM25, feedback", "dense vector, feedback", "BM25 and dense vector", "interpolation after feedback")
    assert recall["interpolation before and after feedback"] >= max(recall[name] for name in single) - 0.002
    # Densified vectors are as good as sparse vectors; coloured slices beat random slices.
    assert quality["densified, 768 coloured slices"] >= quality["lsr-mini"] - 0.003
    for width in (256, 768):
        assert quality[f"densified, {width} coloured slices"] > quality[f"densified, {width} random slices"]
    # Late interaction without training is as good as its first stage.
    assert quality["late, refined"] >= quality["late, fused vectors"] - 0.003
    # If coarse vectors find candidates and full vectors verify them, results are as good as those of a full search.
    assert quality["lsr-mini, 32 terms verified"] >= quality["lsr-mini"] - 0.003
    # A tenth or a third of the pairwise comparisons is almost as good as all of them.
    assert quality["BM25, a third of the comparisons"] >= 0.99 * quality["BM25, all comparisons"]
    assert quality["BM25, a tenth of the comparisons"] >= 0.97 * quality["BM25, all comparisons"]
    assert quality["EASE"] > quality["BM25"]


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_interpolation_around_feedback_finds_most_on_three_collections(real_data, tmp_path):
    """Interpolation before and after feedback finds at least as much as each other way, in the mean of the collections.
    A third of the comparisons is almost as good as all.
    """
    settings, names = read_config(CONFIG, ExperimentSettings), ("cranfield", "cacm", "msmarco-dl19-pool")
    both = "interpolation before and after feedback"
    single = ("BM25, feedback", "dense vector, feedback", "BM25 and dense vector", "interpolation after feedback")
    wanted = {"BM25", "dense vector", "hybrid", "dense vector, feedback of both", "BM25, feedback of both"}
    wanted |= {both, *single, "BM25, all comparisons", "BM25, a third of the comparisons"}
    systems = tuple(system for system in settings.systems if system.name in wanted)
    datasets = named([open_dataset(str(real_data(name))) for name in names])
    settings = replace(settings, systems=systems, latency=LatencySettings(queries=0))
    found = {system.name: {} for system in systems}
    for one in run_experiment(settings, datasets, tmp_path / "out")["results"]:
        found[one["system"]][one["dataset"]] = one["measures"]
    print(found)
    recall = {name: np.mean([values["R@100"] for values in of.values()]) for name, of in found.items()}
    assert recall[both] >= max(recall[name] for name in single)
    for name in names:
        every, third = (found[f"BM25, {share} comparisons"][name]["nDCG@10"] for share in ("all", "a third of the"))
        assert third >= 0.98 * every, name
        assert name != "msmarco-dl19-pool" or third >= 0.99 * every


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"feedback": FeedbackSettings()}, "feedback, densify, verify, visit and imitate need an encoder"),
        ({"encoder": "bm25"}, "has .*encoder.*compare"),
    ],
)
def test_a_comparison_refuses_settings_of_other_systems(wrong, message):
    with pytest.raises(ValueError, match=message):
        SystemSettings("x", compare=ComparisonSettings("a", "b"), **wrong)


def test_incompatible_settings_are_reported():
    first = SystemSettings("a", encoder="bm25")
    with pytest.raises(ValueError, match="needs 'b', which must come before it"):
        ExperimentSettings((first, SystemSettings("c", encoder="bm25", feedback=FeedbackSettings(source="b"))))
    with pytest.raises(ValueError, match=r"verify\.dense needs mode"):
        SystemSettings("a", encoder="lsr-mini", verify=VerifySettings(dense=True))
    with pytest.raises(ValueError, match=r"needs mode: hybrid"):
        SystemSettings("a", encoder="bm25", densify=DensifySettings(dense_weight=1))
    with pytest.raises(ValueError, match="can't be combined with feedback, algorithm"):
        SystemSettings("a", encoder="bm25", densify=DensifySettings(), feedback=FeedbackSettings())
    seeded = SystemSettings("s", encoder="runs/{seed}")
    with pytest.raises(ValueError, match="needs one ranking of 's'"):
        ExperimentSettings((seeded, SystemSettings("x", compare=ComparisonSettings("s", "s"))), seeds=(1, 2))
