"""How a checkpoint reads text: settings of other libraries that override tokenizer.json.

transformers rebuilds most tokenizers from the vocabulary in tokenizer.json and the settings in tokenizer_config.json;
sentence-transformers adds settings of its own (lsr.encode.load). `tokenizer_settings` finds settings that differ from
tokenizer.json, and `applied` writes them into tokenizer.json. Then neither these libraries nor their settings are
needed. Unknown settings that would change how text is read are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsr.errors import EncoderError

CONFIG = "tokenizer_config.json"
# Classes that transformers treats as BertTokenizer, and models whose default is BertTokenizer.
_LIKE_BERT = {"Bert", "ConvBert", "DistilBert", "Electra", "LayoutLM", "MPNet", "MobileBert", "SqueezeBert"}
_MODELS_LIKE_BERT = {
    "bert", "convbert", "distilbert", "electra", "ernie", "layoutlm", "megatron-bert", "mobilebert", "mpnet",
    "nomic_bert", "squeezebert",
}  # fmt: skip
_BYTES = {"Bart", "Deberta", "GPT2", "Longformer", "Roberta"}  # no leading space by default
# The settings about letters that other classes support; a class that isn't listed supports all of them.
_LETTERS: dict[str, set[str]] = {
    **{key: set() for key in _BYTES | {"Camembert", "Gemma", "Llama", "Qwen2", "T5", "XLMRoberta"}},
    "Albert": {"do_lower_case", "keep_accents"},
    "DebertaV2": {"do_lower_case", "split_by_punct"},
}
_AS_IT_IS = {"", "PreTrained", "TokenizersBackend"}  # tokenizer.json alone decides
_DECIDED = {
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents", "split_by_punct", "add_prefix_space",
    "truncation_side", "add_special_tokens", "split_special_tokens",
}  # fmt: skip


def tokenizer_settings(folder: Path, content: bytes | None, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The changes for `applied` that make tokenizer.json read text like transformers.

    Args:
        folder: The checkpoint.
        content: The checkpoint's tokenizer.json; None if it has none and transformers makes one.
        given: Settings that override those in tokenizer_config.json.

    Raises:
        EncoderError: A setting changes how text is read and isn't supported.
    """
    try:
        tokenizer = json.loads(content or b"{}")
        inside = str((tokenizer.get("truncation") or {}).get("direction", "right")).lower()
    except (ValueError, AttributeError) as error:
        raise EncoderError(f"{folder / 'tokenizer.json'}: not a tokenizer: {error}") from None
    try:
        config = (folder / CONFIG).read_bytes() if (folder / CONFIG).is_file() else b"{}"
        stated = {**json.loads(config), **(given or {})}
        kind = str(stated.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
        found: dict[str, Any] = {}
        side = str(stated.get("truncation_side") or inside).lower()
    except (ValueError, TypeError, AttributeError) as error:
        raise EncoderError(f"{folder / CONFIG}: can't be read: {error}") from None
    if side not in ("left", "right"):
        raise EncoderError(f"{folder / CONFIG}: truncation_side {side!r}; it is left or right")
    if "left" in (side, inside):
        found["truncation_side"] = side
    if stated.get("add_special_tokens") is False:
        found["add_special_tokens"] = False
    if stated.get("split_special_tokens"):
        raise _refused(folder, "split_special_tokens", stated, "special tokens in a text are always taken as such")
    if content is None:
        if name := next((name for name in given or () if name in _DECIDED), None):
            raise _refused(folder, name, stated, "there is no tokenizer.json")
        return found
    if kind in _LIKE_BERT or (not kind and _model_type(folder) in _MODELS_LIKE_BERT):
        return found | _like_bert(tokenizer, stated)
    if kind in _AS_IT_IS:
        return found
    return found | _others(folder, kind, tokenizer, stated)


def applied(content: bytes, settings: Mapping[str, Any]) -> bytes:
    """A tokenizer.json with the settings from `tokenizer_settings` applied; idempotent."""
    if not settings:
        return content
    tokenizer = json.loads(content)
    if "bert" in settings:
        tokenizer["normalizer"] = {"type": "BertNormalizer", "clean_text": True, **settings["bert"]}
        tokenizer["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    if "lower_case" in settings:
        steps = [step for step in _steps(tokenizer.get("normalizer")) if step["type"] != "Lowercase"]
        lower = [{"type": "Lowercase"}] if settings["lower_case"] else []
        tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [*lower, *steps]}
    if "add_prefix_space" in settings:
        for step in [*_steps(tokenizer.get("pre_tokenizer")), *_steps(tokenizer.get("post_processor"))]:
            if "add_prefix_space" in step:
                step["add_prefix_space"] = settings["add_prefix_space"]
            if step["type"] == "Metaspace":
                step["prepend_scheme"] = settings["prepend_scheme"]
    if "add_special_tokens" in settings:
        tokenizer["post_processor"] = None
    if "truncation_side" in settings:  # the encoder sets the length
        left = {"direction": "Left", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
        tokenizer["truncation"] = left if settings["truncation_side"] == "left" else None
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def _like_bert(tokenizer: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of BERT-like tokenizers. transformers rebuilds normalizer and pre-tokenizer from these alone."""
    if (tokenizer.get("model") or {}).get("type", "WordPiece") != "WordPiece":
        return {}
    wanted = {
        "handle_chinese_chars": bool(stated.get("tokenize_chinese_chars", True)),
        "strip_accents": stated.get("strip_accents"),
        "lowercase": bool(stated.get("do_lower_case", True)),
    }
    there = {"type": "BertNormalizer", "clean_text": True, **wanted}
    if tokenizer.get("normalizer") == there and tokenizer.get("pre_tokenizer") == {"type": "BertPreTokenizer"}:
        return {}
    return {"bert": wanted}


def _others(folder: Path, kind: str, tokenizer: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of other classes. Settings that lsr can't apply must agree with tokenizer.json."""
    found: dict[str, Any] = {}
    normalizer, before = _steps(tokenizer.get("normalizer")), _steps(tokenizer.get("pre_tokenizer"))
    known = {name: value for name, value in stated.items() if name in _LETTERS.get(kind, stated)}
    found |= _letters(folder, kind, normalizer, before, known)
    places = [step for step in before if "add_prefix_space" in step or step["type"] == "Metaspace"]
    if kind in _BYTES and places:
        space = bool(stated.get("add_prefix_space", False))
        if any(step.get("add_prefix_space") != space for step in places):
            found |= {"add_prefix_space": space, "prepend_scheme": "always" if space else "never"}
    elif stated.get("add_prefix_space") is not None and places:
        space, scheme = bool(stated["add_prefix_space"]), "first" if kind == "DebertaV2" else "never"
        scheme = "always" if space else scheme
        wanted = {"prepend_scheme": scheme, "add_prefix_space": space}
        if any(step.get(name, value) != value for step in places for name, value in wanted.items()):
            found |= {"add_prefix_space": space, "prepend_scheme": scheme}
    return found


def _letters(
    folder: Path, kind: str, normalizer: list[Any], before: list[Any], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings about case and accents; for most classes, these must agree with tokenizer.json."""
    found: dict[str, Any] = {}
    types = {step["type"] for step in normalizer}
    lowers = "Lowercase" in types or any(step.get("lowercase") for step in normalizer)
    if stated.get("do_lower_case") is not None and bool(stated["do_lower_case"]) != lowers:
        if kind != "DebertaV2":
            raise _refused(
                folder, "do_lower_case", stated, f"tokenizer.json does{' ' if lowers else ' not '}lower-case"
            )
        found["lower_case"] = bool(stated["do_lower_case"])
    strips = "StripAccents" in types or any(step.get("strip_accents") for step in normalizer)
    for name, does in (("strip_accents", strips), ("keep_accents", not strips)):
        if stated.get(name) is not None and bool(stated[name]) != does:
            raise _refused(folder, name, stated, f"tokenizer.json {'strips' if strips else 'keeps'} accents")
    if stated.get("split_by_punct") and not any(step["type"] == "Punctuation" for step in before):
        raise _refused(folder, "split_by_punct", stated, "tokenizer.json does not split there")
    return found


def _refused(folder: Path, name: str, stated: Mapping[str, Any], instead: str) -> EncoderError:
    return EncoderError(
        f"{folder}: the setting {name}={stated[name]!r} changes what is read, but {instead}. Save the tokenizer as "
        "transformers has it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _steps(part: Any) -> list[Any]:
    """The steps of a normalizer, pre-tokenizer or post-processor, with nested sequences flattened."""
    return list(_walk(part)) if isinstance(part, dict) else []


def _walk(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = part.get("normalizers") or part.get("pretokenizers") or part.get("processors")
    if part.get("type") == "Sequence" and isinstance(inner, list):
        for step in inner:
            yield from _walk(step)
    else:
        yield part


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError, AttributeError):
        return ""


# --- sentence-transformers --------------------------------------------------------------------------------------------

# Known settings, by file, with their supported values. None stands for any value: the setting doesn't change vectors,
# or other code of lsr reads it.
POOLING = {
    "pooling_strategy": None, "activation_function": None, "embedding_dimension": None,
    "word_embedding_dimension": None, "chunk_size": None,
}  # fmt: skip
_ELSEWHERE = dict.fromkeys(
    ("token", "use_auth_token", "cache_dir", "revision", "local_files_only", "trust_remote_code")
)
_RUNNING = {"dtype", "torch_dtype", "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors"}
_TRANSFORMER: dict[str, Any] = {
    "max_seq_length": None, "do_lower_case": None, "query_length": None, "document_length": None,
    "unpad_inputs": None, "module_output_name": None, "modality_config": None, "processing_kwargs": None,
    "processor_kwargs": None, "model_kwargs": None, "config_kwargs": None, "transformer_task": ("fill-mask",),
}  # fmt: skip
_MODEL = {**_ELSEWHERE, **dict.fromkeys(_RUNNING)}  # lsr chooses precision and attention itself
_CONFIG = {**_ELSEWHERE, "use_cache": None}
_PROCESSOR = {
    **_ELSEWHERE, **dict.fromkeys(_DECIDED), "model_max_length": None, "padding_side": None, "use_fast": None,
    "clean_up_tokenization_spaces": None,
}  # fmt: skip
_CALL = {
    "max_length": None, "truncation": (True, False, "longest_first", "only_first", "do_not_truncate"),
    "add_special_tokens": None, "padding": None, "padding_side": None, "pad_to_multiple_of": None,
    "return_tensors": None, "return_attention_mask": None, "return_token_type_ids": None, "return_length": None,
    "return_special_tokens_mask": None, "return_offsets_mapping": None, "verbose": None,
}  # fmt: skip
_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


@dataclass(frozen=True)
class TransformerSettings:
    """How sentence-transformers' Transformer reads a text.

    Attributes:
        max_length: Number of tokens that are read; None for the tokenizer's limit.
        truncation: Whether longer texts are cut.
        lower_case: Lower-case all text first, if the tokenizer doesn't.
        tokenizer: Settings that override those in tokenizer_config.json.
    """

    max_length: int | None = None
    truncation: bool = True
    lower_case: bool = False
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def transformer_settings(where: Path, content: Mapping[str, Any], side: str) -> TransformerSettings:
    """The settings of sentence_bert_config.json for a side, "query" or "document".

    Raises:
        EncoderError: A setting is unknown, or its value isn't supported.
    """
    config = {_OLD_NAMES.get(name, name): value for name, value in content.items()}
    require_known(where, config, _TRANSFORMER)
    processor, processing = (_object(where, config, name) for name in ("processor_kwargs", "processing_kwargs"))
    require_known(where, _object(where, config, "model_kwargs"), _MODEL, "model_kwargs")
    require_known(where, _object(where, config, "config_kwargs"), _CONFIG, "config_kwargs")
    require_known(where, processor, _PROCESSOR, "processor_kwargs")
    modalities = _object(where, config, "modality_config")
    if modalities and ("message" in modalities or "text" not in modalities):
        raise EncoderError(f"{where}: modality_config takes {', '.join(modalities)}; lsr encodes plain text")
    known = ("common", "text", "audio", "image", "video", "chat_template")  # other modalities don't affect text
    require_known(where, processing, dict.fromkeys(known), "processing_kwargs")
    call: dict[str, Any] = {}
    for part in ("text", "common"):
        call |= _object(where, processing, part)
        require_known(where, call, _CALL, f"processing_kwargs.{part}")
    length = config.get(f"{side}_length") or processor.get("model_max_length") or config.get("max_seq_length")
    length = call.get("max_length") or length
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise EncoderError(f"{where}: a length of {length!r} tokens")
    special = {"add_special_tokens": False} if call.get("add_special_tokens") is False else {}
    return TransformerSettings(
        length,
        call.get("truncation", True) not in (False, "do_not_truncate"),
        bool(config.get("do_lower_case")),
        {name: value for name, value in processor.items() if name in _DECIDED} | special,
    )


def require_known(where: Path, given: Mapping[str, Any], known: Mapping[str, Any], within: str = "") -> None:
    """Refuse unknown settings, which might change vectors.

    Args:
        where: The file.
        given: Settings.
        known: {known setting: supported values, None for any}. Settings whose value is null are ignored.
        within: The setting that contains `given`, for messages.

    Raises:
        EncoderError: A setting or its value is unknown; the message names the setting.
    """
    for name, value in given.items():
        called = f"{within}.{name}" if within else name
        if value is None:
            continue
        if name not in known:
            near = ", ".join(sorted(known))
            raise EncoderError(
                f"{where}: the setting {called}={value!r} is unknown and may change vectors; known: {near}"
            )
        if known[name] is not None and value not in known[name]:
            raise EncoderError(f"{where}: {called}={value!r}; only {', '.join(map(repr, known[name]))} is supported")


def _object(where: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise EncoderError(f"{where}: {name} holds {type(value).__name__}, not a JSON object")
    return value
