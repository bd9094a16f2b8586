"""Weights of EPIC, SPARTA, DeepCT and TILDE equal their formulas, which use transformers' own models."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
model = pytest.importorskip("lsr.encode.model")
pooling = pytest.importorskip("lsr.encode.pooling")

N_TERMS = 36
ABSENT = [0, 1, 2, 3, 4]  # special tokens
IDS = [[2, 23, 24, 23, 3], [2, 8, 3]]
PADDED = torch.tensor([IDS[0], [*IDS[1], 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture
def start(checkpoint):
    def make(kind):
        torch.manual_seed(5)
        return model.start_model(checkpoint, kind, "max", "log1p", N_TERMS, IDS, ABSENT).eval()

    return make


@pytest.fixture(scope="module")
def plain(checkpoint):
    """[(last states, logits)] of each text as float64 arrays. transformers computes each text alone."""
    bert = transformers.AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    found = []
    for row in IDS:
        with torch.no_grad():
            out = bert(input_ids=torch.tensor([row]), output_hidden_states=True)
        found.append((out.hidden_states[-1][0].double().numpy(), out.logits[0].double().numpy()))
    return found


def of(layer):
    return layer.weight.detach().double().numpy()[0], float(layer.bias.detach())


def activated(x):
    return np.log(1 + np.log1p(np.exp(x)))  # log(1 + softplus(x))


def weights(sparse):
    with torch.no_grad():
        return sparse(PADDED, MASK).double().numpy()


def test_epic_document_weights_equal_the_formula(start, plain, monkeypatch):
    monkeypatch.setattr(pooling, "_TERMS", 10)
    sparse = start("epic")
    importance, quality = of(sparse.head.importance), of(sparse.head.quality)
    for row, (states, logits), found in zip(IDS, plain, weights(sparse), strict=True):
        expected = np.zeros(N_TERMS)
        for t, token in enumerate(row):
            if token not in ABSENT:
                share = activated(states[t] @ importance[0] + importance[1])
                expected = np.maximum(expected, share * activated(logits[t]))
        expected /= 1 + np.exp(-(states[0] @ quality[0] + quality[1]))
        assert np.allclose(found, expected, atol=1e-5)
        assert (found > 0).all()


def test_epic_query_weights_equal_the_formula(start, plain):
    sparse = start("epic-query")
    weight, bias = of(sparse.head.query)
    for row, (states, _), found in zip(IDS, plain, weights(sparse), strict=True):
        expected = np.zeros(N_TERMS)
        for t, token in enumerate(row):
            expected[token] += (token not in ABSENT) * activated(states[t] @ weight + bias)
        assert np.allclose(found, expected, atol=1e-5)
    assert weights(sparse)[0, 23] > weights(sparse)[0, 24]  # token 23 occurs twice


def test_sparta_weights_equal_the_formula(start, plain, checkpoint):
    sparse = start("sparta")
    embeddings = transformers.AutoModel.from_pretrained(checkpoint).get_input_embeddings().weight.detach().numpy()
    for bias in (0.0, 0.3):
        with torch.no_grad():
            sparse.head.bias.fill_(bias)
        for (states, _), found in zip(plain, weights(sparse), strict=True):
            expected = np.log1p(np.maximum((states @ embeddings.T).max(0) + bias, 0))
            expected[ABSENT] = 0
            assert np.allclose(found, expected, atol=1e-5)
            assert (found > 0).sum() > 5


def test_deepct_weights_equal_the_formula(start, plain):
    sparse = start("deepct")
    with torch.no_grad():
        sparse.head.weigh.weight.normal_(std=0.3)
        sparse.head.counts[8] = 0  # as for a later piece of a word, which gets no weight
    weight, bias = of(sparse.head.weigh)
    for row, (states, _), found in zip(IDS, plain, weights(sparse), strict=True):
        expected = np.zeros(N_TERMS)
        for t, token in enumerate(row):
            if token not in (*ABSENT, 8):
                frequency = round(100 * (states[t] @ weight + bias))
                expected[token] = max(expected[token], frequency / 100)
        assert np.allclose(found, expected, atol=1e-6)
    assert weights(sparse)[0].any()
    sparse.train()
    exact = sparse(PADDED, MASK)
    assert not torch.equal(exact, (exact * 100).round() / 100)  # training skips rounding, which has no gradient
    exact.sum().backward()
    assert sparse.head.weigh.weight.grad.any()


def test_tilde_weights_equal_the_formula(start, plain):
    sparse = start("tilde")
    for (_, logits), found in zip(plain, weights(sparse), strict=True):
        expected = np.maximum(3 + np.log10(1 / (1 + np.exp(-logits[0]))), 0)
        expected[ABSENT] = 0
        assert np.allclose(found, expected, atol=1e-5)
    # Scores differ only by a constant from the sum of logarithms in the released code.
    query = [10, 12, 20]
    ours = weights(sparse)[:, query].sum(1)
    theirs = [sum(math.log10(1 / (1 + math.exp(-logits[0][j]))) for j in query) for _, logits in plain]
    assert np.allclose(ours - 3 * len(query), theirs, atol=1e-4)


KINDS = ["epic", "epic-query", "sparta", "deepct", "tilde"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_some_terms_equal_those_in_the_whole_vector_and_have_gradients(start, kind):
    sparse, terms = start(kind), torch.tensor([23, 8, 30])
    if kind == "deepct":  # DeepCT's weights start at zero
        torch.nn.init.normal_(sparse.head.weigh.weight, std=0.3)
    assert torch.allclose(sparse(PADDED, MASK, terms), sparse(PADDED, MASK)[:, terms], atol=1e-6)
    sparse.train()
    sparse(PADDED, MASK).sum().backward()
    trained = [p for p in sparse.head.parameters() if p.requires_grad and kind != "epic"]
    assert all(p.grad is not None and p.grad.any() for p in trained)
    assert any(p.grad is not None and p.grad.any() for p in sparse.backbone.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_head_is_read_back(start, tmp_path, checkpoint, kind):
    sparse = start(kind)
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    sparse.save(tmp_path, (checkpoint / "tokenizer.json").read_bytes())
    again = model.load_model(tmp_path, kind, "max", "log1p", N_TERMS).eval()
    assert np.allclose(weights(again), weights(sparse), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_origin_is_the_token_that_gives_the_weight(start, kind):
    """A term's origin is the token that gives the term's weight. TILDE computes all weights from the first token."""
    sparse = start(kind)
    ids, terms = torch.tensor(IDS[:1]), torch.tensor([23, 24])
    with torch.no_grad():
        states = sparse.states(ids, torch.ones_like(ids))
        places = sparse.head.token_logits(states, ids, terms)[0].argmax(0)
    if kind in ("epic-query", "deepct"):
        assert places.tolist()[1] == 2
        assert places.tolist()[0] in (1, 3)
    if kind == "tilde":
        assert places.tolist() == [0, 0]
