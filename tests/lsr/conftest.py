"""Small random checkpoints in all common layouts, without downloads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*"abcdefghij", *("##" + c for c in "abcdefghij"), "cat", "dog", "##s", "the", "sat", "on", "mat", "."]
N_TOKENS = len(SPECIAL) + len(WORDS)
TEXTS = [
    "the cat sat on the mat .",
    "dogs",
    "",
    "abc def ghij " * 20,  # longer than the models' maximum length
    "the dog sat",
    "cat cat cat",
]
QUERY_WEIGHTS = np.linspace(-1, 3, N_TOKENS).astype(np.float32)
QUERY_WEIGHTS[: len(SPECIAL)] = 0


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of very different lengths. One text is empty, and one text is too long for the models."""
    return TEXTS


@pytest.fixture(scope="session")
def query_weights() -> np.ndarray:
    """A table of query weights. Special tokens have weight zero, and some weights are negative."""
    return QUERY_WEIGHTS


def _tokenizer(max_length: int) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def _config(kind: str, vocab_size: int) -> Any:
    import transformers as t

    common = {"vocab_size": vocab_size, "pad_token_id": 0, "max_position_embeddings": 24, "initializer_range": 0.4}
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    match kind:
        case "distilbert":
            return t.DistilBertConfig(**common, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
        case "modernbert":
            ids = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
            return t.ModernBertConfig(**common, **size, **ids)
        case "electra" | "albert":
            return t.AutoConfig.for_model(kind, **common, **size, embedding_size=8)
        case "mobilebert":
            return t.MobileBertConfig(**common, **size, embedding_size=8, intra_bottleneck_size=16)
        case _:
            return t.AutoConfig.for_model(kind, **common, **size)


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """Returns a function that writes a random masked-LM checkpoint. Its large weights give large outputs."""

    def make(folder: Path, kind: str = "bert", seed: int = 0, vocab_size: int = N_TOKENS + 3) -> Path:
        import torch
        from transformers import AutoModelForMaskedLM

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForMaskedLM.from_config(_config(kind, vocab_size))
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # initial biases are zero, which would hide code that ignores them
                    torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        _tokenizer(24).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain BERT checkpoint."""
    return make_checkpoint(tmp_path_factory.mktemp("plain") / "tiny-bert")


@pytest.fixture(scope="session")
def opensearch(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a table of query weights in idf.json, as OpenSearch publishes them."""
    folder = make_checkpoint(tmp_path_factory.mktemp("opensearch") / "doc")
    weights = dict(zip(SPECIAL + WORDS, QUERY_WEIGHTS.tolist(), strict=True))
    (folder / "idf.json").write_text(json.dumps(weights | {"not-in-the-vocabulary": 9.0}))
    return folder


@pytest.fixture(scope="session")
def reference(
    checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any]]:
    """Returns a function that makes a sentence-transformers model by name and returns (saved folder, opened model)."""
    pytest.importorskip("sentence_transformers")
    root = tmp_path_factory.mktemp("sentence-transformers")
    other = make_checkpoint(root / "tiny-query", seed=1)
    opened: dict[str, tuple[Path, Any]] = {}

    def model(name: str) -> tuple[Path, Any]:
        if name not in opened:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
                from sentence_transformers import SparseEncoder

                _reference_modules(name, checkpoint, other).save_pretrained(str(root / name))
                opened[name] = (root / name, SparseEncoder(str(root / name), device="cpu"))
        return opened[name]

    return model


def _reference_modules(name: str, checkpoint: Path, other: Path) -> Any:
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import (
        Router,
        SparseStaticEmbedding,
        SpladePooling,
        Transformer,
    )

    def tower(folder: Path, pooling: str, activation: str) -> list[Any]:
        return [Transformer(str(folder), transformer_task="fill-mask"), SpladePooling(pooling, activation)]

    if name == "static":
        document = tower(checkpoint, "max", "log1p_relu")
        table = SparseStaticEmbedding(document[0].tokenizer, weight=torch.tensor(QUERY_WEIGHTS))
        return SparseEncoder(modules=[Router.for_query_document([table], document)], device="cpu")
    if name == "towers":
        query, document = tower(other, "sum", "relu"), tower(checkpoint, "max", "relu")
        return SparseEncoder(modules=[Router.for_query_document(query, document)], device="cpu")
    pooling, activation = name.split("-")
    prompts = {"query": "the ", "document": ""} if name == "max-relu" else None
    return SparseEncoder(modules=tower(checkpoint, pooling, activation), prompts=prompts, device="cpu")
