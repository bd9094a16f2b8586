"""lsr train: a small model learns from a real collection, problems are reported, and all presets are valid."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from lsr.config import read_config
from lsr.encode.load import load_encoder
from lsr.encode.model_files import is_hub_name
from lsr.train.data import open_training
from lsr.train.idle import idle_settings
from lsr.train.settings import DataSettings, TrainSettings, ValidationSettings
from lsr.train.sources import TrainingSource

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("yaml")
pytest.importorskip("ir_measures")

pytestmark = pytest.mark.usefixtures("training_environment")

from lsr.eval.training.cli import miner, plot_run, validator  # noqa: E402
from lsr.eval.training.from_folder import as_overrides  # noqa: E402

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "train"


@pytest.fixture(scope="module")
def cranfield(tmp_path_factory):
    """A third of the judged documents of the packaged collection, with the queries split into train and dev."""
    source, folder = files("lsr.data") / "cranfield", tmp_path_factory.mktemp("data") / "cranfield"
    (folder / "qrels").mkdir(parents=True)
    lines = (source / "qrels" / "test.tsv").read_text().splitlines()
    judged = [line.split("\t") for line in lines[1:]]
    documents = sorted({doc for _, doc, _ in judged}, key=int)
    kept = {*documents[::3]}
    judged = [row for row in judged if row[1] in kept]
    queries = sorted({query for query, _, _ in judged}, key=int)
    for name, some in (("train", set(queries) - set(queries[::3])), ("dev", set(queries[::3]))):
        rows = ["\t".join(row) for row in judged if row[0] in some]
        (folder / "qrels" / f"{name}.tsv").write_text("\n".join([lines[0], *rows]) + "\n")
    (folder / "queries.jsonl").write_text(gzip.decompress((source / "queries.jsonl.gz").read_bytes()).decode())
    corpus = gzip.decompress((source / "corpus.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_text("".join(line for line in corpus if json.loads(line)["_id"] in kept))
    return folder


@pytest.fixture(scope="module")
def random_bert(cranfield, tmp_path_factory):
    """A random masked language model over the words of the collection. It predicts each token from the token itself."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForMaskedLM

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, splitter = BertNormalizer(), BertPreTokenizer()
    texts = [json.loads(line)["text"] for line in (cranfield / "corpus.jsonl").read_text().splitlines()]
    # The vocabulary is made of characters and frequent words, because training a WordPiece model isn't deterministic.
    words = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)) if len(word) > 1
    )
    characters = sorted(set("".join(words)))
    frequent = sorted(words, key=lambda word: (-words[word], word))[:1400]
    pieces = [*special, *characters, *(f"##{character}" for character in characters), *frequent]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    folder = tmp_path_factory.mktemp("model") / "random-bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    n_terms = tokenizer.get_vocab_size()
    config = BertConfig(vocab_size=n_terms, max_position_embeddings=64, initializer_range=0.15, **sizes)
    model = BertForMaskedLM(config)
    with torch.no_grad():  # keep each hidden state near its token's embedding, as in a trained model
        model.bert.embeddings.position_embeddings.weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.mul_(0.1)
            layer.attention.output.dense.weight.mul_(0.1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def config(cranfield, random_bert, tmp_path):
    """A settings file."""
    path = tmp_path / "run.yaml"
    path.write_text(f"""\
model: {{checkpoint: {random_bert}, head: expansion, max_length: 48}}
queries: {{kind: table, max_length: 32}}
data:
  sources: [path: {cranfield}]
  queries: 16
  negatives: 0
losses: {{info_nce: 1}}
documents_regularizer: {{kind: flops, weight: 0.05, ramp: 30}}
optimizer: {{steps: 40, lr: 3.0e-4, head_lr: 1.0e-3, term_lr: 1.0e-2, warmup: 5}}
validation: {{sets: ["{cranfield}:dev"], every: 20}}
checkpoint_every: 1000
device: cpu
""")
    return path


def lines(out, key):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in found if key in line]


@pytest.mark.filterwarnings("ignore::lsr.errors.CutTexts")  # queries are truncated to 32 tokens
def test_training_raises_quality_and_shortens_documents(config, tmp_path, lsr_command):
    begun = lsr_command(
        "train", config, "--out", tmp_path / "begun", "--set", "optimizer.steps=1", "--set", "validation.every=1"
    )
    ran = lsr_command("train", config, "--out", tmp_path / "run", "--watch", "--log-to", "builtins:print")
    assert (begun.code, ran.code) == (0, 0), ran.err
    assert f"the run's curves: {tmp_path / 'run' / 'watch.html'}" in ran.err
    assert "Step 40 of 40, finished." in (tmp_path / "run" / "watch.html").read_text()
    assert ran.out.count("'loss': ") == 40
    assert not (tmp_path / "begun" / "watch.html").exists()
    (first,), (_, last) = lines(tmp_path / "begun", "validation"), lines(tmp_path / "run", "validation")
    assert last["nDCG@10"] > first["nDCG@10"] + 0.02
    assert last["terms"] < 0.9 * first["terms"]
    assert f"step 40: nDCG@10 {last['nDCG@10']:.4f}" in ran.err
    assert lines(tmp_path / "run", "collapse") == [[], []]
    picture = (tmp_path / "run" / "training.svg").read_text()
    assert "terms of a document" in picture
    best = tmp_path / "run" / "best"
    found = validator(ValidationSettings((str(read(config).validation.sets[0]),)))(best)
    assert found["nDCG@10"] == last["nDCG@10"]  # step 20 can't be the best: the regularizer's ramp ends at step 30
    again = lsr_command("train", config, "--out", tmp_path / "run")
    assert (again.code, len(lines(tmp_path / "run", "loss"))) == (0, 40)


def read(config):
    return read_config(config, TrainSettings)


def test_a_collapse_due_to_strong_regularization_is_found(config, tmp_path, lsr_command):
    changes = ["documents_regularizer.weight=1e4", "documents_regularizer.ramp=0", "optimizer.term_lr=1"]
    changes += ["optimizer.steps=12", "validation.every=12"]
    ran = lsr_command("train", config, "--out", tmp_path / "run", *(x for each in changes for x in ("--set", each)))
    assert ran.code == 0
    assert lines(tmp_path / "run", "collapse") == [["dead rows"]]
    assert "step 12: dead rows: 100% of the documents have no term. The regularizer is too strong" in ran.err


def test_all_problems_of_the_settings_file_are_reported(config, tmp_path, lsr_command):
    config.write_text(config.read_text().replace("steps: 40", "stepz: 40").replace("kind: table", "kind: tabel"))
    ran = lsr_command("train", config, "--out", tmp_path / "run", "--set", "seed=x")
    assert ran.code == 1
    assert f"{config}:2: queries.kind must be one of encoded, table, projected, idf, tokens, got 'tabel'" in ran.err
    assert f"{config}:9: unknown key optimizer.stepz; did you mean steps?" in ran.err
    assert "--set seed=x: seed must be a whole number, got 'x'" in ran.err
    assert not (tmp_path / "run").exists()
    assert lsr_command("train", tmp_path / "none.yaml", "--out", tmp_path / "run").code == 2


def test_the_error_names_an_unknown_logger(config, tmp_path, lsr_command):
    ran = lsr_command("train", config, "--out", tmp_path / "run", "--log-to", "nothing")
    assert ran.code == 1
    assert "'nothing' is no logger; there are tensorboard, wandb, mlflow, and module:function of your own" in ran.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("validation.sets=[nowhere]", "nowhere"),
        ("validation.measure=nDGC@10", "nDGC@10"),
        ("model.checkpoint=nowhere", 'no encoder "nowhere"'),
        ("data.sources=[path: nowhere.jsonl]", "nowhere.jsonl"),
        ("model.max_length=65", "model.max_length 65: the model in"),
    ],
)
def test_problems_of_the_data_the_model_and_the_measures_are_reported(config, tmp_path, lsr_command, change, message):
    ran = lsr_command("train", config, "--out", tmp_path / "run", "--set", change)
    assert ran.code == 1
    assert message in ran.err


def test_negatives_are_mined_from_the_collection(config, tmp_path, lsr_command, cranfield):
    changes = ["data.refresh_every=2", "data.refresh_count=5", "data.negatives=2", "optimizer.steps=3"]
    ran = lsr_command("train", config, "--out", tmp_path / "run", *(x for each in changes for x in ("--set", each)))
    assert ran.code == 0, ran.err
    assert "mined " in ran.err
    (path,) = (tmp_path / "run").glob("negatives-00000002/*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    judged = [line.split("\t") for line in (cranfield / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    relevant = {(query, doc) for query, doc, grade in judged if int(grade) > 0}
    assert {row["query_id"] for row in rows} == {query for query, _ in relevant}
    assert all(len(row["negative_ids"]) == 5 for row in rows)
    assert not relevant & {(row["query_id"], doc) for row in rows for doc in row["negative_ids"]}


def test_texts_without_ids_are_not_mined(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"query": "q", "positive": "p", "negative": "n"}\n')
    data = open_training(str(source))
    miner(DataSettings((TrainingSource(str(source)),)))(bm25(tmp_path), data, tmp_path)
    assert not list(tmp_path.glob("[0-9]*.jsonl"))


def bm25(folder, texts=("one two",)):
    encoder = load_encoder("bm25")
    encoder.fit(texts)
    encoder.save(folder / "bm25")
    return folder / "bm25"


def test_filtered_candidates_are_not_negatives(tmp_path):
    documents = tmp_path / "documents.jsonl"
    texts = ["wing wing wing", "wing flow", "wing flow heat", "heat"]
    documents.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query_id": "q", "query": "wing", "positive": "d1"}\n')
    source = TrainingSource(str(pairs), documents=str(documents))
    for share, expected in ((None, ["d0", "d2"]), (0.995, ["d2"])):
        (out := tmp_path / str(share)).mkdir()
        miner(DataSettings((source,), refresh_share=share))(bm25(tmp_path / "b", texts), open_training(source), out)
        (row,) = [json.loads(line) for line in (out / "0.jsonl").read_text().splitlines()]
        assert row["negative_ids"] == expected


def test_validation_takes_judged_documents_first(cranfield, tmp_path):
    name = f"{cranfield}:dev"
    encoder = bm25(
        tmp_path, [json.loads(line)["text"] for line in (cranfield / "corpus.jsonl").read_text().splitlines()]
    )
    few = validator(ValidationSettings((name, f"{cranfield}:train"), documents=10))(encoder)
    every = validator(ValidationSettings((name,)))(encoder)
    # Two splits of one folder have separate values, each under its name in the settings.
    each = few[f"nDCG@10 {name}"], few[f"nDCG@10 {cranfield}:train"]
    assert each[0] != each[1]
    assert few["nDCG@10"] == sum(each) / 2
    assert each[0] > every["nDCG@10"]


def test_a_run_without_validation_is_plotted(tmp_path):
    assert plot_run(write_log(tmp_path, [])) is None
    steps = [{"step": i, "loss": 1.0, "info_nce": 1.0, "documents_terms": 9.0} for i in range(1, 250)]
    assert plot_run(write_log(tmp_path, [steps[0] | {"masked_lm": 1.0}, *steps])).is_file()
    assert "bank" in plot_run(write_log(tmp_path, [{**step, "bank": 2.0} for step in steps])).read_text()


def test_training_works_without_matplotlib(config, tmp_path, lsr_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = lsr_command(
        "train", config, "--out", tmp_path / "run", "--set", "optimizer.steps=1", "--set", "validation=null"
    )
    assert ran.code == 0
    assert 'a picture of the run needs the package matplotlib, which is not installed: pip install "lsr' in ran.err
    assert load_encoder(tmp_path / "run" / "last").n_terms


def write_log(folder, rows):
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


@pytest.mark.skipif(not PRESETS.is_dir(), reason="needs the source checkout")
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_valid(name):
    assert len(NAMES) >= 10
    path = PRESETS / f"{name}.yaml"
    settings = read_config(path, TrainSettings)
    assert idle_settings(settings) == []
    assert path.read_text().startswith("# ")
    if name not in ("lsr-mini", "lsr-tiny"):
        assert "arXiv" in path.read_text().partition("\nmodel:")[0]
        assert "Published" in path.read_text()
    # A preset names only public models and data; it needs no file from an earlier step.
    assert is_hub_name(settings.model.checkpoint)
    assert all(source.path.startswith("irds:") for source in settings.data.sources)
    assert all(is_hub_name(t.dense or t.encoder) or t.encoder == "bm25" for t in settings.teachers)
    assert settings.teachers or not (settings.losses.kl or settings.losses.margin_mse)


@pytest.fixture(scope="module")
def negatives(cranfield, tmp_path_factory):
    """BM25's run for the training queries."""
    out = tmp_path_factory.mktemp("mined") / "run"
    (found,) = as_overrides(str(cranfield), out, negatives=True, validates=False)
    assert json.loads(found.partition("=")[2]) == [
        {"path": str(cranfield), "candidates": str(out / "negatives.jsonl"), "allow_missing": True}
    ]
    assert as_overrides(str(cranfield), out, negatives=True, validates=True)[1] == (
        f'validation.sets=["{cranfield}:dev"]'
    )
    return out / "negatives.jsonl"


@pytest.fixture(scope="module")
def cross_encoder(random_bert, tmp_path_factory):
    """A random cross-encoder with the vocabulary of `random_bert`."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross")
    config = BertConfig.from_pretrained(random_bert, num_labels=1)
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copy(random_bert / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 64}'
    )
    return folder


@pytest.mark.filterwarnings("ignore::lsr.errors.CutTexts")
def test_a_cross_encoder_can_be_the_teacher(cross_encoder, config, negatives, cranfield, tmp_path, lsr_command):
    """Scores computed during training give the same losses as scores written by `lsr score`."""
    pytest.importorskip("sentence_transformers")
    scored = tmp_path / "scored.jsonl"
    how = ("--documents", cranfield, "--cross-encoder", cross_encoder, "--max-length", "64", "--device", "cpu")
    ran = lsr_command("score", negatives, *how, "--out", scored)
    assert ran.code == 0, ran.err
    first = json.loads(scored.read_text().splitlines()[0])
    given = json.loads(negatives.read_text().splitlines()[0])
    assert {key: value for key, value in first.items() if key != "scores"} == (
        {key: value for key, value in given.items() if key != "scores"}
    )
    assert [len(row) for row in first["scores"]] == [len(given["positive_ids"]) + len(given["negative_ids"])]
    losses = []
    for number, teacher in enumerate(({"cross_encoder": str(cross_encoder)}, {"examples": True})):
        source = {"path": str(scored), "documents": str(cranfield)}
        changes = [
            f"data.sources={json.dumps([source])}", "data.queries=4", "data.negatives=3", "validation=null",
            "optimizer.steps=2", f"teachers={json.dumps([teacher])}",
            "losses={kl: 1, margin_mse: 0.1, teacher_scores: standard}",
        ]  # fmt: skip
        out = tmp_path / f"run-{number}"
        ran = lsr_command("train", config, "--out", out, *(part for one in changes for part in ("--set", one)))
        assert ran.code == 0, ran.err
        losses.append(lines(out, "kl") + lines(out, "margin_mse"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_interrupted_scoring_resumes(cross_encoder, negatives, cranfield, tmp_path, lsr_command, monkeypatch):
    pytest.importorskip("sentence_transformers")
    from lsr.train.cross_encoder import CrossEncoderTeacher

    short = tmp_path / "some.jsonl"
    short.write_text("".join(negatives.read_text().splitlines(keepends=True)[:20]))
    how = ("--documents", cranfield, "--cross-encoder", cross_encoder, "--encoder", "bm25", "--device", "cpu")
    assert lsr_command("score", short, *how, "--out", tmp_path / "whole.jsonl").code == 0
    real, calls = CrossEncoderTeacher.pair_scores, []

    def cut(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, pairs)

    monkeypatch.setattr(CrossEncoderTeacher, "pair_scores", cut)
    assert lsr_command("score", short, *how, "--out", tmp_path / "cut.jsonl").code == 130
    with (tmp_path / "cut.jsonl.partial").open("a") as file:
        file.write('{"query": "half a l')
    assert lsr_command("score", short, *how, "--out", tmp_path / "cut.jsonl").code == 0
    assert len(calls) == 2 + 2
    assert (tmp_path / "cut.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert [path.name for path in tmp_path.glob("cut*")] == ["cut.jsonl"]


def test_scoring_restarts_after_a_change_of_model(
    random_bert, negatives, cranfield, tmp_path, lsr_command, monkeypatch
):
    """If the model in a folder changes, scores of the old and the new model are not mixed."""
    from lsr.train.teachers import SparseTeacher

    model, real, calls = tmp_path / "model", SparseTeacher.scores, []
    shutil.copytree(random_bert, model)
    short = tmp_path / "some.jsonl"
    short.write_text("".join(negatives.read_text().splitlines(keepends=True)[:20]))

    def cut(self, queries, documents):
        calls.append(len(queries))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, queries, documents)

    monkeypatch.setattr(SparseTeacher, "scores", cut)
    command = ("score", short, "--documents", cranfield, "--encoder", model, "--out", tmp_path / "out.jsonl")
    assert lsr_command(*command).code == 130
    os.utime(model / "model.safetensors")
    assert lsr_command(*command).code == 0
    assert calls == [8, 8, 8, 8, 4]


def test_an_empty_file_is_not_scored(cranfield, tmp_path, lsr_command):
    (tmp_path / "none.jsonl").touch()
    ran = lsr_command(
        "score", tmp_path / "none.jsonl", "--documents", cranfield, "--encoder", "bm25", "--out", tmp_path / "s.jsonl"
    )
    assert (ran.code, f"{tmp_path}/none.jsonl: there are no mined candidates in it" in ran.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["none.jsonl"]


def test_a_cross_encoder_needs_a_score_output(random_bert, negatives, cranfield, tmp_path, lsr_command):
    """sentence-transformers would add a random score output to a model that has none."""
    pytest.importorskip("sentence_transformers")
    command = ("score", negatives, "--documents", cranfield, "--cross-encoder", random_bert)
    ran = lsr_command(*command, "--out", tmp_path / "out.jsonl")
    assert ran.code == 1
    assert f"{random_bert}: no cross-encoder but a BertForMaskedLM, which has no output for scores" in ran.err


def test_cached_cross_encoder_scores_equal_fresh_scores(cross_encoder, tmp_path):
    pytest.importorskip("sentence_transformers")
    from lsr.train.cross_encoder import CrossEncoderTeacher

    pairs = [("wing", "flow of a wing"), ("wing f", "low"), ("wing", "heat")]
    fresh = CrossEncoderTeacher(str(cross_encoder), device="cpu").pair_scores(pairs)
    keeping = CrossEncoderTeacher(str(cross_encoder), device="cpu", cache=tmp_path)
    assert keeping.pair_scores(pairs) == pytest.approx(fresh, rel=1e-5)
    keeping._model = None
    assert keeping.pair_scores(pairs[::-1]) == pytest.approx(fresh[::-1], rel=1e-5)


@pytest.fixture(scope="module")
def triples(cranfield, tmp_path_factory):
    """Queries with one positive and one negative each, like MS MARCO's triples."""
    texts = [json.loads(line)["text"] for line in (cranfield / "corpus.jsonl").read_text().splitlines()]
    path = tmp_path_factory.mktemp("triples") / "triples.jsonl"
    rows = [{"query": a[:60], "positive": a, "negative": b} for a, b in pairwise(dict.fromkeys(texts[:30]))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def decoder(random_bert, tmp_path_factory):
    """A causal language model with the vocabulary of `random_bert`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("decoder") / "llama"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    n_terms = json.loads((random_bert / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(vocab_size=n_terms, max_position_embeddings=128, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(random_bert / "tokenizer.json", folder)
    return folder


@pytest.mark.skipif(not PRESETS.is_dir(), reason="needs the source checkout")
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_runs(name, random_bert, decoder, cranfield, negatives, tmp_path, lsr_command):
    """Each preset trains by name on a BEIR folder, with small models and two steps."""
    as_it_is = read_config(PRESETS / f"{name}.yaml", TrainSettings)
    if as_it_is.model.lora:
        pytest.importorskip("peft")
    teachers = [
        {"dense": str(random_bert)} if teacher.dense else {"encoder": teacher.encoder if teacher.encoder == "bm25"
                                                           else str(random_bert)}
        for teacher in as_it_is.teachers
    ]  # fmt: skip
    changes = [
        f"model.checkpoint={decoder if as_it_is.model.head == 'causal-lm' else random_bert}",
        "model.max_length=40", "queries.max_length=16", f"data={cranfield}", "data.queries=4",
        f"teachers={json.dumps(teachers)}", "optimizer.steps=2", "optimizer.warmup=1", "device=cpu", "validation=null",
        *([f"queries.checkpoint={random_bert}"] if as_it_is.queries.checkpoint else []),
        *(["pretrain.steps=1"] if as_it_is.pretrain else []), *(["model.freeze=1"] if as_it_is.model.freeze else []),
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    shutil.copy(negatives, tmp_path / "run" / "negatives.jsonl")
    ran = lsr_command("train", name, "--out", tmp_path / "run", *(part for one in changes for part in ("--set", one)))
    assert ran.code == 0, ran.err
    assert load_encoder(tmp_path / "run" / "last").n_terms
    settings = as_it_is
    losses = lines(tmp_path / "run", "loss")
    assert len(losses) == 2 + bool(settings.pretrain)
    assert all(0 < loss < float("inf") for loss in losses)


@pytest.mark.skipif(not PRESETS.is_dir(), reason="needs the source checkout")
def test_two_training_processes_mine_the_negatives_once(random_bert, cranfield, tmp_path):
    """The second process waits until the first has mined the negatives."""
    changes = [
        f"model.checkpoint={random_bert}", "model.max_length=40", "queries.max_length=16", f"data={cranfield}",
        "data.queries=4", "optimizer.steps=2", "optimizer.warmup=1", "device=cpu", "validation=null",
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lsr", "train", "splade-v2", "--out", str(tmp_path / "run")]
    command += [part for one in changes for part in ("--set", one)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("BM25 negatives for") == 1
    assert len(lines(tmp_path / "run", "loss")) == 2
    assert load_encoder(tmp_path / "run" / "last").n_terms
