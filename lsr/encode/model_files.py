"""A checkpoint on disk: its folder, configuration, weight files and tokenizer. Needs no torch.

Only JSON, text and safetensors are read, so a checkpoint can't run code.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from os import PathLike
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.errors import EncoderError, MissingExtra

BUILT_IN = ("bm25", "lsr-mini", "lsr-tiny", "splade-tiny")
_SHIPPED = Path(__file__).parents[1] / "data"  # folder of the built-in encoders other than bm25
HEADS = ("masked-lm", "causal-lm", "gated", "expansion", "lexical", "epic", "epic-query", "sparta", "deepct", "tilde",
         "onnx")  # onnx: backbone and head in one graph  # fmt: skip
OWN_HEADS = HEADS[3:]  # heads with tensors, pooling and saturation of their own
ONNX_FILE = "model.onnx"
OUTPUT_FILE = "output.arrow"  # the vocabulary's embeddings, in the graph's folder
DENSE = "dense"  # key in config.json of exported models with dense vectors: {"width", "query_prompt"}
_ADAPTER = "adapter_config.json"  # written by peft
HEAD_FILE = "head.safetensors"  # tensors of the heads in OWN_HEADS
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]
# Position ids of these models start at pad_token_id + 1, so the first pad_token_id + 1 positions are unusable.
_OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


# --- where it lies ------------------------------------------------------------------------------------------


def locate(name: str | PathLike[str]) -> Path:
    """The folder of a checkpoint: `name` itself, or the local copy of the hub model with that name.

    Raises:
        EncoderError: There is no such folder, and the hub has no such model or can't be reached.
    """
    folder = Path(name)
    if name in BUILT_IN and (_SHIPPED / name).is_dir():
        return _SHIPPED / name
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise EncoderError(f"{folder} is a file; an encoder is a folder")
    if not is_hub_name(name):
        raise EncoderError(
            f'no encoder "{name}": no folder has this name, and a model of the Hugging Face hub is written '
            f'"organisation/name". Built in: {", ".join(BUILT_IN)}'
        )
    return _download(str(name))


def is_here(name: str, subfolder: str = "") -> bool:
    """Whether the weights of a checkpoint are on this machine, so that `locate` downloads nothing."""
    if name in BUILT_IN or Path(name).exists() or not is_hub_name(name):
        return name in BUILT_IN or Path(name).is_dir()
    try:
        from huggingface_hub import snapshot_download

        weight_files(inside(Path(snapshot_download(name, local_files_only=True)), subfolder))
    except Exception:  # the hub's library raises many kinds of errors
        return False
    return True


def reference(folder: Path) -> str:
    """A name by which `locate` finds a folder. The names of built-in encoders also work on other machines."""
    folder = folder.resolve()
    return folder.name if folder.parent == _SHIPPED.resolve() and folder.name in BUILT_IN else str(folder)


def is_hub_name(name: str | PathLike[str]) -> bool:
    """Whether a name looks like "organisation/name"."""
    return isinstance(name, str) and _HUB_NAME.fullmatch(name) is not None


@lru_cache(maxsize=16)
def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra("huggingface_hub", "torch", f'opening "{name}" from the Hugging Face hub') from None
    try:
        found = snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=["onnx/*", "openvino/*"])
    except Exception as error:  # each version of the hub's library has errors of its own for "no network"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(
            f'no encoder "{name}": no folder has this name, and the Hugging Face hub has no such model or '
            f"can't be reached ({reason}). Check the name at https://huggingface.co/models, or download the "
            f"model elsewhere and give its folder. Built in: {', '.join(BUILT_IN)}"
        ) from None
    return Path(found)


def inside(folder: Path, path: str) -> Path:
    """Join a folder with a path from a configuration file.

    Raises:
        EncoderError: The path leads out of the folder.
    """
    parts = PureWindowsPath(path)  # understands both kinds of slash
    if parts.anchor or ".." in parts.parts or "\0" in path:
        raise EncoderError(f'{folder}: its configuration has the path "{path}", which is outside of the folder')
    return folder.joinpath(*parts.parts)


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is no such file.

    Raises:
        EncoderError: The file can't be read.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path}: can't be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no such file."""
    content = read_json(path)
    if content is not None and not isinstance(content, dict):
        raise EncoderError(f"{path}: holds {type(content).__name__}, not a JSON object")
    return content or {}


def without_scores(folder: Path) -> str | None:
    """The architecture of a checkpoint that isn't a cross-encoder; None if it may be one.

    sentence-transformers would open such a checkpoint as a cross-encoder, with random weights in its output layer.
    """
    if read_object(folder / "config_sentence_transformers.json").get("model_type") == "CrossEncoder":
        return None
    named = [str(name) for name in read_object(folder / "config.json").get("architectures") or []]
    return next((name for name in named if name.endswith(("ForMaskedLM", "Model"))), None)


# --- its model ----------------------------------------------------------------------------------------------


def model_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint.

    Raises:
        EncoderError: The file is missing, or lacks the size of the vocabulary.
    """
    config = read_object(folder / "config.json")
    if not config and (folder / _ADAPTER).is_file():
        raise EncoderError(_adapter_alone(folder))
    if not config:
        raise EncoderError(f"{folder}: no config.json, so this is not a checkpoint of a model")
    if not isinstance(config.get("vocab_size"), int):
        raise EncoderError(f"{folder / 'config.json'}: no vocab_size, so this is not a masked language model of text")
    return config


def position_limit(folder: Path) -> int | None:
    """How many tokens the model can read at most; None if its configuration doesn't say."""
    config = model_config(folder)
    limit = config.get("max_position_embeddings", config.get("n_positions"))  # GPT-2 calls it n_positions
    if not isinstance(limit, int) or limit <= 0:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        pad = config.get("pad_token_id")
        limit -= (1 if pad is None else int(pad)) + 1  # in all these models, pad_token_id is 1 by default
    return limit


def tokenizer_limit(folder: Path) -> int | None:
    """`model_max_length` of the tokenizer's configuration; None for no limit."""
    limit = read_object(folder / "tokenizer_config.json").get("model_max_length")
    # "No limit" is written as 1e30.
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 1e9 else None


def weight_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads, in a fixed order, then lsr's own head file.

    Raises:
        EncoderError: There is no readable weight file; the message says what the folder has instead.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if (folder / _ADAPTER).is_file():
        raise EncoderError(_adapter_alone(folder))
    if (folder / ONNX_FILE).is_file() and not (whole.is_file() or index.is_file()):
        return [folder / name for name in (ONNX_FILE, OUTPUT_FILE) if (folder / name).is_file()]
    head = [folder / HEAD_FILE] if (folder / HEAD_FILE).is_file() else []
    if whole.is_file():
        return [whole, *head]
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise EncoderError(f"{index}: no weight_map")
        paths = [inside(folder, name) for name in sorted(set(shards.values()))]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise EncoderError(f"{folder}: weight files are missing: {', '.join(missing)}")
        return [*paths, *head]
    raise no_weights(folder)


def no_weights(folder: Path) -> EncoderError:
    """The error for a folder without model.safetensors."""
    return EncoderError(f"{folder}: no model.safetensors. {_instead(folder)}")


def _instead(folder: Path) -> str:
    """What the folder has instead of readable weights, and what to do about it."""
    names = sorted(path.relative_to(folder).as_posix() for path in [*folder.glob("*.*"), *folder.glob("onnx/*.onnx")])

    def first(*endings: str) -> str | None:
        return next((name for name in names if name.endswith(endings)), None)

    if part := next((name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)), None):
        return f"Its parts ({part} and so on) are useless without model.safetensors.index.json: download that, too"
    if pickled := first(".bin", ".pt", ".pth", ".ckpt"):
        return (
            f"Pickled weights ({pickled}) can run code when read, so they aren't opened; convert them if you trust "
            "them: AutoModelForMaskedLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if graph := first(".onnx"):
        return f"lsr runs only ONNX graphs that it wrote itself, not {graph}: download model.safetensors of this model"
    if other := first(".safetensors"):
        return f"If {other} has the weights, rename it"
    return "Download it: without weights there is no model"


def _adapter_alone(folder: Path) -> str:
    base = read_object(folder / _ADAPTER).get("base_model_name_or_path") or "ITS MODEL"
    return (
        f"{folder}: a LoRA adapter ({_ADAPTER}), which can't be opened: merge it into its model first: "
        f"PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained({str(base)!r}), FOLDER)"
        ".merge_and_unload().save_pretrained(OTHER_FOLDER), and save the tokenizer there"
    )


def require_whole(path: Path) -> None:
    """Refuse a safetensors file that was cut off, without reading its tensors.

    Raises:
        EncoderError: The file is shorter than its header says, or has no header.
    """
    try:
        with path.open("rb") as file:
            size, there = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if size > there:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if (wanted := 8 + size + max(ends, default=0)) > there:
            raise ValueError(f"it has {there:,} of {wanted:,} bytes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EncoderError(f"{path}: the file isn't whole: {error}; get it again") from None


def read_tensor(path: Path, name: str) -> NDArray[np.float32]:
    """Read one tensor of a safetensors file without torch.

    Args:
        path: The file.
        name: The tensor's name.

    Returns:
        The tensor in its shape, float32.

    Raises:
        EncoderError: The file is damaged or has no such tensor, or the tensor doesn't hold floats.
    """
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            entry = json.loads(file.read(size))[name]
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            values = np.frombuffer(file.read(end - start), dtype=kinds[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f'{path}: its tensor "{name}" can\'t be read: {error!r}') from None


# --- its tokenizer ------------------------------------------------------------------------------------------


def checked_length(max_length: Any, what: str = "max_length") -> int:
    """Check a maximum length: an int of at least 3, to fit two special tokens and one token of the text."""
    if not isinstance(max_length, int):
        raise EncoderError(f"{what} must be a whole number, got {max_length!r}")
    if max_length < 3:
        raise EncoderError(f"{what} must be at least 3, got {max_length}")
    return max_length
