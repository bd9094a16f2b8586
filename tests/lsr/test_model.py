"""SparseModel: heads equal their definitions, gradients equal those of autograd, and saved models open unchanged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lsr.encode import model_files as files
from lsr.encode import onnx_runner
from lsr.encode.processor import sums_of_bytes
from lsr.encode.tokenizer import TOKENIZER_FILE
from lsr.errors import EncoderError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
model = pytest.importorskip("lsr.encode.model")
pooling = pytest.importorskip("lsr.encode.pooling")

N_TERMS = 36
IDS = torch.tensor([[2, 23, 24, 23, 3], [2, 8, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ABSENT = [0, 1, 2, 3, 4]


@pytest.fixture
def start(checkpoint):
    def make(kind, pool="max", saturation="log1p"):
        torch.manual_seed(5)
        ids = [[2, 23, 24, 25, 3], [2, 8, 9, 10, 3], [2, 26, 27, 28, 29, 3]]
        return model.start_model(checkpoint, kind, pool, saturation, N_TERMS, ids, ABSENT).eval()

    return make


# --- pooling with a gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "sum"])
@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
def test_gradients_equal_those_of_all_logits(monkeypatch, pool, saturation):
    monkeypatch.setattr(pooling, "_TERMS", 5)
    make = torch.Generator().manual_seed(1)
    shapes = (4, 7, 6), (23, 6), (23,)
    inputs = [torch.randn(s, generator=make, dtype=torch.float64, requires_grad=True) for s in shapes]
    mask = torch.arange(7) < torch.tensor([[7], [1], [3], [5]])
    weigh = torch.rand(4, 23, generator=make, dtype=torch.float64)
    states, weight, bias = inputs
    found = pooling.pool_states(states, mask, weight, bias, pool, saturation)
    plain = pooling.pool_logits(states @ weight.T + bias, mask, pool, saturation)
    assert torch.allclose(found.double(), plain, atol=1e-6)
    expected = torch.autograd.grad((plain * weigh).sum(), inputs)
    for mine, theirs in zip(torch.autograd.grad((found * weigh).sum(), inputs), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_logits_of_padding_never_count():
    states, weight = -torch.ones(1, 3, 2), torch.ones(4, 2)
    states[0, 2] = 5
    assert pooling.max_logits(states, torch.tensor([[1, 1, 0]]), weight, None).tolist() == [[-2.0] * 4]


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_not_computed_and_has_no_gradient(left):
    make = torch.Generator().manual_seed(2)
    states = torch.randn(3, 6, 4, generator=make, requires_grad=True)
    weight = torch.randn(9, 4, generator=make)
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    mask = mask.flip(1) if left else mask
    found = pooling.max_logits(states, mask, weight, None)
    kept = [row[keep == 1] @ weight.T for row, keep in zip(states, mask, strict=True)]
    assert torch.allclose(found[:2], torch.stack([kept[0].amax(0), kept[1].amax(0)]), atol=1e-6)
    assert (found[2] == torch.finfo(torch.float32).min).all()
    found[:2].sum().backward()
    assert (states.grad[mask == 0] == 0).all()
    assert (states.grad[mask == 1] != 0).any(1).all()
    assert {places.stop for _, places, _ in pooling._tiles(states, mask, weight)} == {6 if left else 2}


# --- heads ------------------------------------------------------------------------------------------------------------


def test_the_expansion_head_equals_its_definition(start, checkpoint):
    sparse = start("expansion")
    head = sparse.head
    with torch.no_grad():
        head.down.weight.normal_()
        head.frequency.uniform_(0, 3)
        head.bias[5:] = torch.randn(N_TERMS - 5)
        head.shift += 0.3
        head.stretch += 0.2
        head.scale.normal_(std=0.2)
        head.louder -= 0.1
        found = sparse(IDS, MASK)
        backbone = transformers.AutoModel.from_pretrained(checkpoint).eval()
        for row in range(2):
            ids = IDS[row][MASK[row] == 1]
            h = backbone(input_ids=ids[None]).last_hidden_state[0]
            g = head.identity(h) + head.down(torch.nn.functional.gelu(head.up(h)))
            logits = (g @ head.projection.T * torch.exp(0.2 + head.scale)).amax(0) + head.bias + 0.3
            tf = torch.bincount(ids, minlength=N_TERMS).float()
            k1, b = math.exp(head.k1_b[0]), 1 / (1 + math.exp(-head.k1_b[1]))
            logits += (head.frequency - 0.1) * tf / (tf + k1 * (1 - b + b * len(ids) / 140))
            assert torch.allclose(found[row], torch.log1p(torch.relu(logits)), atol=1e-4)
    assert (found[:, ABSENT] == 0).all()
    assert (found > 0).any()


def test_the_lexical_head_weighs_only_the_texts_tokens(start):
    sparse = start("lexical")
    with torch.no_grad():
        sparse.head.weigh.weight.normal_()
        found = sparse(IDS, MASK)
        states = sparse.states(IDS, MASK)
        values = torch.relu(sparse.head.weigh(states).squeeze(-1))
    expected = torch.zeros(2, N_TERMS)
    expected[0, 23], expected[0, 24], expected[1, 8] = max(values[0, 1], values[0, 3]), values[0, 2], values[1, 1]
    assert torch.equal(found, expected)


def test_the_gated_head_masks_terms_and_learns(start):
    sparse, plain = start("gated"), start("masked-lm")
    with torch.no_grad():
        assert torch.allclose(sparse(IDS, MASK), plain(IDS, MASK), atol=1e-5)  # all gates are open at first
        sparse.head.gate_bias[10:20] = -1
        assert (sparse(IDS, MASK)[:, 10:20] == 0).all()
    weights = sparse(IDS, MASK)
    weights[:, 10:20].sum().backward()
    assert (sparse.head.gate_bias.grad[10:20] != 0).any()  # closed gates get a gradient, so they can open again


@pytest.mark.parametrize("kind", ["masked-lm", "gated", "expansion", "lexical"])
def test_weights_of_some_terms_equal_those_in_the_whole_vector(start, kind):
    sparse, terms = start(kind), torch.tensor([23, 8, 30])
    assert torch.allclose(sparse(IDS, MASK, terms), sparse(IDS, MASK)[:, terms], atol=1e-6)


@pytest.mark.parametrize("kind", ["masked-lm", "gated", "expansion", "lexical"])
def test_a_saved_model_is_opened_unchanged(start, tmp_path, checkpoint, kind):
    sparse = start(kind, "max", "log1p_log1p")
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    (tmp_path / "saved").mkdir()
    sparse.save(tmp_path / "saved", (checkpoint / TOKENIZER_FILE).read_bytes())
    again = model.load_model(tmp_path / "saved", kind, "max", "log1p_log1p", N_TERMS).eval()
    with torch.no_grad():
        assert torch.allclose(again(IDS, MASK), sparse(IDS, MASK), atol=1e-5)


def test_a_saved_masked_lm_opens_in_transformers(start, tmp_path, checkpoint):
    sparse = start("masked-lm")
    (tmp_path / "saved").mkdir()
    sparse.save(tmp_path / "saved", (checkpoint / TOKENIZER_FILE).read_bytes())
    plain = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    logits = plain(input_ids=IDS, attention_mask=MASK).logits
    assert torch.allclose(sparse(IDS, MASK), pooling.pool_logits(logits, MASK, "max", "log1p"), atol=1e-4)


def test_lower_and_upper_layers_together_equal_the_model(start):
    sparse = start("expansion")
    with torch.no_grad():
        for n in (0, 1):
            hidden = sparse.lower(IDS, MASK, n)
            states = sparse.upper(hidden, MASK, n)
            whole = sparse.states(IDS, MASK)
            assert torch.allclose(states[MASK == 1], whole[MASK == 1], atol=1e-5)


# --- decoders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=70_001, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("decoder")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_decoder_reads_the_text_twice(decoder):
    sparse = model.load_model(decoder, "causal-lm", "max", "log1p", 70_001).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(decoder).eval()
    ids = torch.tensor([[69_999, 7, 12, 30_000], [5, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        found = sparse(ids, mask)
        for row, n in ((0, 4), (1, 2)):
            text = ids[row, :n]
            logits = plain(input_ids=torch.cat([text, text])[None]).logits[:, n:]
            expected = pooling.pool_logits(logits, torch.ones(1, n), "max", "log1p")
            assert torch.allclose(found[row], expected[0], atol=1e-4)
    # The last token changes the vector. In a single pass, the first token couldn't attend to the last token.
    other = ids.clone()
    other[0, 3] = 40_000
    with torch.no_grad():
        assert not torch.allclose(sparse(other, mask)[0], found[0])


# --- errors -----------------------------------------------------------------------------------------------------------


def test_missing_or_incomplete_heads_are_refused(checkpoint, start, tmp_path):
    with pytest.raises(EncoderError, match=r"head\.safetensors: the head's weights can't be read"):
        model.load_model(checkpoint, "expansion", "max", "log1p", N_TERMS)
    sparse = start("lexical")
    (tmp_path / "saved").mkdir()
    sparse.save(tmp_path / "saved", b"{}")
    with pytest.raises(EncoderError, match=r"the head expansion lacks identity\.weight"):
        model.load_model(tmp_path / "saved", "expansion", "max", "log1p", N_TERMS)
    path = tmp_path / "saved" / files.HEAD_FILE
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(EncoderError, match=r"head\.safetensors: the head's weights can't be read"):
        model.load_model(tmp_path / "saved", "lexical", "max", "log1p", N_TERMS)


def test_layers_of_unsupported_models_cannot_be_split(make_checkpoint, tmp_path):
    folder = make_checkpoint(tmp_path / "distil", "distilbert")
    sparse = model.start_model(folder, "lexical", "max", "log1p", N_TERMS, [[2, 23, 3]], ABSENT)
    with pytest.raises(EncoderError, match="layers of a DistilBertModel can't be frozen"):
        sparse.layers()


# --- 8-bit graphs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from lsr.encode import onnx_export

    return onnx_export


@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("head", ["expansion", "masked-lm"])
def test_the_graph_approximates_the_model(start, graph, tmp_path, head, saturation):
    sparse = start(head, "max", saturation)
    with torch.no_grad():
        if head == "expansion":
            sparse.head.bias[5:] = torch.randn(N_TERMS - 5)
            sparse.head.down.weight.normal_(std=0.1)
        else:
            sparse.backbone.cls.predictions.bias[5:] = torch.randn(N_TERMS - 5)
    graph.export(sparse, tmp_path)
    runner = onnx_runner.OnnxRunner(tmp_path, N_TERMS, threads=2)
    texts = [[2, 23, 24, 23, 3], [2, 8, 3], [2, *range(5, 25), 3]]
    found = runner.weights(texts).to_dense()
    with torch.no_grad():
        expected = np.concatenate([sparse(torch.tensor([t]), torch.ones(1, len(t))).numpy() for t in texts])
    assert (expected > 0.5).sum() > 10
    assert np.abs(found - expected).max() < 0.2  # this model is tiny, so 7 bits are coarse
    assert np.abs(found - expected).mean() < 0.02
    # Other texts in the batch have no effect.
    assert np.array_equal(runner.weights(texts[::-1]).to_dense(), found[::-1])


@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("kind", ["masked-lm", "gated", "lexical"])
def test_graphs_of_other_heads_approximate_the_model(start, graph, tmp_path, monkeypatch, kind, saturation):
    monkeypatch.setattr(graph, "_TERMS", 10)
    sparse = start(kind, "max", saturation)
    with torch.no_grad():
        if kind == "gated":
            sparse.head.gate_weight.normal_(std=0.5)
        elif kind == "lexical":
            sparse.head.weigh.weight.normal_(std=0.5)
    graph.export(sparse, tmp_path)
    runner = onnx_runner.OnnxRunner(tmp_path, N_TERMS, threads=1)
    texts = [[2, 23, 24, 23, 3], [2, 8, 3], [2, *range(5, 25), 3]]
    found = runner.weights(texts).to_dense()
    with torch.no_grad():
        expected = np.concatenate([sparse(torch.tensor([t]), torch.ones(1, len(t))).numpy() for t in texts])
    assert (expected > 0.2).sum() > 10
    same = (found > 0) == (expected > 0)
    assert same.mean() > 0.95  # rounding may change the sign of a logit or of a gate
    assert np.abs(found - expected)[same].max() < 0.2
    assert np.abs(found - expected)[same].mean() < 0.02
    # The graph names each term's token of origin, whose logit in the model is nearly the largest.
    terms = [int(term) for term in found[0].nonzero()[0]]
    states = sparse.states(torch.tensor(texts[:1]), torch.ones(1, 5))
    logits = sparse.head.token_logits(states, torch.tensor(texts[:1]), torch.tensor(terms))[0].detach().numpy()
    places = runner.origins(texts[0], terms)
    if kind == "lexical":  # if a token occurs twice, either position is right
        assert [texts[0][place] for place in places] == terms
        return
    assert all(logits[place, i] > logits[:, i].max() - 0.3 for i, place in enumerate(places))


TRACED = [
    ("bert", "masked-lm", "sum"),
    ("bert", "epic", "max"),
    ("bert", "epic-query", "max"),
    ("bert", "sparta", "max"),
    ("bert", "deepct", "max"),
    ("bert", "tilde", "max"),
    *(("distilbert", head, "max") for head in ("masked-lm", "gated", "expansion", "lexical")),
    ("llama", "causal-lm", "max"),
]


def write_wide(folder, backbone):
    """Write a random checkpoint that is wide enough for 8 bits; rows of 16 numbers would be too coarse."""
    size = {"vocab_size": N_TERMS, "pad_token_id": 0, "max_position_embeddings": 32, "initializer_range": 0.1}
    if backbone == "distilbert":
        config = transformers.DistilBertConfig(**size, dim=64, n_layers=1, n_heads=2, hidden_dim=64)
    else:
        size |= {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.AutoConfig.for_model(backbone, **size)
    auto = transformers.AutoModelForCausalLM if backbone == "llama" else transformers.AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("backbone", "kind", "pool"), TRACED)
def test_all_remaining_heads_have_a_traced_graph(graph, tmp_path, backbone, kind, pool):
    torch.manual_seed(5)
    folder = write_wide(tmp_path / backbone, backbone)
    sparse = model.start_model(folder, kind, pool, "log1p", N_TERMS, [[2, 23, 24, 3], [2, 8, 9, 3]], ABSENT).eval()
    if kind in ("lexical", "deepct"):
        torch.nn.init.normal_(sparse.head.weigh.weight, std=0.5)
        torch.nn.init.constant_(sparse.head.weigh.bias, 9.0)  # gives all tokens a weight
    (tmp_path / "out").mkdir()
    graph.export(sparse, tmp_path / "out")
    runner = onnx_runner.OnnxRunner(tmp_path / "out", N_TERMS, threads=1)
    texts = [[2, 23, 24, 23, 3], [2, 8, 3], [2, *range(5, 14), 3]]
    found = runner.weights(texts).to_dense()
    with torch.no_grad():
        expected = np.concatenate([sparse(torch.tensor([t]), torch.ones(1, len(t))).numpy() for t in texts])
    assert (expected > 0.1 * expected.max()).sum() > 4
    assert np.abs(found - expected).max() < 0.05 * expected.max()
    places = runner.origins(texts[0], [23, 30])
    assert places == [1, -1] if kind in ("lexical", "deepct", "epic-query") else [-1, -1]


def test_compression_keeps_the_maximum_lengths_of_documents_and_queries(graph, checkpoint, tmp_path):
    from lsr.encode.load import load_encoder
    from lsr.encode.splade import SpladeEncoder
    from lsr.encode.tower import Tower

    encoder = SpladeEncoder(Tower.open(checkpoint, max_length=20), Tower.open(checkpoint, max_length=5))
    graph.compress(encoder, tmp_path / "small")
    small, texts = load_encoder(tmp_path / "small"), ["the cat sat on the mat .", "dogs"]
    assert (small.document.max_length, small.query.max_length) == (20, 5)
    for method in ("encode_query", "encode_document"):
        found, expected = (getattr(e, method)(texts).to_dense() for e in (small, encoder))
        assert np.abs(found - expected).mean() < 0.02
    with pytest.raises(EncoderError, match="only an encoder with a model"):
        graph.compress(load_encoder("bm25"), tmp_path / "x")


def test_a_token_with_huge_states_does_not_make_other_tokens_less_exact(start, graph, tmp_path):
    sparse, text = start("expansion"), [2, *range(5, 25), 3]
    inner = sparse.backbone.encoder.layer[0].intermediate.dense
    seen = []
    hook = inner.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        sparse.head.bias[5:] = torch.randn(N_TERMS - 5)
        sparse(torch.tensor([text]), torch.ones(1, len(text)))
        hook.remove()
        sizes = seen[0] @ seen[0][7]
        inner.weight[0] = 40 * seen[0][7]
        inner.bias[0] = -40 * sizes.topk(2).values[1]
        expected = sparse(torch.tensor([text]), torch.ones(1, len(text))).numpy()
    graph.export(sparse, tmp_path)
    found = onnx_runner.OnnxRunner(tmp_path, N_TERMS).weights([text]).to_dense()
    assert 40 * (sizes.max() - sizes.topk(2).values[1]) > 50
    assert np.abs(found - expected).max() < 0.05
    assert np.abs(found - expected).mean() < 0.01


def test_the_graph_gives_equal_weights_on_all_processors(start, graph, tmp_path, monkeypatch):
    sparse, texts = start("expansion"), [[2, 23, 24, 23, 3], [2, *range(5, 25), 3]]
    with torch.no_grad():
        sparse.head.bias[5:] += 5
    graph.export(sparse, tmp_path)
    found = []
    for lanes in (0, sums_of_bytes()):
        monkeypatch.setattr(onnx_runner, "adds_bytes_exactly", lambda lanes=lanes: bool(lanes))
        monkeypatch.setattr("lsr.encode.projection.sums_of_bytes", lambda lanes=lanes: lanes)
        found.append(onnx_runner.OnnxRunner(tmp_path, N_TERMS).weights(texts))
    assert found[0] == found[1]
    assert found[0].nnz > 10


def test_a_compressed_encoder_opens_without_torch(start, graph, checkpoint, tmp_path):
    import subprocess
    import sys

    from lsr.encode.inference_free import InferenceFreeEncoder
    from lsr.encode.load import load_encoder
    from lsr.encode.splade import SpladeEncoder
    from lsr.encode.tokenizer import TextTokenizer
    from lsr.encode.tower import Tower

    sparse = start("expansion")
    with torch.no_grad():
        sparse.head.bias[5:] += 5
    (tmp_path / "model").mkdir()
    sparse.save(tmp_path / "model", (checkpoint / TOKENIZER_FILE).read_bytes())
    tower = Tower.open(tmp_path / "model", head="expansion", max_length=20)
    table = np.linspace(0, 2, N_TERMS)
    encoder = InferenceFreeEncoder(SpladeEncoder(tower), table, TextTokenizer.open(checkpoint), max_length=9)
    graph.compress(encoder, tmp_path / "small")
    small = load_encoder(tmp_path / "small")
    texts = ["the cat sat on the mat .", "", "dogs"]
    expected, found = (e.encode_document(texts).to_dense() for e in (encoder, small))
    assert (expected > 0.5).sum() > 10
    assert np.abs(found - expected).max() < 0.1
    assert small.encode_query("the cat") == encoder.encode_query("the cat")
    assert str(small.fingerprint) == "small"
    check = (
        "import sys; sys.modules['torch'] = None; from lsr.encode.load import load_encoder; "
        f"print(load_encoder({str(tmp_path / 'small')!r}).encode_document('the cat').nnz)"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert int(out.stdout) == small.encode_document("the cat").nnz > 0


def test_an_export_can_include_a_dense_model_with_the_same_lower_layers(graph, checkpoint, tmp_path):
    from lsr.encode.bm25 import BM25Encoder
    from lsr.encode.hybrid import HybridEncoder
    from lsr.encode.inference_free import InferenceFreeEncoder
    from lsr.encode.load import load_encoder
    from lsr.encode.splade import SpladeEncoder
    from lsr.encode.tower import Tower

    config = transformers.AutoConfig.from_pretrained(checkpoint, num_hidden_layers=2)
    torch.manual_seed(3)
    whole = transformers.AutoModelForMaskedLM.from_config(config).eval()
    dense = transformers.AutoModel.from_config(config).eval()
    shared = {k: v for k, v in whole.bert.state_dict().items() if k.startswith(("embeddings.", "encoder.layer.0."))}
    dense.load_state_dict(dense.state_dict() | shared)
    for name, part in (("sparse", whole), ("dense", dense)):
        part.save_pretrained(tmp_path / name)
        for path in checkpoint.glob("*token*"):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    documents = SpladeEncoder(Tower.open(tmp_path / "sparse"))
    encoder = InferenceFreeEncoder(documents, np.ones(N_TERMS))
    graph.compress(encoder, tmp_path / "plain")
    graph.compress(encoder, tmp_path / "small", tmp_path / "dense", "the ")
    plain, small = load_encoder(tmp_path / "plain"), load_encoder(tmp_path / "small")
    texts = ["the cat sat on the mat .", "", "dogs", "the dog"]
    assert (plain.dense_width, small.dense_width) == (0, 16)
    with pytest.raises(EncoderError, match="plain has no dense vectors"):
        plain.encode_both(texts)
    sparse, found = small.encode_both(texts)
    assert sparse == small.encode_document(texts) == plain.encode_document(texts)
    ids = documents._tokenizer(documents.document).ids(texts, 24, special=True)
    with torch.no_grad():
        expected = torch.cat([dense(input_ids=torch.tensor([row])).last_hidden_state[:, 0] for row in ids])
    cosines = (torch.nn.functional.normalize(expected).numpy() * found).sum(1)
    assert cosines.min() > 0.99  # below 1 because of 8-bit weights
    assert found.dtype == np.float32
    assert np.array_equal(small.encode_dense(texts), found)
    assert np.array_equal(small.encode_dense("dog", queries=True), small.encode_dense("the dog"))
    both = HybridEncoder(small, BM25Encoder(), 1.0)
    both.fit(texts)
    assert both.dense_width == 16
    assert np.array_equal(both.encode_both(texts)[1], found)
    assert both.encode_both(texts)[0] == both.encode_document(texts)
    with pytest.raises(EncoderError, match="must have the sparse model's embeddings"):
        graph.compress(encoder, tmp_path / "other", checkpoint)


def test_an_error_names_the_damaged_graph(graph, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(EncoderError, match=r"model\.onnx: can't be opened"):
        onnx_runner.OnnxRunner(tmp_path, N_TERMS)
