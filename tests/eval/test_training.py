"""lsr train: a small model learns on a real collection, what goes wrong is said, and every preset is whole."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("yaml")
pytest.importorskip("ir_measures")

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "train"


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """A cache of its own; and one thread, since several wait for each other longer than these models take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cranfield(tmp_path_factory):
    """A third of the documents of the collection in the package; two thirds of its queries to train, the rest to test."""
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
    """A masked language model that knows no more than which token it reads, over the collection's word pieces."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import WordPieceTrainer
    from transformers import BertConfig, BertForMaskedLM

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    texts = [json.loads(line)["text"] for line in (cranfield / "corpus.jsonl").read_text().splitlines()]
    tokenizer.train_from_iterator(texts, WordPieceTrainer(vocab_size=1500, special_tokens=special))
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    folder = tmp_path_factory.mktemp("model") / "random-bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    n_terms = tokenizer.get_vocab_size()
    config = BertConfig(vocab_size=n_terms, max_position_embeddings=64, initializer_range=0.15, **sizes)
    model = BertForMaskedLM(config)
    with torch.no_grad():  # a token's state is near its own embedding, as a trained model's is
        model.bert.embeddings.position_embeddings.weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.mul_(0.1)
            layer.attention.output.dense.weight.mul_(0.1)
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(64))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def config(cranfield, random_bert, tmp_path):
    """A file of settings."""
    path = tmp_path / "run.yaml"
    path.write_text(f"""\
model: {{checkpoint: {random_bert}, max_length: 48}}
queries: {{kind: table, max_length: 32}}
data:
  sources: [path: {cranfield}]
  queries: 16
  negatives: 0
losses: {{info_nce: 1}}
documents_regularizer: {{kind: flops, weight: 0.01, ramp: 30}}
optimizer: {{steps: 60, lr: 2.0e-3, term_lr: 1.0e-2, warmup: 5}}
validation: {{sets: ["{cranfield}:dev"], every: 20}}
checkpoint_every: 1000
device: cpu
""")
    return path


def lines(out, key):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in found if key in line]


def test_a_run_raises_quality_and_shortens_documents(config, tmp_path, lsr_command):
    out = tmp_path / "run"
    ran = lsr_command("train", config, "--out", out, "--set", "validation.every=2", "--set", "optimizer.steps=2")
    ran = lsr_command("train", config, "--out", tmp_path / "run2")
    print(lines(out, "validation"), lines(tmp_path / "run2", "validation"), ran.err)
    assert 0
