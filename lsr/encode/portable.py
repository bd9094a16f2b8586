"""Files that let other libraries open a saved encoder, written in addition to lsr's own files.

    modules.json, config_sentence_transformers.json    modules of a SparseEncoder; prompts
    sentence_bert_config.json, tokenizer_config.json   next to each model: maximum lengths
    *_SpladePooling/, router_config.json               pooling; routes of queries and documents
    query_0_SparseStaticEmbedding/, idf.json           weights of query tokens, for inference-free models; idf.json next
                                                       to the documents' model is OpenSearch's layout
    README.md                                          the model card

These files describe masked language models. Other libraries can't open models with lsr's own heads; modules.json makes
the libraries refuse such a model. This module needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode import model_files as files
from lsr.encode.base import CONFIG_FILE, Encoder
from lsr.encode.tokenizer import TOKENIZER_FILE, TextTokenizer
from lsr.encode.tower import Tower
from lsr.errors import EncoderError, MissingExtra

CARD = "README.md"
_TABLE = "query_0_SparseStaticEmbedding"
_MODELS, _SPARSE = "sentence_transformers.models.", "sentence_transformers.sparse_encoder.models."
_ACTIVATIONS = {"log1p": "relu", "log1p_log1p": "log1p_relu"}
# Possible names of special tokens; transformers must know them for padding.
_SPECIAL = {
    "pad_token": ("[PAD]", "<pad>", "<|endoftext|>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_UNLIMITED = int(1e30)  # the value that transformers writes for "no limit"
_ALL_TERMS = "other libraries keep all terms of a text: they have one limit for documents and queries"


def is_portable(*towers: Tower) -> bool:
    """Whether other libraries can open this kind of model."""
    return all(tower.head == "masked-lm" for tower in towers)


def describe(folder: Path, document: Tower, query: Tower, places: Mapping[tuple[str, str], str]) -> list[str]:
    """Describe a saved encoder of one or two towers for sentence-transformers.

    Args:
        folder: The encoder's folder.
        document: The documents' tower.
        query: The queries' tower.
        places: Subfolders of the towers' files.

    Returns:
        Lines for the model card about what sentence-transformers does differently.
    """
    route = _tower(folder, document, places[document.place])
    shared = query.place == document.place
    if shared and (query.pooling, query.saturation) == (document.pooling, document.saturation):
        modules = [(kind, path) for path, kind in route]
    else:  # a shared model is in both routes, each with its own pooling
        asking = _tower(folder, query, places[query.place], "query_1")
        modules = _router(folder, {"query": asking, "document": route})
    if shared and query.max_length != document.max_length:
        lengths = {"query_length": query.max_length, "document_length": document.max_length}  # known from version 6 on
        most = max(lengths.values())
        place = folder / places[document.place]
        _write(place / "sentence_bert_config.json", _length(document) | {"max_seq_length": most} | lengths)
        _tokenizer(place, TextTokenizer((place / TOKENIZER_FILE).read_bytes()), most)
    kept = document.top_k if document.top_k == query.top_k else None
    _whole(folder, modules, query.prompt, document.prompt, kept)
    return [_ALL_TERMS] if document.top_k != query.top_k else []


def describe_inference_free(
    folder: Path,
    document: Tower,
    at: str,
    table: NDArray[np.float32],
    tokenizer: TextTokenizer,
    max_length: int | None,
    prompt: str,
) -> list[str]:
    """Describe a saved inference-free encoder for sentence-transformers, and for OpenSearch.

    Args:
        folder: The encoder's folder.
        document: The documents' tower.
        at: Subfolder of the tower's files.
        table: (n_terms,) float32, weights of query terms.
        tokenizer: The queries' tokenizer.
        max_length: Number of tokens read from a query; None for all.
        prompt: Text before every query.

    Returns:
        As for `describe`.
    """
    route = _tower(folder, document, at)
    own = folder / _TABLE
    own.mkdir(exist_ok=True)
    weights = table[: tokenizer.size]  # the model may have more rows than the tokenizer has tokens
    (own / TOKENIZER_FILE).write_bytes(tokenizer.content)
    _write(own / "config.json", {"frozen": False})
    _write_tensor(own / "model.safetensors", "weight", weights)
    _tokenizer(own, tokenizer, max_length)
    tokens = tokenizer.vocabulary(len(weights))
    idf = {token: float(weight) for token, weight in zip(tokens, weights.tolist(), strict=True)}
    (folder / "idf.json").write_text(json.dumps(idf, ensure_ascii=False), encoding="utf-8")
    query = [(_TABLE, _SPARSE + "SparseStaticEmbedding")]
    kept = document.top_k
    if kept is not None and (max_length is None or max_length > kept):  # max_active_dims would also prune queries
        kept = None
    _whole(folder, _router(folder, {"query": query, "document": route}), prompt, document.prompt, kept)
    told = [_ALL_TERMS] if document.top_k != kept else []
    if document.top_k is not None:
        told.append(f"OpenSearch prunes documents by its own settings: prune_type top_k, prune_ratio {document.top_k}")
    return told


def refuse(folder: Path) -> None:
    """Make sentence-transformers refuse a saved encoder, whose files it would otherwise misread."""
    _write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "lsr.encode.splade.SpladeEncoder"}])


def save_model(model: Encoder, folder: Path) -> dict[str, bytes]:
    """Save the underlying model of an encoder.

    Returns:
        {config file: content} of the model; the encoder's own config includes this content and replaces the file.
    """
    model.save(folder)
    refuse(folder)
    return {CONFIG_FILE: (folder / CONFIG_FILE).read_bytes()}


def write_card(folder: Path, about: Sequence[str], *, portable: bool, base: str = "") -> None:
    """Write a model card, unless the folder has one.

    Args:
        folder: The encoder's folder.
        about: Lines that describe the encoder.
        portable: Whether sentence-transformers opens it.
        base: The base model's name on the hub; "" if there is none.
    """
    if (folder / CARD).exists():
        return
    head = [
        "---",
        f"library_name: {'sentence-transformers' if portable else 'lsr'}",
        "pipeline_tag: feature-extraction",
    ]
    head += ["tags: [sparse-encoder, sparse, splade, lsr]", *([f"base_model: {base}"] if base else []), "---"]
    usage = ["```python", "from lsr import load_encoder", "", 'encoder = load_encoder("FOLDER OR HUB NAME")']
    usage += ['encoder.encode_document(["a text"]), encoder.encode_query(["a question"])', "```"]
    if portable:
        usage += ["", "Or with sentence-transformers:", "", "```python"]
        usage += ["from sentence_transformers import SparseEncoder", "", 'model = SparseEncoder("FOLDER OR HUB NAME")']
        usage += ['model.encode_document(["a text"]), model.encode_query(["a question"])', "```"]
    else:
        usage += ["", "No other library knows models of this kind."]
    facts = [f"* {line}" for line in about]
    text = [*head, "", "# A sparse encoder", "", "Texts become weights of terms of the vocabulary.", ""]
    (folder / CARD).write_text("\n".join([*text, *facts, "", *usage, ""]), encoding="utf-8")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a saved encoder to the Hugging Face hub; makes the repository if needed.

    Args:
        folder: The encoder's folder.
        name: "organisation/name".
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        EncoderError: The name is invalid, or the hub refuses the upload.
        MissingExtra: huggingface_hub is not installed.
    """
    if not files.is_hub_name(name):
        raise EncoderError(f'{name}: a model of the Hugging Face hub is written "organisation/name"')
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtra("huggingface_hub", "torch", "pushing to the Hugging Face hub") from None
    api = HfApi()
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="An encoder of lsr")
    except Exception as error:  # each version of the hub's library raises other errors
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(f"{name}: can't be pushed ({reason}); are you logged in (hf auth login)?") from None
    return str(made)


_Route = list[tuple[str, str]]  # (path in the folder, module)


def _tower(folder: Path, tower: Tower, at: str, name: str | None = None) -> _Route:
    """Write the description of a tower into the folder of its files; returns the tower's modules."""
    place, pooling = folder / at, f"{name or (at + '_' if at else '') + '1'}_SpladePooling"
    _write(place / "sentence_bert_config.json", _length(tower))
    _tokenizer(place, TextTokenizer((place / TOKENIZER_FILE).read_bytes()), tower.max_length)
    (folder / pooling).mkdir(exist_ok=True)
    how = {"pooling_strategy": tower.pooling, "activation_function": _ACTIVATIONS[tower.saturation]}
    _write(folder / pooling / "config.json", how)
    return [(at, _SPARSE + "MLMTransformer"), (pooling, _SPARSE + "SpladePooling")]


def _length(tower: Tower) -> dict[str, Any]:
    return {"max_seq_length": tower.max_length, "do_lower_case": False}


def _tokenizer(folder: Path, tokenizer: TextTokenizer, max_length: int | None) -> None:
    """Write tokenizer_config.json, without settings that would override tokenizer.json."""
    given = files.read_object(folder / "tokenizer_config.json")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length or _UNLIMITED,
    }
    for role, names in _SPECIAL.items():
        stated = given.get(role)
        stated = stated.get("content") if isinstance(stated, dict) else stated
        if found := [name for name in (stated, *names) if name and tokenizer.term(name) is not None]:
            config[role] = found[0]
    for key in ("truncation_side", "padding_side"):
        if key in given:
            config[key] = given[key]
    _write(folder / "tokenizer_config.json", config)


def _router(folder: Path, routes: Mapping[str, _Route]) -> list[tuple[str, str]]:
    """Write router_config.json; returns the one remaining module."""
    content = {
        "types": {path: kind for route in routes.values() for path, kind in route},
        "structure": {side: [path for path, _ in route] for side, route in routes.items()},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    _write(folder / "router_config.json", content)
    return [(_MODELS + "Router", "")]


def _whole(
    folder: Path, modules: list[tuple[str, str]], query_prompt: str, document_prompt: str, kept: int | None
) -> None:
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    _write(folder / "modules.json", listed)
    content = {
        "model_type": "SparseEncoder",
        "__version__": {"sentence_transformers": "5.1.0"},
        "prompts": {"query": query_prompt, "document": document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    }
    _write(folder / "config_sentence_transformers.json", content | ({} if kept is None else {"max_active_dims": kept}))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tensor(path: Path, name: str, values: NDArray[np.float32]) -> None:
    """Write one tensor as a safetensors file, without torch."""
    data = values.astype("<f4").tobytes()
    header = json.dumps({name: {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
