"""Trainer: every head learns and is saved unchanged, and interrupted runs resume exactly."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from lsr.encode.hybrid import HybridEncoder  # noqa: E402
from lsr.encode.load import load_encoder  # noqa: E402
from lsr.errors import EncoderError, OutputError, TrainingError  # noqa: E402
from lsr.train import checkpoints as checkpoints_module  # noqa: E402
from lsr.train import losses  # noqa: E402
from lsr.train.batches import Batch, draw_batch  # noqa: E402
from lsr.train.data import open_training  # noqa: E402
from lsr.train.objective import Penalty, ranking_loss  # noqa: E402
from lsr.train.query_table import QueryTable  # noqa: E402
from lsr.train.settings import (  # noqa: E402
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainSettings,
    QuerySettings,
    RegularizerSettings,
    TeacherSettings,
    TrainSettings,
    ValidationSettings,
)
from lsr.train.sources import TrainingSource  # noqa: E402
from lsr.train.teachers import SparseTeacher, Teacher  # noqa: E402
from lsr.train.trainer import Helpers, Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("training_environment")

WORDS = ["cat", "dog", "the", "sat", "on", "mat", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
SOME = ["the cat sat on the mat .", "dog", "abc def ghij " * 20]


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """A file of triples with a teacher's scores. A query's words are in its positive."""
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("data") / "triples.jsonl"
    with path.open("w") as file:
        for _ in range(40):
            documents = [" ".join(draw.choices(WORDS, k=6)) for _ in range(3)]
            query = " ".join(documents[0].split()[:2])
            if len(set(documents)) == 3:
                values = {"query": query, "positives": documents[:1], "negatives": documents[1:], "scores": [3, 1, 0]}
                file.write(json.dumps(values) + "\n")
    return path


@pytest.fixture(scope="module")
def steady(checkpoint, tmp_path_factory):
    """The checkpoint without dropout."""
    folder = tmp_path_factory.mktemp("steady") / "bert"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def settings(checkpoint, triples):
    return TrainSettings(
        model=ModelSettings(str(checkpoint), max_length=20),
        data=DataSettings((TrainingSource(str(triples)),), queries=4, negatives=1),
        losses=LossSettings(info_nce=1.0),
        queries=QuerySettings(max_length=16),
        optimizer=OptimizerSettings(steps=8, lr=1e-3, head_lr=1e-2, warmup=2),
        documents_regularizer=RegularizerSettings("flops", weight=0.01, ramp=3),
        checkpoint_every=3,
        device="cpu",
    )


def trainer(settings, folder, **helpers):
    return Trainer(settings, folder, open_training(settings.data.sources), Helpers(**helpers))


def log(folder, key="loss"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def weights_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def live(run, texts):
    run.student.model.eval()
    ids = run.student.tokenizer.ids(texts, run.settings.model.max_length, special=True)
    return run.student.network.forward(ids, None).detach().numpy()


# --- heads and queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["encoded", "table", "projected", "idf", "tokens"])
@pytest.mark.parametrize("head", ["masked-lm", "gated", "expansion", "lexical"])
def test_every_head_is_saved_unchanged(settings, tmp_path, head, kind):
    settings = replace(
        settings,
        model=replace(settings.model, head=head),
        queries=QuerySettings(kind, max_length=16),
        optimizer=replace(settings.optimizer, steps=2),
        sample_terms=0 if kind == "encoded" else 10,
    )
    run = trainer(settings, tmp_path)
    before = {name: p.detach().clone() for p, name in run.student.names.items()}
    encoder = load_encoder(run.run())
    assert np.abs(encoder.encode_document(SOME).to_dense() - live(run, SOME)).max() < 1e-4
    changed = {name for p, name in run.student.names.items() if not torch.equal(before[name], p)}
    assert any(name.startswith("head" if head in ("expansion", "lexical") else "backbone") for name in changed)
    assert ("table.weight" in changed) == (kind == "table")
    assert ("table.direction" in changed) == (kind == "projected")
    card = (tmp_path / "last" / "README.md").read_text()
    assert f"{run.step} steps of lsr from tiny-bert on triples.jsonl." in card
    assert str(tmp_path) not in card
    assert (tmp_path / "last" / "config_sentence_transformers.json").is_file() == (head == "masked-lm")
    (query,) = encoder.encode_query(["the cat the"]).to_dense()
    words = [encoder.vocabulary.index(word) for word in ("the", "cat")]
    match kind:
        case "encoded":
            assert np.allclose(query, live(run, ["the cat the"])[0], atol=1e-4)
        case "tokens":
            assert query.nonzero()[0].tolist() == sorted(words)
            assert query[words].tolist() == [1, 1]
        case _:
            assert np.allclose(query[words], run.student.table.weights().detach()[words])


def counted_idf(run, triples):
    """IDF computed from the tokens of all positives. A repeated positive counts once."""
    texts = {json.loads(line)["positives"][0] for line in triples.read_text().splitlines()}
    rows = [set(row) for row in run.student.tokenizer.ids(list(texts), 20, special=False)]
    df = np.array([sum(term in row for row in rows) for term in range(run.student.model.n_terms)])
    return np.log(1 + (len(rows) - df + 0.5) / (df + 0.5)), df


@pytest.mark.parametrize("penalty", ["flops", "idf_flops"])
@pytest.mark.parametrize("kind", ["idf", "table", "tokens"])
def test_each_kind_of_query_table_has_the_expected_scale(settings, triples, tmp_path, kind, penalty):
    """Kind `idf` has plain IDF, which suits published lambdas. Kind `table` has the mean 1. Kind `tokens` has ones."""
    settings = replace(
        settings,
        queries=QuerySettings(kind, max_length=16),
        documents_regularizer=RegularizerSettings(penalty, weight=0.01),
    )
    run = trainer(settings, tmp_path)
    idf, df = counted_idf(run, triples)
    some = df > 0
    expected = {"idf": idf, "table": idf / idf[some].mean(), "tokens": np.ones_like(idf)}[kind]
    assert run.student.table.weights().detach().numpy()[some] == pytest.approx(expected[some], rel=1e-5)
    if penalty == "idf_flops":
        assert run.student.idf.numpy()[some] == pytest.approx(idf[some], rel=1e-5)
    encoder = load_encoder(run.run())
    (query,) = encoder.encode_query(["cat dog cat"]).to_dense()
    if kind != "table":
        words = [encoder.vocabulary.index(word) for word in ("cat", "dog")]
        assert query[words] == pytest.approx(expected[words], rel=1e-5)


@pytest.mark.parametrize("kind", ["idf", "table"])
def test_query_weights_can_be_given_in_a_file(settings, tmp_path, kind):
    path = tmp_path / "idf.json"
    path.write_text(json.dumps({"cat": 8.5, "dog": 2, "[CLS]": 3.0, "unheard": 1.0, "the": -1.0}))
    settings = replace(
        settings,
        queries=QuerySettings(kind, max_length=16, weights=str(path)),
        optimizer=replace(settings.optimizer, steps=1),
    )
    run = trainer(settings, tmp_path / "run")
    encoder = load_encoder(run.run())  # the learning rate of the first step is 0
    (query,) = encoder.encode_query(["cat dog the mat"]).to_dense()
    found = {encoder.vocabulary[term]: query[term] for term in query.nonzero()[0]}
    assert found == pytest.approx({"cat": 8.5, "dog": 2})
    path.write_text('{"cat": NaN}')
    with pytest.raises(EncoderError, match="weights that are not finite"):
        trainer(settings, tmp_path / "other")
    path.unlink()
    with pytest.raises(EncoderError, match="weights: no such file"):
        trainer(settings, tmp_path / "other")
    with pytest.raises(ValueError, match="weights is for the kinds table and idf, not tokens"):
        QuerySettings("tokens", weights="x.json")


def test_a_run_with_the_scaled_idf_of_an_earlier_version_is_refused(settings, tmp_path):
    settings = replace(
        settings, queries=QuerySettings("idf", max_length=16), optimizer=replace(settings.optimizer, steps=1)
    )
    trainer(settings, tmp_path).run()
    path = tmp_path / "checkpoint-00000001" / "counts.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "idf"}, path)
    with pytest.raises(TrainingError, match="a run of an earlier version, in which the queries' IDF had a mean of 1"):
        trainer(settings, tmp_path)


def test_projected_query_weights_equal_their_definition():
    start, embeddings = torch.tensor([0.0, 3, 1, 1]), torch.tensor([[1.0, 2], [0, 1], [3, 0], [-5, 0]])
    table = QueryTable(start, learned=True, embeddings=embeddings)
    assert table.weights().tolist() == pytest.approx([0, 1, 1, 1])
    with torch.no_grad():
        table.direction.copy_(torch.tensor([0.5, 2.0]))
        table.offset.fill_(1)
    # v . E + b is 5.5, 3, 2.5 and -1.5; the first term starts with weight 0 and keeps it.
    assert table.weights().tolist() == pytest.approx([0, math.log(4), math.log(3.5), 0])
    found = table.look_up([[3, 1], [2, 2]], torch.tensor([1, 2, 3]))
    assert torch.allclose(found, torch.tensor([[math.log(4), 0, 0], [0, math.log(3.5), 0]]))
    found.sum().backward()
    assert table.direction.grad.tolist() == pytest.approx([3 / 3.5, 1 / 4])


@pytest.fixture(scope="module")
def decoder(checkpoint, tmp_path_factory):
    """A causal language model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("decoder") / "llama"
    torch.manual_seed(0)
    sizes = {"vocab_size": 36, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "pad_token_id": 0, "max_position_embeddings": 64, "initializer_range": 0.4}
    LlamaForCausalLM(LlamaConfig(**sizes, **more, bos_token_id=2, eos_token_id=3)).save_pretrained(folder)
    shutil.copy(checkpoint / "tokenizer.json", folder)
    return folder


def test_only_adapters_are_trained_and_a_saved_model_merges_them(settings, decoder, tmp_path):
    pytest.importorskip("peft")
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(decoder), head="causal-lm", lora=2),
        optimizer=replace(settings.optimizer, steps=3, lr=1e-2),
    )
    run = trainer(settings, tmp_path / "run")
    assert all(".lora_" in name for name in run.student.names.values())
    base = live(trainer(settings, tmp_path / "other"), SOME)
    best = run.run()
    found = load_encoder(best).encode_document(SOME).to_dense()
    assert np.abs(found - live(run, SOME)).max() < 1e-4
    assert np.abs(found - base).max() > 1e-2
    resumed = trainer(settings, tmp_path / "run")
    assert resumed.step == 3
    assert np.array_equal(live(resumed, SOME), live(run, SOME))


def test_a_saved_masked_language_model_merges_its_adapters(settings, tmp_path):
    pytest.importorskip("peft")
    settings = replace(
        settings, model=replace(settings.model, lora=2), optimizer=replace(settings.optimizer, steps=3, lr=1e-2)
    )
    run = trainer(settings, tmp_path)
    assert np.abs(load_encoder(run.run()).encode_document(SOME).to_dense() - live(run, SOME)).max() < 1e-4


def test_a_decoder_that_reads_a_text_twice_needs_twice_the_length(settings, decoder, tmp_path):
    long = replace(settings.model, checkpoint=str(decoder), head="causal-lm", max_length=40)
    with pytest.raises(EncoderError, match=r"model.max_length 40: .* reads 32 tokens"):
        trainer(replace(settings, model=long), tmp_path)


class Lengths(Teacher):
    """Scores documents by their length."""

    def scores(self, queries, documents):
        return np.tile(np.array([len(text) for text in documents], np.float32), (len(queries), 1))


@pytest.mark.parametrize("kind", ["encoded", "table"])
def test_bm25_scores_are_added_to_the_score_in_training(settings, tmp_path, monkeypatch, kind):
    settings = replace(settings, lexical=0.5, queries=QuerySettings(kind, max_length=16))
    seen = []
    monkeypatch.setattr(
        "lsr.train.batch_loss.ranking_loss", lambda scores, *rest: seen.append(scores) or ranking_loss(scores, *rest)
    )
    known, none = trainer(settings, tmp_path / "a", lexical=Lengths()), Lengths()
    monkeypatch.setattr(none, "scores", lambda q, d: np.zeros((len(q), len(d)), np.float32))
    other = trainer(settings, tmp_path / "b", lexical=none)
    batches = []
    monkeypatch.setattr(
        "lsr.train.batch_loss.draw_batch", lambda *args: batches.append(draw_batch(*args)) or batches[-1]
    )
    folder = known.run()
    other.run()
    lengths = torch.tensor([len(text) for text in batches[0].documents])
    assert torch.allclose(seen[0], seen[8] + 0.5 * lengths, atol=1e-4)
    encoder = load_encoder(folder)
    assert isinstance(encoder, HybridEncoder)
    assert encoder.needs_fit
    assert (encoder.weight == 0.5) == (kind == "encoded")  # with a table, the weight is learned, too
    assert encoder.weight == known.student.table.lexical.item()


def test_a_loss_without_the_lexical_score_can_be_added(settings, tmp_path):
    settings = replace(settings, lexical=0.5, losses=LossSettings(info_nce=0.7), teachers=())
    settings = replace(settings, optimizer=replace(settings.optimizer, steps=1))
    both = replace(settings, losses=replace(settings.losses, alone=2.0))
    found = {}
    for name, each in (("both", both), ("whole", settings), ("alone", replace(settings, lexical=0.0))):
        trainer(each, tmp_path / name, lexical=Lengths()).run()
        found[name] = {key: log(tmp_path / name, key)[0] for key in ("info_nce", "loss")}
    (alone,) = log(tmp_path / "both", "alone_info_nce")
    assert alone == found["alone"]["info_nce"] != found["both"]["info_nce"] == found["whole"]["info_nce"]
    assert found["both"]["loss"] == pytest.approx(found["whole"]["loss"] + 2 * 0.7 * alone, rel=1e-5)


# --- settings that don't change results -------------------------------------------------------------------------------


def compare(settings, tmp_path, teachers=(), **changes):
    """Check that changed settings give the same losses in two steps, and the same gradients in the first step."""
    found = []
    for name, each in (("plain", settings), ("changed", replace(settings, **changes))):
        each = replace(each, optimizer=replace(each.optimizer, steps=2), checkpoint_every=1)
        trainer(each, tmp_path / name, teachers=teachers).run()
        moments = load_file(tmp_path / name / "checkpoint-00000001" / "optimizer.safetensors")
        found.append((log(tmp_path / name), {key: v for key, v in moments.items() if key.endswith("exp_avg")}))
    (losses_one, one), (losses_two, two) = found
    assert losses_one == pytest.approx(losses_two, rel=1e-4)
    assert one.keys() == two.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    assert all(torch.allclose(value, two[name], rtol=1e-3, atol=1e-4 * largest) for name, value in one.items())


def test_the_gradient_cache_gives_equal_gradients(settings, steady, tmp_path):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        documents_regularizer=RegularizerSettings("df_flops", weight=0.1),
    )
    compare(settings, tmp_path, gradient_cache=True, batch_tokens=40)


def test_the_gradient_cache_draws_the_same_dropout_twice(settings, tmp_path, monkeypatch):
    settings = replace(settings, gradient_cache=True, batch_tokens=20, optimizer=replace(settings.optimizer, steps=1))
    run = trainer(settings, tmp_path)
    seen = {}
    forward = run.student.network.forward

    def remember(ids, terms):
        out = forward(ids, terms)
        seen.setdefault(json.dumps(ids), []).append(out.detach())
        return out

    monkeypatch.setattr(run.student.network, "forward", remember)
    run._update(run._examples())
    passes = [outs for outs in seen.values() if len(outs) == 2]
    assert len(passes) == len(seen) > 4
    assert all(torch.equal(*outs) for outs in passes)


def test_accumulated_batches_make_one_update(settings, steady, tmp_path):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        data=replace(settings.data, negatives=2),
        losses=LossSettings(margin_mse=1.0),  # compares a query's own documents, with any batch size
        documents_regularizer=RegularizerSettings("l1", weight=0.01),
    )
    compare(
        settings,
        tmp_path,
        data=replace(settings.data, queries=2),
        optimizer=replace(settings.optimizer, accumulate=2),
    )


def test_the_gradient_cache_joins_accumulated_batches(settings, steady, tmp_path):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        losses=LossSettings(info_nce=1.0, kl=0.5),
        documents_regularizer=RegularizerSettings("flops", weight=0.1),
        gradient_cache=True,
    )
    compare(
        settings,
        tmp_path,
        data=replace(settings.data, queries=2),
        optimizer=replace(settings.optimizer, accumulate=2),
    )


def test_the_gradient_cache_joins_accumulated_batches_of_pretraining(settings, steady, tmp_path):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        pretrain=PretrainSettings(2, mask_share=0.3, flops=0.1),
        gradient_cache=True,
    )
    for accumulate in (1, 2, 4):
        each = replace(
            settings,
            data=replace(settings.data, queries=4 // accumulate),
            optimizer=replace(settings.optimizer, accumulate=accumulate, steps=1),
        )
        trainer(each, tmp_path / str(accumulate)).run()
    for name in ("masked_lm", "documents_flops", "documents_terms", "loss", "norm"):
        whole = log(tmp_path / "1", name)
        assert len(whole) >= 2
        for accumulate in (2, 4):
            assert log(tmp_path / str(accumulate), name) == pytest.approx(whole, rel=1e-3), name


@pytest.mark.parametrize(("cached", "size"), [(False, 2), (True, 4)])
def test_a_batch_can_be_limited_to_one_source(settings, triples, tmp_path, monkeypatch, cached, size):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"query": f"mat {word}", "positive": word}) + "\n" for word in WORDS))
    both = (TrainingSource(str(triples)), TrainingSource(str(other), weight=2))
    settings = replace(
        settings,
        data=DataSettings(both, queries=2, negatives=1, mixed=False),
        optimizer=replace(settings.optimizer, accumulate=2, steps=12),
        gradient_cache=cached,
    )
    sources = []
    run, plain = trainer(settings, tmp_path / "run"), Trainer._backward

    def backward(self, examples, **how):
        def told():
            for example in examples:
                sources.append(example.query.startswith("mat ") and len(example.doc_ids) == 1)
                yield example

        return plain(self, told(), **how)

    monkeypatch.setattr(Trainer, "_backward", backward)
    run.run()
    groups = [set(sources[i : i + size]) for i in range(0, len(sources), size)]
    assert len(sources) == 48
    assert {len(group) for group in groups} == {1}
    assert set.union(*groups) == {True, False}


@pytest.mark.parametrize("kind", ["flops", "l1", "idf_flops", "df_flops", "l0_flops", "group"])
def test_two_batches_of_three_queries_equal_one_batch_of_six(settings, steady, make_checkpoint, tmp_path, kind):
    """The test checks every loss and regularizer, with the gradient cache."""
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        data=replace(settings.data, queries=6, negatives=2),
        losses=LossSettings(
            info_nce=1.0, kl=0.5, margin_mse=0.1, margin_pairs="all", vectors=0.1, term_recall=0.1, bank=0.1
        ),
        documents_regularizer=RegularizerSettings(kind, weight=0.1, threshold=1, anti_zero=0.1, target=5),
        queries_regularizer=RegularizerSettings(kind, weight=0.1, threshold=1),
        gradient_cache=True,
    )
    teacher = SparseTeacher(load_encoder(make_checkpoint(tmp_path / "teacher", seed=7), max_length=20))
    compare(
        settings,
        tmp_path,
        [teacher],
        data=replace(settings.data, queries=3),
        optimizer=replace(settings.optimizer, accumulate=2),
    )


def test_losses_in_half_precision_are_close_to_those_in_float32(settings, steady, tmp_path):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        losses=LossSettings(info_nce=1.0, kl=0.1, margin_mse=0.1),
        optimizer=replace(settings.optimizer, steps=3),
    )
    trainer(settings, tmp_path / "whole").run()
    trainer(replace(settings, precision="bfloat16"), tmp_path / "half").run()
    whole, half = log(tmp_path / "whole"), log(tmp_path / "half")
    assert half == pytest.approx(whole, rel=0.05)
    assert half != whole


@pytest.mark.parametrize("kind", ["flops", "l1", "df_flops", "idf_flops", "l0_flops"])
def test_sampling_all_terms_equals_no_sampling(settings, steady, tmp_path, kind):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        queries=QuerySettings("table", max_length=16),
        documents_regularizer=RegularizerSettings(kind, weight=0.1, threshold=3, anti_zero=0.1),
    )
    compare(settings, tmp_path, sample_terms=36)


@pytest.mark.parametrize("kind", ["flops", "l1", "df_flops", "l0_flops"])
def test_the_cost_of_a_sample_is_scaled_to_all_terms(kind):
    regularizer = RegularizerSettings(kind, weight=1.0, threshold=50, anti_zero=0.5)
    weights = torch.full((4, 100), 0.5)
    whole, total = Penalty(regularizer, torch.ones(100), "document")(weights, None, 0)
    terms = torch.arange(0, 100, 5)
    part, of_part = Penalty(regularizer, torch.ones(100), "document")(weights[:, terms], terms, 0)
    assert {name: float(v) for name, v in part.items()} == pytest.approx({n: float(v) for n, v in whole.items()})
    assert float(of_part) == pytest.approx(float(total))
    assert float(whole["terms"]) == 100


def test_frozen_layers_run_once_per_text(settings, steady, tmp_path, monkeypatch):
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady), head="expansion", freeze=1),
        queries=QuerySettings("table", max_length=16),
        sample_terms=10,
    )
    run = trainer(settings, tmp_path / "frozen")
    assert not any(name.startswith("backbone.") and "pooler" not in name for name in run.student.names.values())
    run.run()
    ids = run.student.tokenizer.ids(SOME, 20, special=True)
    run.student.model.eval()
    with torch.no_grad():
        cached = run.student.network.forward(ids, None)
        run.student.network.states = None
        plain = run.student.network.forward(ids, None)
    assert torch.allclose(cached, plain, atol=2e-2)  # the cache is float16
    again = trainer(settings, tmp_path / "frozen")
    again.step = 0
    monkeypatch.setattr(type(run.student.model), "lower", None)
    again._update(again._examples())


def test_too_many_frozen_layers_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="freeze works with the heads"):
        replace(settings.model, freeze=1)
    deep = replace(settings.model, head="lexical", freeze=2)
    with pytest.raises(EncoderError, match="freeze 2: the backbone has 1 layers"):
        trainer(replace(settings, model=deep), tmp_path)


# --- losses -----------------------------------------------------------------------------------------------------------


class Shared(Teacher):
    """Scores documents by the number of words that they share with the query."""

    def scores(self, queries, documents):
        words = [[set(text.split()) for text in texts] for texts in (queries, documents)]
        return np.array([[len(q & d) for d in words[1]] for q in words[0]], np.float32)


def test_distillation_lowers_the_kl_and_margin_mse_losses(settings, tmp_path):
    settings = replace(
        settings,
        losses=LossSettings(kl=1.0, margin_mse=0.1, scale=5),
        optimizer=replace(settings.optimizer, steps=60, lr=5e-3),
        documents_regularizer=RegularizerSettings(),
        checkpoint_every=100,
    )
    trainer(settings, tmp_path, teachers=[Shared()]).run()
    for name in ("kl", "margin_mse"):
        values = log(tmp_path, name)
        assert np.mean(values[-10:]) < 0.7 * np.mean(values[:10])


def test_models_and_example_scores_can_be_teachers_together():
    own = torch.tensor([[0, 1, 2], [2, 1, -1]])
    brought = torch.tensor([[[1.0, 5, 1], [4, 4, torch.nan]]])
    batch = Batch(["cat", "dog"], ["x" * 9, "x", "x" * 5], own, torch.eye(2, 3).bool(), brought)
    scores = torch.tensor([[0.3, 0.2, 0.9], [1.0, 0.5, 0.1]])
    raw, _ = ranking_loss(scores, batch, LossSettings(kl=1, scale=2), [Lengths()], examples=True)
    # Each teacher's scores are scaled to lie between 0 and 1, and then added. The first query has lengths 9, 1, 5 and
    # example scores 1, 5, 1. The second query has lengths 5, 1 and example scores 4, 4.
    first = losses.kl(scores[:1], torch.tensor([[1 + 0, 0 + 1, 0.5 + 0]]))
    second = losses.kl(scores[1:, [2, 1]], torch.tensor([[1 + 0.5, 0 + 0.5]]))
    assert raw["kl"].item() == pytest.approx((first + second).item() / 2)
    with pytest.raises(TrainingError, match="examples that all have scores"):
        ranking_loss(scores, replace(batch, scores=None), LossSettings(kl=1), [Lengths()], examples=True)
    with pytest.raises(ValueError, match="name one of encoder, dense, cross_encoder and examples"):
        TeacherSettings(encoder="bm25", examples=True)


def test_raw_scores_and_all_pairs_give_the_losses_of_splade_v3():
    """SPLADE-v3 uses KL against raw teacher scores, and MarginMSE over all pairs."""
    own, brought = torch.tensor([[0, 1, 2]]), torch.tensor([[[9.0, 2.5, -3]]])
    batch = Batch(["cat"], ["x", "y", "z"], own, torch.eye(1, 3).bool(), brought)
    scores = torch.tensor([[3.0, 2, 1]])
    how = LossSettings(kl=1, margin_mse=0.05, teacher_scores="raw", margin_pairs="all")
    assert (how.scale, LossSettings(kl=1).scale) == (1, 30)
    raw, total = ranking_loss(scores, batch, how, [])
    assert raw["kl"].item() == pytest.approx(losses.kl(scores, brought[0]).item())
    # The mean over nine pairs: (1 - 6.5)^2, (2 - 12)^2 and (1 - 5.5)^2 twice each, and three zeros.
    assert raw["margin_mse"].item() == pytest.approx(2 * (5.5**2 + 10**2 + 4.5**2) / 9)
    assert total.item() == pytest.approx(raw["kl"].item() + 0.05 * raw["margin_mse"].item())


def test_learning_rates_equal_those_of_transformers(settings, tmp_path):
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for decay, schedule in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        settings = replace(settings, optimizer=replace(settings.optimizer, steps=9, warmup=3, decay=decay))
        run = trainer(settings, tmp_path / decay)
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        expected = schedule(theirs, 3, 9)
        for run.step in range(9):
            assert run._rate() == pytest.approx(expected.get_last_lr()[0])
            theirs.step()
            expected.step()


@pytest.mark.parametrize("teachers", [(), (TeacherSettings(examples=True), TeacherSettings(encoder="bm25"))])
def test_distillation_needs_teachers(settings, triples, tmp_path, teachers):
    """Sources with different numbers of scores are refused before the first step, in any order."""
    line = {"query": "cat", "positive": "the cat", "negative": "dog"}
    sources = [TrainingSource(str(triples))]
    for name, scores in (("none", None), ("two", [[1, 2], [3, 4]])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(line | {"scores": scores}) + "\n")
        sources.append(TrainingSource(str(path), weight=1e-9))
    models = [Lengths() for teacher in teachers if not teacher.examples]
    settings = replace(settings, losses=LossSettings(kl=1.0), teachers=teachers)
    for some, told in (
        (sources[:2], r"triples.jsonl has 1, .*none.jsonl has none\. Name models"),
        (sources[1:2], "none.jsonl has none"),
        (sources[::2], r"triples.jsonl has 1, .*two.jsonl has 2\."),
    ):
        data = replace(settings.data, sources=tuple(some))
        with pytest.raises(TrainingError, match=told):
            trainer(replace(settings, data=data), tmp_path / "run", teachers=models)
        assert not (tmp_path / "run").exists()
    data = replace(settings.data, sources=tuple(sources))
    for other in (
        replace(settings, data=data, losses=LossSettings(info_nce=1)),
        replace(settings, data=data, teachers=()),
    ):
        trainer(other, tmp_path / "good", teachers=() if other.losses.info_nce else [Lengths()])


def test_pretraining_comes_first_and_lowers_the_masked_lm_loss(settings, tmp_path):
    settings = replace(
        settings,
        pretrain=PretrainSettings(60, mask_share=0.3, flops=1e-3),
        optimizer=replace(settings.optimizer, steps=2, lr=1e-2),
        checkpoint_every=30,
    )
    run = trainer(settings, tmp_path)
    run.run()
    guesses = log(tmp_path, "masked_lm")
    assert (len(guesses), len(log(tmp_path, "info_nce"))) == (60, 2)
    assert np.mean(guesses[-10:]) < 0.8 * np.mean(guesses[:10])
    assert np.abs(load_encoder(tmp_path / "last").encode_document(SOME).to_dense() - live(run, SOME)).max() < 1e-4


# --- resuming ---------------------------------------------------------------------------------------------------------

CHILD = """
import json, os, signal, sys
import numpy as np
import torch
from lsr.config import read_config
from lsr.train.data import open_training
from lsr.train.settings import TrainSettings
from lsr.train.teachers import Teacher
from lsr.train.trainer import Helpers, Trainer


class Lengths(Teacher):
    def scores(self, queries, documents):
        return np.tile(np.array([len(text) for text in documents], np.float32), (len(queries), 1))


config, out, until = sys.argv[1:]
if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
settings = read_config(config, TrainSettings)
models = [Lengths()] if settings.teachers else []
helpers = Helpers(models, Lengths() if settings.lexical else None)
run = Trainer(settings, __import__("pathlib").Path(out), open_training(settings.data.sources), helpers)
update = run.optimizer.step

def step():
    if run.step == int(until):
        os.kill(os.getpid(), signal.SIGKILL)
    update()

run.optimizer.step = step
run.run()
print(json.dumps({name: float(p.double().sum()) for p, name in run.student.names.items()}))
if "RANK" in os.environ:
    print(float(run.losses.penalties["documents"].df.fractions().sum()))
    torch.distributed.destroy_process_group()
"""


def child(settings, folder, until=-1, **environment):
    """Start a process that trains and, if `until` is given, kills itself during step `until`."""
    config = folder.parent / f"{folder.name}.yaml"
    config.write_text(json.dumps(asdict(settings)))
    command = [sys.executable, "-c", CHILD, str(config), str(folder), str(until)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole_run(settings, folder):
    trainer(settings, folder).run()
    return log(folder), weights_of(folder / "last")


def test_a_killed_run_resumes_exactly(settings, tmp_path):
    killed = child(settings, tmp_path / "killed", until=4)
    expected = whole_run(settings, tmp_path / "whole")
    _, said = killed.communicate(timeout=100)
    assert killed.returncode == -signal.SIGKILL, said
    assert len(log(tmp_path / "killed")) == 4
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # as if the run was killed while it wrote a line
    run = trainer(settings, tmp_path / "killed")
    assert run.step == 3
    run.run()
    assert (log(tmp_path / "killed"), weights_of(tmp_path / "killed" / "last")) == expected
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in line] == list(range(1, 9))


def test_a_run_resumes_after_a_failure_in_a_step(settings, tmp_path, monkeypatch):
    settings = replace(settings, gradient_cache=True, optimizer=replace(settings.optimizer, accumulate=2))
    expected = whole_run(settings, tmp_path / "whole")
    run = trainer(settings, tmp_path / "failed")

    def fail(*_):
        if run.step == 5:
            raise KeyboardInterrupt
        step()

    step = run.optimizer.step
    monkeypatch.setattr(run.optimizer, "step", fail)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    trainer(settings, tmp_path / "failed").run()
    assert (log(tmp_path / "failed"), weights_of(tmp_path / "failed" / "last")) == expected


def two_processes(settings, folder):
    """Train with this process and a child process. Returns the run and the child's output."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    other = child(settings, folder, **where)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=0, world_size=2)
    try:
        run = taught(settings, folder)
        run.run()
    finally:
        torch.distributed.destroy_process_group()
    said, complaint = other.communicate(timeout=200)
    assert other.returncode == 0, complaint
    return run, [json.loads(line) for line in said.splitlines()]


def taught(settings, folder):
    """A trainer with the same helpers as in the child process."""
    models = [Lengths()] if settings.teachers else []
    return trainer(settings, folder, teachers=models, lexical=Lengths() if settings.lexical else None)


def sums(run):
    return {name: float(p.detach().double().sum()) for p, name in run.student.names.items()}


@pytest.mark.parametrize("way", ["encoded", "cached table"])
def test_two_processes_equal_one_process_with_doubled_batches(settings, steady, tmp_path, capsys, way):
    """In-batch negatives, teachers' scores, FLOPS and the log cover the texts of both processes."""
    cached = way == "cached table"
    settings = replace(
        settings,
        model=replace(settings.model, checkpoint=str(steady)),
        queries=QuerySettings("table" if cached else "encoded", max_length=16),
        losses=LossSettings(info_nce=1.0, kl=0.3, margin_mse=0.1, term_recall=0.1, bank=0.1 if cached else 0.0),
        documents_regularizer=RegularizerSettings("df_flops" if cached else "flops", weight=0.1),
        queries_regularizer=RegularizerSettings()
        if cached
        else RegularizerSettings("l0_flops", weight=0.1, threshold=1),
        pretrain=None if cached else PretrainSettings(2, flops=1e-2),
        gradient_cache=cached,
        teachers=(TeacherSettings(encoder="bm25"),) if cached else (),
        lexical=0.1 if cached else 0.0,
        optimizer=replace(settings.optimizer, steps=5, accumulate=2 if cached else 1, warmup=0),
        data=replace(settings.data, queries=3),
    )
    run, (theirs, counted) = two_processes(settings, tmp_path / "two")
    assert np.isfinite(list(sums(run).values())).all()
    assert theirs == pytest.approx(sums(run), rel=1e-6, abs=1e-6)
    assert counted == float(run.losses.penalties["documents"].df.fractions().sum())
    alone = taught(replace(settings, data=replace(settings.data, queries=6)), tmp_path / "alone")
    alone.run()
    for name in ("loss", "norm", "documents_terms"):
        assert log(tmp_path / "two", name) == pytest.approx(log(tmp_path / "alone", name), rel=1e-3)
    found, expected = sums(run), sums(alone)
    for name in expected:
        if not name.endswith("key.bias"):  # its gradient is only rounding errors, which Adam amplifies
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3), name
    # With another number of processes, a run continues after the same examples and reports the new batch size.
    shutil.rmtree(tmp_path / "two" / f"checkpoint-{run.step:08d}")
    capsys.readouterr()
    one = taught(settings, tmp_path / "two")
    size, at = (6, 3) if cached else (3, 6)
    said = f"had 2 processes until step {at} and now has 1: an update has {size} queries instead of {2 * size}"
    assert said in capsys.readouterr().err
    assert one._drawn() == at * 2 * size
    one.run()
    assert taught(settings, tmp_path / "two")._drawn() == at * 2 * size + (one.steps - at) * size


def test_a_nan_stops_the_run_and_the_last_checkpoint_is_kept(settings, tmp_path, monkeypatch):
    expected = whole_run(settings, tmp_path / "whole")
    run = trainer(settings, tmp_path / "run")
    sound = losses.info_nce
    with monkeypatch.context() as patch:
        patch.setattr(losses, "info_nce", lambda *args: sound(*args) * (torch.nan if run.step == 4 else 1))
        with pytest.raises(TrainingError, match=r"step 5: info_nce, loss is not finite; .*checkpoint-00000003"):
            run.run()
    trainer(settings, tmp_path / "run").run()
    assert (log(tmp_path / "run"), weights_of(tmp_path / "run" / "last")) == expected


def test_weights_that_are_not_finite_are_not_saved(settings, tmp_path, monkeypatch):
    expected = whole_run(settings, tmp_path / "whole")
    run = trainer(settings, tmp_path / "run")
    update = run.optimizer.step

    def spoil():
        update()
        if run.step == 5:  # the sixth update, after which a checkpoint is due; the loss is still finite
            with torch.no_grad():
                next(iter(run.student.names)).view(-1)[0] = torch.inf

    monkeypatch.setattr(run.optimizer, "step", spoil)
    with pytest.raises(TrainingError, match=r"step 6: the weight .* is not finite; .*checkpoint-00000003"):
        run.run()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == ["checkpoint-00000003"]
    trainer(settings, tmp_path / "run").run()
    assert (log(tmp_path / "run"), weights_of(tmp_path / "run" / "last")) == expected


def test_a_full_disk_leaves_the_older_checkpoint(settings, tmp_path, monkeypatch):
    expected = whole_run(settings, tmp_path / "whole")
    run = trainer(settings, tmp_path / "run")
    save = checkpoints_module.save_file

    def fill(tensors, path):
        if run.step == 6 and path.stem == "optimizer":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "save_file", fill)
        with pytest.raises(OutputError, match=r"00000006: .*No space left.*checkpoint-00000003 is complete"):
            run.run()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint*")] == ["checkpoint-00000003"]
    (tmp_path / "run" / "checkpoint.partial").mkdir()  # a kill would leave this folder
    (tmp_path / "run" / "checkpoint.partial" / "state.json").write_text("{}")
    again = trainer(settings, tmp_path / "run")
    assert again.step == 3
    again.run()
    assert (log(tmp_path / "run"), weights_of(tmp_path / "run" / "last")) == expected


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 20, None])
def test_the_error_names_a_damaged_checkpoint(settings, tmp_path, file, keep):
    settings = replace(settings, optimizer=replace(settings.optimizer, steps=4), checkpoint_every=2)
    trainer(settings, tmp_path).run()
    path = tmp_path / "checkpoint-00000004" / file
    if keep is None:
        path.write_bytes((tmp_path / "checkpoint-00000004" / "counts.safetensors").read_bytes())
    else:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"checkpoint-00000004: this checkpoint can't be read"):
        trainer(settings, tmp_path)
    shutil.rmtree(path.parent)
    assert trainer(settings, tmp_path).step == 2


def test_a_folder_of_another_run_is_refused(settings, tmp_path):
    settings = replace(settings, optimizer=replace(settings.optimizer, steps=2))
    trainer(settings, tmp_path).run()
    with pytest.raises(TrainingError, match=r"other settings \(losses.info_nce, seed\)"):
        trainer(replace(settings, seed=1, losses=LossSettings(info_nce=2.0)), tmp_path)
    path = tmp_path / "settings.json"
    then = json.loads(path.read_text())
    del then["device"], then["model"]["lora"]  # earlier versions had no such keys
    path.write_text(json.dumps(then))
    assert trainer(settings, tmp_path).step == 2
    path.write_text(json.dumps(then)[:40])
    with pytest.raises(TrainingError, match=r"settings.json: the settings of the run in this folder can't be read"):
        trainer(settings, tmp_path)


def test_a_finished_run_can_be_extended(settings, tmp_path, capsys):
    short = replace(settings, optimizer=replace(settings.optimizer, steps=4, decay="constant"))
    longer = replace(short, optimizer=replace(short.optimizer, steps=8), checkpoint_every=2, batch_tokens=8000)
    expected = whole_run(longer, tmp_path / "whole")
    trainer(short, tmp_path / "run").run()
    capsys.readouterr()
    run = trainer(longer, tmp_path / "run")
    assert "this run now has 8 steps instead of 4\n" in capsys.readouterr().err
    run.run()
    assert (log(tmp_path / "run"), weights_of(tmp_path / "run" / "last")) == expected
    assert trainer(longer, tmp_path / "run").step == 8
    falling = replace(settings, optimizer=replace(settings.optimizer, steps=2))
    trainer(falling, tmp_path / "falling").run()
    trainer(settings, tmp_path / "falling")
    assert "has 8 steps instead of 2, and learning rates now fall towards the new end" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(settings, steady, tmp_path):
    folder = shutil.copytree(steady, tmp_path / "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["more"] = 36
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError, match="the tokenizer has 37 tokens, the model knows 36; they don't belong"):
        trainer(replace(settings, model=replace(settings.model, checkpoint=str(folder))), tmp_path / "run")


# --- validation -------------------------------------------------------------------------------------------------------


def test_the_best_encoder_is_kept_and_patience_stops_the_run(settings, tmp_path):
    settings = replace(
        settings,
        validation=ValidationSettings(("x",), every=2, measure="m", patience=2),
        documents_regularizer=RegularizerSettings("flops", weight=0.01),
    )
    values = iter([1.0, 3.0, 2.0, 2.5])
    seen = []

    def validate(folder):
        seen.append(weights_of(folder))
        return {"m": next(values), "terms": 1.0}

    assert trainer(settings, tmp_path, validate=validate).run() == tmp_path / "best"
    assert len(log(tmp_path)) == 8
    assert [line["m"] for line in log(tmp_path, "validation")] == [1, 3, 2, 2.5]
    assert weights_of(tmp_path / "best") == seen[1]
    settings = replace(settings, validation=replace(settings.validation, patience=1))
    values = iter([3.0, 2.0])
    for _ in range(2):  # repeating the command doesn't continue the run either
        assert trainer(settings, tmp_path / "short", validate=validate).run() == tmp_path / "short" / "best"
        assert len(log(tmp_path / "short")) == 4


def test_the_soup_is_the_mean_of_the_last_checkpoints(settings, tmp_path, capsys):
    plain = trainer(settings, tmp_path / "plain").run()
    settings = replace(settings, checkpoint_every=2, soup=3)
    assert trainer(settings, tmp_path / "run").run() == tmp_path / "run" / "last"
    assert "the mean of 3 checkpoints" in capsys.readouterr().err
    assert weights_of(tmp_path / "run" / "last") == weights_of(plain)
    steps = [tmp_path / "run" / f"checkpoint-{step:08d}" / "weights.safetensors" for step in (4, 6, 8)]
    assert [path.is_file() for path in steps] == [True] * 3
    parts, compared = [load_file(path) for path in steps], 0
    last, soup = (load_file(next((tmp_path / "run" / name).rglob("*.safetensors"))) for name in ("last", "soup"))
    # A checkpoint has other names for the weights, so weights are matched by value.
    for name, tensor in last.items():
        for key, value in parts[-1].items():
            if value.shape == tensor.shape and value.unique().numel() > 1 and torch.equal(value, tensor):
                mean = sum(part[key].double() for part in parts) / 3
                torch.testing.assert_close(soup[name], mean.float(), rtol=1e-6, atol=0)
                compared += 1
    assert compared > 10
    before = weights_of(tmp_path / "run" / "soup")
    assert trainer(settings, tmp_path / "run").run() == tmp_path / "run" / "last"  # repeats the command
    assert weights_of(tmp_path / "run" / "soup") == before
    (steps[0]).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="00000004: this checkpoint can't be averaged"):
        trainer(settings, tmp_path / "run").run()


@pytest.mark.parametrize("better", [True, False])
def test_a_soup_that_is_better_is_the_best_encoder(settings, tmp_path, better):
    validation = ValidationSettings(("x",), every=4, measure="m")
    settings = replace(settings, checkpoint_every=2, soup=2, validation=validation)
    values = iter([1.0, 2.0, 3.0 if better else 1.5])
    best = trainer(settings, tmp_path, validate=lambda _: {"m": next(values), "terms": 1.0}).run()
    assert best == tmp_path / "best"
    assert weights_of(best) == weights_of(tmp_path / ("soup" if better else "last"))
    assert "| m | " in (tmp_path / "soup" / "README.md").read_text()


def test_encoders_before_the_end_of_the_ramp_are_not_the_best_encoder(settings, tmp_path, capsys):
    """Vectors are long during the regularizer's ramp. Until it ends, validation selects no encoder."""
    settings = replace(
        settings,
        documents_regularizer=RegularizerSettings("flops", weight=0.01, ramp=5),
        validation=ValidationSettings(("x",), every=2, measure="m", patience=2),
    )
    seen, values = [], iter([9.0, 8.0, 2.0, 1.0])

    def validate(folder):
        seen.append(weights_of(folder))
        return {"m": next(values), "terms": 1.0}

    assert trainer(settings, tmp_path / "ramp", validate=validate).run() == tmp_path / "ramp" / "best"
    assert weights_of(tmp_path / "ramp" / "best") == seen[2]
    said = capsys.readouterr().err
    assert said.count("not eligible as the best encoder: the regularizers grow until step 5") == 2


def test_the_best_encoder_respects_the_limit_of_terms(settings, tmp_path, capsys):
    settings = replace(settings, validation=ValidationSettings(("x",), every=2, measure="m", max_terms=50))
    found = iter([(9.0, 99.0), (8.0, 51.0), (2.0, 50.0), (1.0, 3.0)])
    seen = []

    def validate(folder):
        seen.append(weights_of(folder))
        return dict(zip(("m", "terms"), next(found), strict=True))

    trainer(settings, tmp_path / "some", validate=validate).run()
    assert weights_of(tmp_path / "some" / "best") == seen[2]
    assert "its documents have 51.0 terms, and max_terms is 50" in capsys.readouterr().err
    run = trainer(settings, tmp_path / "none", validate=lambda folder: {"m": 1.0, "terms": 99.0})
    assert run.run() == tmp_path / "none" / "last"
    assert "no encoder had at most 50 terms a document, so there is only the last one" in capsys.readouterr().err


def test_a_run_completes_after_a_kill_while_the_best_encoder_is_replaced(settings, tmp_path):
    settings = replace(settings, optimizer=replace(settings.optimizer, steps=2))
    (tmp_path / "best.old").mkdir()
    assert trainer(settings, tmp_path).run() == tmp_path / "best"


def test_a_full_disk_leaves_the_previous_encoder(settings, tmp_path, monkeypatch):
    settings = replace(settings, optimizer=replace(settings.optimizer, steps=2))
    run = trainer(settings, tmp_path)
    run.run()
    kept = weights_of(tmp_path / "last")

    def fail(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(run.student.model, "save", fail)
    with pytest.raises(OutputError, match="last: the encoder can't be written"):
        run._save_encoder(tmp_path / "last")
    assert weights_of(tmp_path / "last") == kept
    assert not list(tmp_path.glob("*.partial"))


def test_validation_without_the_measure_is_refused(settings, tmp_path):
    settings = replace(settings, validation=ValidationSettings(("x",), every=2, measure="m"))
    with pytest.raises(TrainingError, match="validation gave n, not m"):
        trainer(settings, tmp_path, validate=lambda folder: {"n": 1.0}).run()


def test_a_collapse_is_found_without_validation(settings, tmp_path, capsys):
    settings = replace(
        settings,
        documents_regularizer=RegularizerSettings("l1", weight=1e4),
        optimizer=replace(settings.optimizer, steps=60, lr=1e-2),
        checkpoint_every=20,
    )
    trainer(settings, tmp_path).run()
    assert "dead rows" in log(tmp_path, "collapse")[-1]
    ranks = log(tmp_path, "rank")
    assert len(ranks) == 3
    assert ranks[0] >= 1 > ranks[-1] == 0
    assert "dead rows: 100% of the documents" in capsys.readouterr().err


# --- new negatives ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mined(settings, tmp_path):
    """Settings of a run, a function that mines a new negative for every query, and a log of the function's calls."""
    documents = tmp_path / "documents.jsonl"
    words = [*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS)]
    documents.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(words)))
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query_id": f"q{i}", "query": WORDS[i], "positive": f"d{i}"} for i in range(len(WORDS))]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = TrainingSource(str(pairs), documents=str(documents))
    settings = replace(settings, data=replace(settings.data, sources=(source,), refresh_every=2))
    asked = []

    def mine(encoder, data, out):
        asked.append(weights_of(encoder))
        with (out / "0.jsonl").open("w") as file:
            for row in rows:
                file.write(json.dumps(row | {"negatives": [f"d{20 + len(asked)}"]}) + "\n")

    return settings, mine, asked


def test_negatives_are_refreshed(mined, tmp_path):
    settings, mine, asked = mined
    run = trainer(settings, tmp_path / "run", mine=mine)
    run.run()
    assert len(asked) == 3  # after 2, 4 and 6 steps, but not after the last step
    assert asked[0] != asked[1]
    assert {example.doc_ids[1] for example in islice(run.data.stream(0), 16)} == {"d23"}
    assert sorted(path.name for path in (tmp_path / "run").glob("negatives-*")) == ["negatives-00000006"]


def test_a_killed_run_keeps_its_negatives(mined, tmp_path):
    settings, mine, asked = mined
    settings = replace(settings, checkpoint_every=5)
    trainer(settings, tmp_path / "whole", mine=mine).run()
    expected = log(tmp_path / "whole"), weights_of(tmp_path / "whole" / "last")
    asked.clear()
    run = trainer(settings, tmp_path / "killed", mine=mine)
    step = run.optimizer.step

    def fail():
        if run.step == 7:
            raise KeyboardInterrupt
        step()

    run.optimizer.step = fail
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert len(asked) == 3
    again = trainer(settings, tmp_path / "killed", mine=mine)
    assert again.step == 5
    assert again.data.stream(0).__next__().doc_ids[1] == "d22"
    again.run()
    assert len(asked) == 3  # the negatives of step 6 are reused
    assert (log(tmp_path / "killed"), weights_of(tmp_path / "killed" / "last")) == expected


def test_negatives_and_best_encoders_of_other_settings_are_not_reused(mined, tmp_path):
    settings, mine, asked = mined
    regularizer = RegularizerSettings("flops", weight=0.01)
    validation = ValidationSettings(("x",), every=2, measure="m")
    settings = replace(settings, checkpoint_every=50, validation=validation, documents_regularizer=regularizer)

    def stopped(settings, at):
        run = trainer(settings, tmp_path / "run", mine=mine, validate=lambda folder: {"m": 1.0})
        step = run.optimizer.step

        def fail():
            if run.step == at:
                raise KeyboardInterrupt
            step()

        run.optimizer.step = fail
        with pytest.raises(KeyboardInterrupt):
            run.run()

    stopped(settings, 3)
    assert (len(asked), (tmp_path / "run" / "best").is_dir()) == (1, True)
    stopped(settings, 3)
    assert len(asked) == 1  # the encoder is the same, so its negatives are reused
    changed = replace(settings, seed=9, validation=None)
    run = trainer(changed, tmp_path / "run", mine=mine)
    assert run.run() == tmp_path / "run" / "last"  # the best encoder of the other settings isn't used
    assert len(asked) == 4


def test_states_are_cached_separately_for_each_precision(settings, steady, tmp_path):
    folders = set()
    for precision in ("float32", "bfloat16"):
        model = replace(settings.model, checkpoint=str(steady), head="lexical", freeze=1)
        run = trainer(replace(settings, model=model, precision=precision), tmp_path)
        folders.add(run.student.network.states.folder)
    assert len(folders) == 2


def test_queries_without_ids_are_refused_before_the_first_step(mined, tmp_path):
    settings, mine, _ = mined
    (source,) = settings.data.sources
    rows = [json.loads(line) for line in Path(source.path).read_text().splitlines()]
    for row in rows[:3]:
        del row["query_id"]
    path = tmp_path / "unnamed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(settings, data=replace(settings.data, sources=(replace(source, path=str(path)),)))
    with pytest.raises(TrainingError, match=r"data.refresh_every: 3 queries of .*unnamed.jsonl have no query_id"):
        trainer(settings, tmp_path / "run", mine=mine)


def test_missing_negatives_are_reported(mined, tmp_path):
    settings, mine, _ = mined
    trainer(settings, tmp_path / "run", mine=mine).run()
    for path in (tmp_path / "run").glob("negatives-*"):
        shutil.rmtree(path)
    shutil.rmtree(tmp_path / "run" / "checkpoint-00000008")
    with pytest.raises(TrainingError, match="negatives-00000006, the negatives of this run, is missing"):
        trainer(settings, tmp_path / "run", mine=mine)
