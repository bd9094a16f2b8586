"""Training supports separate towers for queries and documents, pruning, and target lengths."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from lsr.config import read_config  # noqa: E402
from lsr.encode.load import load_encoder  # noqa: E402
from lsr.errors import DataError, EncoderError  # noqa: E402
from lsr.train.data import open_training  # noqa: E402
from lsr.train.losses import keep_heaviest, term_recall  # noqa: E402
from lsr.train.objective import Penalty  # noqa: E402
from lsr.train.settings import (  # noqa: E402
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainSettings,
    QuerySettings,
    RegularizerSettings,
    TrainSettings,
)
from lsr.train.sources import TrainingSource  # noqa: E402
from lsr.train.trainer import Helpers, Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("training_environment")

WORDS = ["cat", "dog", "the", "sat", "on", "mat", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
SOME = ["the cat sat on the mat .", "dog", "abc def ghij " * 20]


@pytest.fixture(scope="module")
def small(make_checkpoint, tmp_path_factory):
    """A model of half the size with the same vocabulary."""
    from transformers import AutoModelForMaskedLM, BertConfig

    folder = make_checkpoint(tmp_path_factory.mktemp("small") / "half", seed=4)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    n_terms = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = BertConfig(vocab_size=n_terms, max_position_embeddings=24, pad_token_id=0, initializer_range=0.4, **size)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("data") / "triples.jsonl"
    with path.open("w") as file:
        for _ in range(40):
            one, other = (" ".join(draw.choices(WORDS, k=6)) for _ in range(2))
            row = {"query": " ".join(one.split()[:2]), "positive": one, "negative": other}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def settings(checkpoint, triples):
    return TrainSettings(
        model=ModelSettings(str(checkpoint), max_length=20, dropout=0.0),
        data=DataSettings((TrainingSource(str(triples)),), queries=4, negatives=1),
        losses=LossSettings(info_nce=1.0),
        queries=QuerySettings(max_length=16),
        optimizer=OptimizerSettings(steps=3, lr=1e-3, warmup=0),
        checkpoint_every=2,
        device="cpu",
    )


def trainer(settings, folder):
    return Trainer(settings, folder, open_training(settings.data.sources), Helpers())


def live(run, texts, prompt=""):
    """Query vectors of the model in its current state of training."""
    student = run.student
    student.query_model.eval()
    ids = student.query_tokenizer.ids([prompt + text for text in texts], 16, special=True)
    return student.query_network.forward(ids, None).detach().numpy()


def logged(folder, key):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


# --- towers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["masked-lm", "gated", "expansion", "lexical", "epic", "sparta", "deepct", "tilde"])
def test_queries_can_have_their_own_model(settings, small, tmp_path, head):
    settings = replace(
        settings,
        model=replace(settings.model, head=head, prompt="a "),
        queries=QuerySettings(checkpoint=str(small), max_length=16, prompt="the "),
    )
    run = trainer(settings, tmp_path / "run")
    before = {name: p.detach().clone() for p, name in run.student.names.items()}
    encoder = load_encoder(run.run())
    changed = {name for p, name in run.student.names.items() if not torch.equal(before[name], p)}
    assert any(name.startswith("queries.") for name in changed)
    assert any(not name.startswith("queries.") for name in changed)
    assert np.abs(encoder.encode_query(SOME).to_dense() - live(run, SOME, "the ")).max() < 1e-4
    ids = run.student.tokenizer.ids(["a " + text for text in SOME], 20, special=True)
    run.student.model.eval()
    documents = run.student.network.forward(ids, None).detach().numpy()
    assert np.abs(encoder.encode_document(SOME).to_dense() - documents).max() < 1e-4
    assert encoder.query.folder() != encoder.document.folder()
    sizes = [(tower.folder() / "model.safetensors").stat().st_size for tower in (encoder.query, encoder.document)]
    assert sizes[0] < sizes[1]


def test_a_run_of_two_towers_resumes_after_a_kill(settings, small, tmp_path):
    settings = replace(settings, queries=replace(settings.queries, checkpoint=str(small)))
    whole = trainer(settings, tmp_path / "whole")
    whole.run()
    part = trainer(settings, tmp_path / "part")
    examples = part._examples()
    for _ in range(2):
        part._update(examples)
        part.step += 1
    part._save()
    again = trainer(settings, tmp_path / "part")
    assert again.step == 2
    again.run()
    names = {name: p for p, name in again.student.names.items()}
    assert all(torch.equal(p, names[name]) for p, name in whole.student.names.items())


def test_other_libraries_open_both_towers(settings, small, tmp_path):
    pytest.importorskip("sentence_transformers")
    settings = replace(settings, queries=QuerySettings(checkpoint=str(small), max_length=16, prompt="the "))
    best = trainer(settings, tmp_path / "run").run()
    encoder = load_encoder(best)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(str(best), device="cpu")
        theirs = model.encode_query(SOME), model.encode_document(SOME)
    for ours, other in zip((encoder.encode_query(SOME), encoder.encode_document(SOME)), theirs, strict=True):
        assert np.abs(ours.to_dense() - other.to_dense().numpy()).max() < 1e-5


def test_both_towers_become_graphs(settings, small, tmp_path, lsr_command):
    pytest.importorskip("onnx")
    settings = replace(settings, queries=QuerySettings(checkpoint=str(small), max_length=16, prompt="the "))
    encoder = load_encoder(trainer(settings, tmp_path / "run").run())
    ran = lsr_command("publish", tmp_path / "run" / "last", "--onnx", "--out", tmp_path / "graphs")
    assert ran.code == 0, ran.err
    graphs = load_encoder(tmp_path / "graphs")
    assert not list((tmp_path / "graphs").rglob("*.safetensors"))
    for found, expected in (
        (graphs.encode_query(SOME), encoder.encode_query(SOME)),
        (graphs.encode_document(SOME), encoder.encode_document(SOME)),
    ):
        assert np.abs(found.to_dense() - expected.to_dense()).mean() < 0.03


def test_both_towers_are_pretrained_if_they_start_from_one_checkpoint(settings, checkpoint, small, tmp_path):
    for own, alike in ((str(checkpoint), True), (str(small), False)):
        changed = replace(
            settings,
            queries=replace(settings.queries, checkpoint=own),
            pretrain=PretrainSettings(1),
            optimizer=replace(settings.optimizer, lr=1e-2),
        )
        run = trainer(changed, tmp_path / str(alike))
        examples = run._examples()
        run._update(examples)
        run.step += 1
        run.student.share_pretraining()
        states = run.student.model.state_dict(), run.student.query_model.state_dict()
        assert all(torch.equal(states[0][name], states[1].get(name, torch.zeros(1))) for name in states[0]) == alike


def test_a_query_model_with_another_vocabulary_is_refused(settings, make_checkpoint, tmp_path):
    other = make_checkpoint(tmp_path / "other", vocab_size=40)
    settings = replace(settings, queries=replace(settings.queries, checkpoint=str(other)))
    with pytest.raises(EncoderError, match=r"queries\.checkpoint .*: its vocabulary is not that of"):
        trainer(settings, tmp_path / "run")


def test_epic_has_one_model_with_two_heads(settings, tmp_path):
    run = trainer(replace(settings, model=replace(settings.model, head="epic", top_k=9)), tmp_path / "run")
    before = {name: p.detach().clone() for p, name in run.student.names.items()}
    encoder = load_encoder(run.run())
    changed = {name for p, name in run.student.names.items() if not torch.equal(before[name], p)}
    assert {"head.query.weight", "head.importance.weight", "head.quality.weight"} <= changed
    assert not [name for name in before if name.startswith("queries.")]
    assert encoder.query.folder() == encoder.document.folder()
    assert np.abs(encoder.encode_query(SOME).to_dense() - live(run, SOME)).max() < 1e-4
    assert encoder.encode_document(SOME).lengths().tolist() == [9, 9, 9]
    assert encoder.encode_query(["cat"]).lengths().tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "table", "checkpoint": "x"}, "checkpoint is for queries of the kind encoded, not table"),
        ({"kind": "tokens", "prompt": "x"}, "prompt is for queries of the kind encoded, not tokens"),
        ({"kind": "idf", "top_k": 3}, "top_k is for queries of the kind encoded, not idf"),
    ],
)
def test_settings_of_a_model_are_refused_for_query_tables(change, message):
    with pytest.raises(ValueError, match=message):
        QuerySettings(**change)


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_the_heaviest_weights_are_kept_with_their_gradient():
    weights = torch.tensor([[3.0, 1, 2, 0], [1, 1, 5, 4]], requires_grad=True)
    kept = keep_heaviest(weights, 2)
    assert kept.tolist() == [[3, 0, 2, 0], [0, 0, 5, 4]]
    kept.sum().backward()
    assert weights.grad.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]
    assert keep_heaviest(weights, 4) is weights
    # Only columns 2 to 4 count towards k; columns 0 and 1 repeat columns 2 and 4.
    twice = torch.tensor([[3.0, 2, 3, 1, 2]])
    assert keep_heaviest(twice, 2, slice(2, None)).tolist() == [[3, 2, 3, 0, 2]]


@pytest.mark.parametrize("kind", ["encoded", "table"])
def test_training_prunes_vectors_as_the_encoder_does(settings, tmp_path, kind):
    queries = QuerySettings(kind, max_length=16, **({"top_k": 2} if kind == "encoded" else {}))
    settings = replace(settings, model=replace(settings.model, top_k=5), queries=queries)
    run = trainer(settings, tmp_path)
    encoder = load_encoder(run.run())
    assert all(terms <= 5 for terms in logged(tmp_path, "documents_terms"))
    assert encoder.encode_document(SOME).lengths().max() == 5
    if kind == "encoded":
        assert all(terms <= 2 for terms in logged(tmp_path, "queries_terms"))
        assert encoder.encode_query(SOME).lengths().max() == 2


def test_pruning_cannot_be_combined_with_sampled_terms(settings):
    with pytest.raises(ValueError, match=r"sample_terms can't be combined with model\.top_k"):
        replace(settings, model=replace(settings.model, top_k=5), queries=QuerySettings("table"), sample_terms=10)


# --- target length ----------------------------------------------------------------------------------------------------


def test_the_weight_for_a_target_length_follows_its_definition():
    penalty = Penalty(RegularizerSettings("l1", weight=0.5, ramp=2, target=2), torch.ones(8), "query")
    weights = torch.zeros(1, 8)
    weights[0, :4] = 1  # twice the target
    raw, total = penalty(weights, None, 1)
    assert "weight" not in raw
    assert float(total) == pytest.approx(0.5 * 0.25 * 4)  # during the ramp, the target has no effect
    error = np.log(4 / 2)
    for n in (1, 2):
        raw, total = penalty(weights, None, 1 + n)
        assert float(raw["weight"]) == pytest.approx(0.5 * np.exp(error + 0.05 * n * error))
        assert float(total) == pytest.approx(float(raw["weight"]) * 4)
    raw, _ = penalty(torch.zeros(1, 8), None, 9)  # the error is at least -1, even for an empty vector
    assert float(raw["weight"]) == pytest.approx(0.5 * np.exp(-1 + 0.05 * (2 * error - 1)))


@pytest.mark.parametrize("target", [4.0, 10.0])
def test_documents_reach_the_target_length(settings, tmp_path, target):
    settings = replace(
        settings,
        documents_regularizer=RegularizerSettings("l1", weight=1e-3, target=target),
        optimizer=replace(settings.optimizer, steps=150, lr=3e-3, decay="constant"),
        checkpoint_every=1000,
    )
    trainer(settings, tmp_path).run()
    lengths = logged(tmp_path, "documents_terms")
    assert abs(np.mean(lengths[-30:]) - target) < 0.25 * target
    assert abs(lengths[0] - target) > 0.3 * target


def test_the_state_of_a_target_length_is_part_of_a_checkpoint(settings, tmp_path):
    settings = replace(settings, documents_regularizer=RegularizerSettings("l1", weight=1e-3, target=4))
    run = trainer(settings, tmp_path)
    run.run()
    kept = run.losses.penalties["documents"].pressure
    assert float(kept) != 0
    assert torch.equal(trainer(settings, tmp_path).losses.penalties["documents"].pressure, kept)


def test_a_target_needs_a_weight(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model: {checkpoint: x}\ndata: {sources: [path: y]}\nlosses: {info_nce: 1}\noptimizer: {steps: 1}\n"
                    "documents_regularizer: {target: 50}\n")  # fmt: skip
    with pytest.raises(DataError, match="target needs a weight to start from"):
        read_config(path, TrainSettings)


# --- DeepCT's loss ----------------------------------------------------------------------------------------------------


def test_term_recall_equals_its_definition():
    weights = torch.tensor([[0.5, 2.0, 0.25], [1.0, 0.0, 3.0]])
    asked = torch.tensor([[True, False, False], [True, True, True]])
    own = torch.tensor([[True, False, True], [False, True, False]])
    assert float(term_recall(weights, asked, own)) == pytest.approx((0.5**2 + 0.25**2 + 1) / 3)
    assert float(term_recall(weights, asked, torch.zeros_like(own))) == 0


@pytest.mark.parametrize(("kind", "sample"), [("encoded", 0), ("tokens", 0), ("tokens", 8)])
def test_term_recall_of_a_batch_equals_that_of_its_texts(settings, triples, tmp_path, kind, sample):
    """The values are also equal if the batch has columns only for a sample of terms."""
    settings = replace(
        settings,
        model=replace(settings.model, head="deepct"),
        queries=QuerySettings(kind, max_length=16),
        losses=LossSettings(term_recall=1.0),
        data=replace(settings.data, queries=3, negatives=0),
        optimizer=replace(settings.optimizer, steps=1),
        sample_terms=sample,
    )
    run = trainer(settings, tmp_path)
    student = run.student
    drawn = run._examples()
    examples = [next(drawn) for _ in range(3)]
    student.model.eval()
    errors = []
    for example in examples:
        asked = set(student.tokenizer.ids([example.query], 16, special=False)[0])
        (row,) = student.tokenizer.ids([example.documents[0]], 20, special=True)
        with torch.no_grad():
            states = student.model.states(torch.tensor([row]), torch.ones(1, len(row)))
            values = torch.relu(student.model.head.weigh(states))[0, :, 0].tolist()
        for term in {one for one in row if not student.vocabulary[one].startswith(("##", "["))}:
            weight = max(value for one, value in zip(row, values, strict=True) if one == term)
            errors.append((weight - (term in asked)) ** 2)
    student.model.train()
    run.run()
    assert logged(tmp_path, "term_recall")[0] == pytest.approx(np.mean(errors), rel=1e-4)
