"""Tower: a masked-LM checkpoint with its pooling and maximum length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lsr import plugins
from lsr.encode import model_files as files
from lsr.encode.base import CONFIG_FILE
from lsr.encode.reading import tokenizer_settings
from lsr.encode.tokenizer import TOKENIZER_FILE
from lsr.errors import EncoderError

POOLINGS = ("max", "sum")
SATURATIONS = ("log1p", "log1p_log1p")
MAX_LENGTH = 256  # default if neither the caller nor the checkpoint sets it


class ReadingOptions(TypedDict, total=False):
    """How a model reads a text and weights its terms; None for the checkpoint's setting. See `Tower`."""

    pooling: str | None
    saturation: str | None
    max_length: int | None


class ModelOptions(ReadingOptions, total=False):
    """`ReadingOptions`, pruning of documents, and the device. See `SpladeEncoder`."""

    top_k: int | None
    max_ratio: float | None
    device: str | None
    batch_tokens: int | None


class TowerOptions(TypedDict, total=False):
    """Settings of `Tower.open` that replace the checkpoint's settings. See `Tower`."""

    pooling: str
    saturation: str
    max_length: int | None
    prompt: str
    lower_case: bool
    top_k: int | None
    head: str
    tokenizer: Mapping[str, Any]


@dataclass(frozen=True)
class Tower:
    """A masked-LM checkpoint, and how its logits become weights.

    Attributes:
        checkpoint: A folder, or a name on the Hugging Face hub.
        subfolder: The model's folder within the checkpoint.
        pooling: "max" or "sum" over the positions of the text.
        saturation: "log1p", or "log1p_log1p" for log1p twice.
        max_length: Number of tokens that are read, special tokens included.
        prompt: Text before every text.
        lower_case: Lower-case all text first, if the tokenizer doesn't.
        top_k: How many weights of a text the checkpoint's configuration keeps; None for all.
        head: Turns states into weights; see `lsr.encode.model`.
        tokenizer: Changes to tokenizer.json, from `lsr.encode.reading`.
    """

    checkpoint: str
    subfolder: str = ""
    pooling: str = "max"
    saturation: str = "log1p"
    max_length: int = MAX_LENGTH
    prompt: str = ""
    lower_case: bool = False
    top_k: int | None = None
    head: str = "masked-lm"
    tokenizer: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if problem := plugins.Names(plugins.HEADS, files.HEADS).problem(self.head):
            raise EncoderError(f"head {problem}")
        if self.pooling not in POOLINGS:
            raise EncoderError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if self.saturation not in SATURATIONS:
            raise EncoderError(f"saturation must be one of {', '.join(SATURATIONS)}, got {self.saturation!r}")
        if not isinstance(self.tokenizer, Mapping):
            raise EncoderError(f"tokenizer must be a mapping of settings, got {self.tokenizer!r}")
        object.__setattr__(self, "max_length", files.checked_length(self.max_length))

    @classmethod
    def open(cls, name: str | PathLike[str], subfolder: str = "", **settings: Unpack[TowerOptions]) -> Tower:
        """Open the tower of a checkpoint. Without `max_length`, the tower reads 256 tokens, or fewer if the model can't
        read as many.

        Args:
            name: The checkpoint.
            subfolder: The model's folder within the checkpoint.
            settings: See the attributes; `tokenizer` has settings that override tokenizer_config.json.

        Raises:
            EncoderError: There is no such checkpoint, or it has no configuration.
        """
        folder = files.inside(files.locate(name), subfolder)
        given: dict[str, Any] = {**settings}
        if given.get("max_length") is None:
            given["max_length"] = min(MAX_LENGTH, files.position_limit(folder) or MAX_LENGTH)
        path = folder / TOKENIZER_FILE
        content = path.read_bytes() if path.is_file() else None
        given["tokenizer"] = tokenizer_settings(folder, content, given.get("tokenizer"))
        here = str(name) if not Path(name).is_dir() else str(Path(name).resolve())
        return cls(here, subfolder, **given)

    @classmethod
    def from_config(cls, config: Any, folder: Path) -> Tower:
        """A tower from its description in `encoder.json`. If the description names no checkpoint, the files are in
        `folder`.
        """
        try:
            known = {f.name: config[f.name] for f in fields(cls) if f.name in config}
            known["checkpoint"] = known.get("checkpoint") or files.reference(folder)
            return cls(**known)
        except (TypeError, KeyError) as error:
            raise EncoderError(f"{folder / CONFIG_FILE}: a tower can't be read: {error!r}") from None

    @property
    def place(self) -> tuple[str, str]:
        """Checkpoint and subfolder: towers of the same place share their weights."""
        return self.checkpoint, self.subfolder

    @property
    def name(self) -> str:
        """The checkpoint's name, for messages."""
        return self.checkpoint if files.is_hub_name(self.checkpoint) else Path(self.checkpoint).name

    @property
    def hub_name(self) -> str:
        """The checkpoint's name on the Hugging Face hub; "" for a folder."""
        return self.checkpoint if files.is_hub_name(self.checkpoint) and not Path(self.checkpoint).exists() else ""

    def folder(self) -> Path:
        """The folder of the model; downloads the checkpoint if needed.

        Raises:
            EncoderError: There is no such checkpoint.
        """
        return files.inside(files.locate(self.checkpoint), self.subfolder)

    def check(self) -> None:
        """Check the files without reading the weights.

        Raises:
            EncoderError: A file is missing, or `max_length` is more than the model can read.
        """
        folder = self.folder()
        limit = files.position_limit(folder)
        if limit is not None and self.max_length > limit:
            raise EncoderError(f"max_length {self.max_length}: the model in {folder} reads {limit} tokens at most")
        if files.weight_files(folder) == [folder / files.ONNX_FILE] and self.head != "onnx":
            raise files.no_weights(folder)
