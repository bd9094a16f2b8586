"""Train a SPLADE model on a small real collection, then index and search with it.

python examples/train_splade.py --out runs/small [--checkpoint distilbert/distilbert-base-uncased] [--steps 40]

The collection is Cranfield, which is part of the package; a third of its queries is held out. Without --checkpoint, the
model is a randomly initialized one-layer BERT, which trains in seconds on a CPU. The example shows how the parts fit
together; don't expect good results.
"""

import argparse
import gzip
import json
from importlib.resources import files
from pathlib import Path

import yaml

from lsr import Index, load_encoder
from lsr.config import read_config
from lsr.train import TrainSettings, run_training


def write_collection(folder):
    """Write Cranfield as a BEIR folder whose judgments are split into train and dev."""
    source = files("lsr.data") / "cranfield"
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_bytes(gzip.decompress((source / f"{name}.gz").read_bytes()))
    header, *rows = (source / "qrels" / "test.tsv").read_text().splitlines()
    for split, wanted in (("train", (0, 1)), ("dev", (2,))):
        some = [row for row in rows if int(row.split("\t")[0]) % 3 in wanted]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([header, *some]) + "\n")
    return folder


def write_random_bert(folder, texts):
    """Write a randomly initialized one-layer BERT, with word pieces from the texts."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForMaskedLM

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.15,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():  # as in a trained model, a token's state stays close to its own embedding
        model.bert.embeddings.position_embeddings.weight.zero_()
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.mul_(0.1)
            layer.attention.output.dense.weight.mul_(0.1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", help="masked language model; by default a small random model")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(args)
    out = options.out
    data = write_collection(out / "cranfield")
    texts = [json.loads(line)["text"] for line in (data / "corpus.jsonl").read_text().splitlines()]
    checkpoint = options.checkpoint or str(write_random_bert(out / "random-bert", texts))
    settings = {
        "model": {
            "checkpoint": checkpoint,
            "head": "masked-lm" if options.checkpoint else "expansion",
            "max_length": 256 if options.checkpoint else 48,
        },
        "queries": {"kind": "table", "max_length": 64},
        "data": {"sources": [{"path": str(data)}], "queries": 16, "negatives": 0},
        "losses": {"info_nce": 1.0},
        "documents_regularizer": {"kind": "flops", "weight": 0.05, "ramp": options.steps // 2},
        "optimizer": {"steps": options.steps, "lr": 3e-4, "head_lr": 1e-3, "term_lr": 1e-2, "warmup": 5},
        "validation": {"sets": [f"{data}:dev"], "every": options.steps},
        "checkpoint_every": 1000,
    }
    (out / "run.yaml").write_text(yaml.safe_dump(settings))
    best = run_training(read_config(out / "run.yaml", TrainSettings), out / "run", watch=True)
    index = Index.build(out / "idx", str(data), encoder=load_encoder(best), overwrite=True)
    for hit in index.search("boundary layer transition", k=3):
        print(hit.id, hit.title, "because of", hit.explain(origins=False).words(3))


if __name__ == "__main__":
    main()
