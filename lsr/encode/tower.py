"""Tower: a masked-LM checkpoint that reads texts, with how it pools and how much it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lsr.encode import model_files as files
from lsr.encode.base import CONFIG_FILE
from lsr.encode.reading import tokenizer_settings
from lsr.encode.tokenizer import TOKENIZER_FILE
from lsr.errors import EncoderError

POOLINGS = ("max", "sum")
SATURATIONS = ("log1p", "log1p_log1p")
MAX_LENGTH = 256  # where neither the caller nor the checkpoint says


class ReadingOptions(TypedDict, total=False):
    """How a model reads a text and weighs its terms; None for what the checkpoint says. See `Tower`."""

    pooling: str | None
    saturation: str | None
    max_length: int | None


class ModelOptions(ReadingOptions, total=False):
    """Those, how documents are pruned, and where the model runs. See `SpladeEncoder`."""

    top_k: int | None
    max_ratio: float | None
    device: str | None
    batch_tokens: int | None


class TowerOptions(TypedDict, total=False):
    """What `Tower.open` takes in place of a tower's own settings. See `Tower`."""

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
        subfolder: Where in the checkpoint the model lies.
        pooling: "max" or "sum" over the positions of the text.
        saturation: "log1p", or "log1p_log1p" for log1p twice.
        max_length: Tokens that are read, special ones included.
        prompt: Put in front of every text.
        lower_case: Lower-case all text first, if the tokenizer doesn't.
        top_k: Weights that the checkpoint's own configuration keeps of a text, None for all.
        head: What makes weights of the states, as `model` describes them.
        tokenizer: What has to be changed in tokenizer.json, as `lsr.encode.reading` found it.
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
        if self.head not in files.HEADS:
            raise EncoderError(f"head must be one of {', '.join(files.HEADS)}, got {self.head!r}")
        if self.pooling not in POOLINGS:
            raise EncoderError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if self.saturation not in SATURATIONS:
            raise EncoderError(f"saturation must be one of {', '.join(SATURATIONS)}, got {self.saturation!r}")
        if not isinstance(self.tokenizer, Mapping):
            raise EncoderError(f"tokenizer must be a mapping of settings, got {self.tokenizer!r}")
        object.__setattr__(self, "max_length", files.checked_length(self.max_length))

    @classmethod
    def open(cls, name: str | PathLike[str], subfolder: str = "", **settings: Unpack[TowerOptions]) -> Tower:
        """A tower of a checkpoint that is there, read as far as it can be unless `max_length` says otherwise.

        Args:
            name: The checkpoint.
            subfolder: Where in it the model lies.
            settings: As the attributes; in `tokenizer`, settings over those of tokenizer_config.json.

        Raises:
            EncoderError: No such checkpoint, or one without configuration.
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
        """A tower as `encoder.json` describes it; one without checkpoint lies in `folder` itself."""
        try:
            known = {f.name: config[f.name] for f in fields(cls) if f.name in config}
            known["checkpoint"] = known.get("checkpoint") or files.reference(folder)
            return cls(**known)
        except (TypeError, KeyError) as error:
            raise EncoderError(f"{folder / CONFIG_FILE}: a tower can't be read: {error!r}") from None

    @property
    def place(self) -> tuple[str, str]:
        """Which weights it uses."""
        return self.checkpoint, self.subfolder

    @property
    def name(self) -> str:
        """The checkpoint's name, for people."""
        return self.checkpoint if files.is_hub_name(self.checkpoint) else Path(self.checkpoint).name

    @property
    def hub_name(self) -> str:
        """Its name on the Hugging Face hub; "" for a folder."""
        return self.checkpoint if files.is_hub_name(self.checkpoint) and not Path(self.checkpoint).exists() else ""

    def folder(self) -> Path:
        """Where it lies, downloaded if it must be.

        Raises:
            EncoderError: It isn't there.
        """
        return files.inside(files.locate(self.checkpoint), self.subfolder)

    def check(self) -> None:
        """Look at its files without reading the weights.

        Raises:
            EncoderError: Something is missing, or `max_length` is beyond what the model can read.
        """
        folder = self.folder()
        limit = files.position_limit(folder)
        if limit is not None and self.max_length > limit:
            raise EncoderError(f"max_length {self.max_length}: the model in {folder} reads {limit} tokens at most")
        if files.weight_files(folder) == [folder / files.ONNX_FILE] and self.head != "onnx":
            raise files.no_weights(folder)
