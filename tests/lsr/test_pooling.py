"""Weights correct pooling bias. In the synthetic judgments, the unjudged relevant documents are known."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from lsr.errors import DataError
from lsr.train.cli import mine
from lsr.train.mining import MiningReport, MiningSettings, mine_negatives
from lsr.train.pooling import pooling_weights

WIDTH, POOLED = 16, 12


def collection(seed, n_queries=120, n=100):
    """Relevant documents, judgments of a noisy run's top documents, the run, and a teacher's scores."""
    rng = np.random.default_rng(seed)
    truth, qrels, run, teacher = {}, {}, {}, {}
    for q in map(str, range(n_queries)):
        relevant = rng.random(n) < 0.12
        docs = [f"{q}-{i}" for i in range(n)]
        found = relevant + rng.normal(size=n)
        run[q] = dict(zip(docs, found.tolist(), strict=True))
        teacher[q] = dict(zip(docs, (1.8 * relevant + rng.normal(size=n)).tolist(), strict=True))
        pool = {docs[i] for i in np.argsort(-found)[:POOLED]}
        truth[q] = {doc for doc, r in zip(docs, relevant, strict=True) if r}
        if judged := truth[q] & pool:
            qrels[q] = dict.fromkeys(sorted(judged), 1)
    return truth, qrels, run, teacher


def auc(values, labels):
    values, labels = np.array(values), np.array(labels)
    ranks = np.argsort(np.argsort(values))
    n = int(labels.sum())
    return float((ranks[labels].mean() - (n - 1) / 2) / (len(labels) - n))


def test_hidden_positives_get_low_weights_and_true_negatives_get_high_weights():
    truth, qrels, run, teacher = collection(0)
    found = pooling_weights([run], qrels, teacher)
    pairs = [(p, doc in truth[q]) for q, own in found.relevant.items() for doc, p in own.items()]
    assert sum(hidden for _, hidden in pairs) > sum(map(len, qrels.values()))  # most positives are hidden
    assert auc(*zip(*pairs, strict=True)) >= 0.85
    weights = {hidden: np.mean([1 - p for p, h in pairs if h == hidden]) for hidden in (True, False)}
    assert weights[True] < 0.4
    assert weights[False] > 0.7
    assert {found.weights[q][doc] for q, own in qrels.items() for doc in own} == {1.0}


def test_positives_at_low_ranks_can_get_higher_weights():
    _, qrels, run, teacher = collection(0)
    found = pooling_weights([run], qrels, teacher, positives=True)
    positives = [found.weights[q][doc] for q, own in qrels.items() for doc in own]
    assert np.mean(positives) == pytest.approx(1, abs=1e-5)
    deep = {q: sorted(run[q], key=run[q].get, reverse=True) for q in qrels}
    near = [found.weights[q][doc] for q, own in qrels.items() for doc in own if deep[q].index(doc) < 3]
    far = [found.weights[q][doc] for q, own in qrels.items() for doc in own if deep[q].index(doc) >= 9]
    assert np.mean(far) > np.mean(near)


def test_judged_negatives_keep_their_weight():
    _, qrels, run, teacher = collection(1)
    query = next(iter(qrels))
    other = next(doc for doc in run[query] if doc not in qrels[query])
    qrels[query][other] = 0
    found = pooling_weights([run], qrels, teacher)
    assert found.weights[query][other] == 1
    assert other not in found.relevant[query]


def test_judged_documents_alone_are_refused():
    with pytest.raises(DataError, match="can't be estimated"):
        pooling_weights([{"q": {"a": 1.0}}], {"q": {"a": 1}}, {"q": {"a": 1.0}})


def trained(truth, qrels, vectors, queries, negatives, weights):
    """Mean average precision of a linear map that is trained with weighted info_nce."""
    torch = pytest.importorskip("torch")
    from lsr.train.losses import info_nce

    torch.manual_seed(0)
    change = torch.nn.Parameter(torch.zeros(WIDTH, WIDTH))
    optimizer = torch.optim.Adam([change], lr=0.01)
    given = {q: torch.from_numpy(np.stack([vectors[doc] for doc in docs])) for q, docs in vectors["of"].items()}
    for _ in range(20):
        for q, own in qrels.items():
            docs = vectors["of"][q]
            scores = torch.from_numpy(queries[q]) @ (torch.eye(WIDTH) + change) @ given[q].T
            positives = torch.tensor([[doc in own for doc in docs]])
            shown = torch.tensor([[doc in own or doc in negatives[q] for doc in docs]])
            weight = torch.tensor([[weights.get(q, {}).get(doc, 1.0) for doc in docs]])
            loss = info_nce(scores[None].masked_fill(~shown, -torch.inf), positives, weights=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    values = []
    for q, relevant in truth.items():
        scores = queries[q] @ (np.eye(WIDTH) + change.detach().numpy()) @ given[q].numpy().T
        order = np.argsort(-scores)
        hits = np.array([vectors["of"][q][i] in relevant for i in order])
        values.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean() if hits.any() else 0)
    return float(np.mean(values))


def test_weights_and_filters_improve_training():
    """Many of the hard negatives are hidden positives. Weights help, and a filter by the teacher helps, too."""
    pytest.importorskip("torch")
    truth, qrels, run, teacher = collection(2, n_queries=60, n=60)
    truth = {q: truth[q] for q in qrels if truth[q]}
    qrels = {q: qrels[q] for q in truth}
    rng = np.random.default_rng(5)
    # The first half of a vector encodes relevance; the second half encodes the run's score, which biases the pool.
    queries, vectors = {}, {"of": {}}
    for q, relevant in truth.items():
        queries[q] = rng.normal(size=WIDTH).astype(np.float32) / 4
        vectors["of"][q] = list(run[q])
        for doc, score in run[q].items():
            noise = rng.normal(size=WIDTH) / 2
            signal = np.concatenate([np.full(8, 0.35 * (doc in relevant)), np.full(8, 0.25 * score)])
            vectors[doc] = (noise + signal * np.sign(queries[q])).astype(np.float32)
    found = pooling_weights([run], qrels, teacher)
    best = {q: sorted(run[q], key=run[q].get, reverse=True)[:30] for q in qrels}
    kept = {
        one.query_id: one.negatives
        for one in mine_negatives([run], qrels, MiningSettings(margin=0.0, share=None), MiningReport(), teacher)
    }
    every = {q: set(best[q]) - set(qrels[q]) for q in qrels}
    values = {
        "plain": trained(truth, qrels, vectors, queries, every, {}),
        "filtered": trained(truth, qrels, vectors, queries, {q: {*kept.get(q, ())} & every[q] for q in qrels}, {}),
        "weighted": trained(truth, qrels, vectors, queries, every, found.weights),
    }
    assert min(values["filtered"], values["weighted"]) > values["plain"] + 0.01, values


def test_sampled_negatives_follow_the_weights():
    run = {"q": {f"d{i}": 100.0 - i for i in range(60)}}
    weights = {"q": {f"d{i}": float(i % 2) for i in range(60)}}
    settings = MiningSettings(count=10, share=None, sample=True)
    (mined,) = mine_negatives([run], {"q": {"x": 1}}, settings, MiningReport(), weights=weights)
    assert len(mined.negatives) == 10
    assert all(int(doc[1:]) % 2 for doc in mined.negatives)


def test_the_command_writes_weights_that_a_source_reads(tmp_path):
    pytest.importorskip("torch")
    from lsr.train.batches import draw_batch
    from lsr.train.data import open_training
    from lsr.train.sources import TrainingSource

    _, qrels, run, teacher = collection(3, n_queries=20, n=40)
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    docs = [doc for own in run.values() for doc in own]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": d, "text": f"text {d}"}) + "\n" for d in docs))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": f"ask {q}"}) + "\n" for q in run))
    lines = [f"{q}\t{doc}\t1\n" for q, own in qrels.items() for doc in own]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    for name, values in (("run", run), ("teacher", teacher)):
        rows = [
            f"{q} Q0 {doc} {rank} {score} x\n"
            for q, own in values.items()
            for rank, (doc, score) in enumerate(sorted(own.items(), key=lambda pair: -pair[1]), start=1)
        ]
        (tmp_path / f"{name}.trec").write_text("".join(rows))
    common = [str(tmp_path / "run.trec"), "--dataset", str(folder), "--out", str(tmp_path / "hard.jsonl")]
    refused = CliRunner().invoke(mine, [*common, "--weights", str(tmp_path / "w.jsonl")])
    assert "--weights needs --teacher" in refused.output
    made = CliRunner().invoke(
        mine,
        [*common, "--no-filter", "--teacher", str(tmp_path / "teacher.trec"), "--weights", str(tmp_path / "w.jsonl")],
        catch_exceptions=False,
    )
    assert made.exit_code == 0, made.output
    expected = pooling_weights([run], qrels, teacher).weights
    source = TrainingSource(str(folder), candidates=str(tmp_path / "hard.jsonl"), weights=str(tmp_path / "w.jsonl"))
    data = open_training(source, tmp_path / "cache")
    examples = list(data.examples(0))
    for example in examples:
        assert example.weights == pytest.approx([expected[example.query_id].get(doc, 1.0) for doc in example.doc_ids])
    batch = draw_batch(examples[:3], 5, np.random.default_rng(0))
    for row, example in enumerate(examples[:3]):
        for column, text in enumerate(batch.documents):
            own = text in list(example.documents)
            place = list(example.documents).index(text) if own else 0
            assert batch.weights[row, column] == pytest.approx(example.weights[place] if own else 1.0)
    plain = open_training(TrainingSource(str(folder), candidates=str(tmp_path / "hard.jsonl")), tmp_path / "cache")
    assert next(plain.examples(0)).weights is None
    (tmp_path / "w.jsonl").write_text(json.dumps({"query_id": "0", "scores": dict.fromkeys(run["0"], -1.0)}) + "\n")
    with pytest.raises(DataError, match="is negative"):
        open_training(source, tmp_path / "cache")


def test_weighted_info_nce_equals_its_formula():
    torch = pytest.importorskip("torch")
    from lsr.train.losses import info_nce

    scores = torch.tensor([[2.0, 1.0, 0.5, -1.0]], requires_grad=True)
    positives = torch.tensor([[True, False, False, False]])
    weights = torch.tensor([[3.0, 0.5, 0.0, 1.0]])
    value = info_nce(scores, positives, 0.5, weights)
    e = np.exp(np.array([2.0, 1.0, 0.5, -1.0]) / 0.5)
    assert float(value.detach()) == pytest.approx(3 * -np.log(e[0] / (e[0] + 0.5 * e[1] + e[3])), rel=1e-5)
    value.backward()
    assert bool(torch.isfinite(scores.grad).all())
    assert scores.grad[0, 2] == 0
    assert info_nce(scores, positives, 0.5, torch.ones(1, 4)).item() == pytest.approx(
        info_nce(scores, positives, 0.5).item()
    )


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_weights_rank_hidden_documents_better_on_real_collections(real_data, benchmark_module, tmp_path):
    """With weights, hidden relevant documents are ranked better than with all negatives, and than with a filter."""
    pytest.importorskip("torch")
    pytest.importorskip("ir_measures", reason="needs the extra eval")
    module = benchmark_module("negatives")
    for name, least in module.SETS.items():
        found = module.compared(real_data(name), tmp_path, least)
        quality = {way: values[0] for way, values in found["values"].items()}
        print(name, found["auc"], quality)
        assert 0.5 <= found["hidden"] <= 0.9
        assert quality["weighted"] > quality["all negatives"] > quality["not trained"]
        assert quality["weighted"] > quality["filtered by the teacher"]
        assert found["auc"] > 0.6
