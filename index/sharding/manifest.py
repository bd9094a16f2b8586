"""A sharded folder: several indexes, and shards.json, which describes them as one index.

    FOLDER/
      shards.json        format, encoder, scale of impacts, shards in document order, and the SHA-256 of this content
      shard-00000/       an index, usable on its own
      shard-00001/

Documents are numbered shard by shard, in the order of shards.json, and within a shard as in its index. So shards are
ranges of one collection. Shards share one encoder and one scale of impacts, so a query has the same integer weights in
all of them. So scores can be compared exactly, and the results equal those of one index, ties included.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from lsr._version import __version__
from lsr.durable import sync
from lsr.errors import CorruptIndex, EncoderMismatch, IndexFormatError, OutputExists
from lsr.fingerprint import Fingerprint
from lsr.index.storage.arrow_file import RESTORE
from lsr.index.storage.manifest import output_errors, read_manifest, replace_file, require_name, with_checksum
from lsr.io.object_store import Place, is_remote

SHARDS = "shards.json"
FORMAT = 1
SHARD_NAME = re.compile(r"shard-[0-9]{1,7}(-[0-9a-f]{8})?")
_REGION = re.compile(r"region=[a-z0-9-]{1,40}")
_URI = re.compile(r"(s3|gs|gcs|file)://[^\s?#]+(\?[^\s#]*)?")


def shard_name(number: int) -> str:
    """Return the folder name of a shard."""
    return f"shard-{number:05d}"


def is_sharded(folder: str | PathLike[str]) -> bool:
    """Whether a folder is a sharded index."""
    require_name(Path(folder))
    return Path(folder, SHARDS).is_file()


@dataclass(frozen=True)
class ShardEntry:
    """A shard's entry in shards.json.

    Attributes:
        path: Name of the shard's folder within the sharded folder, or a URI.
        documents: Number of documents when shards.json was written; for planning and messages.
        bytes: Size of the shard's files when shards.json was written.
    """

    path: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Shards:
    """The content of shards.json.

    Attributes:
        folder: The sharded folder, a path or a URI.
        fingerprint: The fingerprint of the encoder that made all vectors.
        impacts: How weights are stored.
        scale: Scale of the impacts; the scale of each segment is this scale times a power of two. 0 for float32.
        shared: {file: SHA-256} of the encoder files, which are the same in each shard.
        entries: The shards, in document order.
    """

    folder: str
    fingerprint: Fingerprint
    impacts: str
    scale: float
    shared: Mapping[str, str]
    entries: tuple[ShardEntry, ...]

    def location(self, entry: ShardEntry) -> str:
        """Return the path or URI of a shard."""
        if "://" in entry.path:
            return entry.path
        base, question, rest = self.folder.partition("?") if "://" in self.folder else (self.folder, "", "")
        return f"{base.rstrip('/')}/{entry.path}{question}{rest}"

    @property
    def documents(self) -> int:
        """Number of documents when shards.json was written."""
        return sum(entry.documents for entry in self.entries)

    @classmethod
    def of(cls, manifests: Mapping[str, Mapping[str, Any]], folder: str = "") -> Shards:
        """Describe shards, in document order.

        Args:
            manifests: {path or URI of a shard: its manifest}.
            folder: The sharded folder.

        Raises:
            IndexFormatError: There are no shards, a shard has no documents, or impacts differ in kind or scale.
            EncoderMismatch: A shard's encoder differs from the first shard's.
        """
        if not manifests:
            raise IndexFormatError(f"{folder}: a sharded folder has at least one shard")
        first = next(iter(manifests.values()))
        scales = [segment["scale"] for manifest in manifests.values() for segment in manifest["segments"]]
        made = cls(
            folder,
            Fingerprint.from_json(first["fingerprint"], folder),
            first["impacts"],
            float(min(scales, default=0.0)) if first["impacts"] == "uint8" else 0.0,
            _shared(first),
            tuple(
                ShardEntry(
                    path,
                    sum(segment["n_alive"] for segment in manifest["segments"]),
                    sum(file["bytes"] for file in manifest["files"].values()),
                )
                for path, manifest in manifests.items()
            ),
        )
        if empty := [path for path, manifest in manifests.items() if not manifest["segments"]]:
            raise IndexFormatError(f"{folder}: shards without a document: {', '.join(empty)}; make fewer shards")
        made.require_fit(manifests)
        return made

    def require_fit(self, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse shards that don't fit shards.json. Messages name all of them.

        Args:
            manifests: {name of a shard for messages: its manifest}.

        Raises:
            IndexFormatError: Impacts differ in kind or scale.
            EncoderMismatch: Encoders differ.
        """
        strangers, misfits = [], []
        for name, manifest in manifests.items():
            theirs = Fingerprint.from_json(manifest["fingerprint"], name)
            if theirs != self.fingerprint or _shared(manifest) != self.shared:
                what = ", ".join(self.fingerprint.differences(theirs)) or "the files that encode queries, or the tokens"
                strangers.append(f"{name}: made by {theirs}, other shards by {self.fingerprint}; they differ in {what}")
            if manifest["impacts"] != self.impacts:
                misfits.append(f"{name}: impacts are {manifest['impacts']}, in other shards {self.impacts}")
            elif self.impacts == "uint8":
                scales = {segment["scale"] for segment in manifest["segments"]}
                wrong = [scale for scale in scales if math.frexp(scale / self.scale)[0] != 0.5]
                misfits += [f"{name}: its scale {s!r} isn't a power of two times {self.scale!r}" for s in sorted(wrong)]
        if strangers:
            raise EncoderMismatch("\n".join([*strangers, "encode and build all shards with one encoder"]))
        if misfits:
            raise IndexFormatError("\n".join([*misfits, "build all shards together: their scores can't be compared"]))

    # --- on disk ----------------------------------------------------------------------------------------------------

    def content(self) -> bytes:
        """Serialize the content of shards.json."""
        return with_checksum(
            {
                "format": FORMAT,
                "lsr": __version__,
                "fingerprint": self.fingerprint.to_json(),
                "impacts": self.impacts,
                "scale": self.scale,
                "shared": dict(self.shared),
                "shards": [{"path": e.path, "documents": e.documents, "bytes": e.bytes} for e in self.entries],
            }
        )

    @classmethod
    def parse(cls, content: bytes, folder: str) -> Shards:
        """Parse and validate the content of shards.json.

        Raises:
            IndexFormatError: Another format version.
            CorruptIndex: The content was changed or truncated, or has invalid values.
        """
        where = f"{folder}: {SHARDS}"
        try:
            values = json.loads(content)
            version = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CorruptIndex(f"{where} is damaged: not a list of shards; {RESTORE}") from None
        if version != FORMAT:
            raise IndexFormatError(
                f"{where} has format {version!r}, written by lsr {str(values.get('lsr', '?'))[:40]}; this version "
                f"reads format {FORMAT}: build it again, or upgrade with pip install -U lsr-search"
            )
        values.pop("sha256", None)
        if with_checksum(values) != content:
            raise CorruptIndex(f"{where} is damaged: the content doesn't match its checksum; {RESTORE}")
        try:
            entries = tuple(ShardEntry(s["path"], s["documents"], s["bytes"]) for s in values["shards"])
            scale, impacts, shared = values["scale"], values["impacts"], values["shared"]
            sound = (
                len({entry.path for entry in entries}) == len(entries) > 0
                and all(SHARD_NAME.fullmatch(e.path) or _URI.fullmatch(e.path) for e in entries)
                and all(type(n) is int and n >= 0 for e in entries for n in (e.documents, e.bytes))
                and impacts in ("uint8", "float32")
                and type(scale) is float
                and math.isfinite(scale)
                and (scale > 0) == (impacts == "uint8")
                and all(type(text) is str for pair in shared.items() for text in pair)
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise CorruptIndex(f"{where} is damaged: values are missing or invalid; {RESTORE}")
        # Requests are signed with the user's credentials, so the file's author must not choose the server.
        if strange := [e.path for e in entries if "?" in e.path and not _REGION.fullmatch(e.path.partition("?")[2])]:
            raise IndexFormatError(
                f"{where}: the shard {strange[0][:200]} has options that choose a server, but a file may only set the "
                "region: remove them, and set the server yourself with AWS_ENDPOINT_URL"
            )
        return cls(folder, Fingerprint.from_json(values["fingerprint"], where), impacts, scale, shared, entries)

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Shards:
        """Read the shards.json of a folder or URI.

        Raises:
            IndexFormatError: There is no shards.json, or it has another format version.
            CorruptIndex: As for `parse`.
            StorageError: The URI can't be read.
        """
        if is_remote(folder):
            there = Place(str(folder)).read(SHARDS)
            if there is None:
                raise IndexFormatError(f"{folder}: not a sharded index: it has no {SHARDS}")
            return cls.parse(there, str(folder))
        folder = Path(folder).absolute()  # shards are opened later, perhaps from another working directory
        if not folder.is_dir():
            raise IndexFormatError(f"{folder}: no such folder")
        try:
            content = (folder / SHARDS).read_bytes()
        except FileNotFoundError:
            raise IndexFormatError(f"{folder}: not a sharded index: it has no {SHARDS}") from None
        return cls.parse(content, str(folder))


def n_grown(manifest: Mapping[str, Any]) -> int:
    """Return the number of tokens that commits have appended since the index was built."""
    return sum(piece["n_terms"] for piece in manifest.get("grown", ()))


def require_one_line(folder: str, longest: Sequence[str], others: Iterable[Sequence[str]]) -> None:
    """Refuse shards whose vocabularies have diverged.

    Raises:
        EncoderMismatch: A term id stands for different tokens.
    """
    if any(list(longest[: len(tokens)]) != list(tokens) for tokens in others):
        raise EncoderMismatch(
            f"{folder}: shards have learned different words: add documents to the whole folder, not to one of its "
            "shards; build them together again"
        )


def write_shards(folder: Path, names: Sequence[str]) -> Shards:
    """Write shards.json for existing shards.

    Args:
        folder: The sharded folder.
        names: Folder names of the shards, in document order.

    Raises:
        OutputExists: The folder already has a shards.json.
        IndexFormatError: As for `Shards.of`, or a shard can't be read.
        EncoderMismatch: As for `Shards.of`.
    """
    if is_sharded(folder):
        raise OutputExists(f"{folder}: a sharded index exists already; name a new folder")
    made = Shards.of({name: read_manifest(folder / name) for name in names}, str(folder))
    save_shards(folder, made)
    return made


def save_shards(folder: Path, shards: Shards) -> None:
    """Write shards.json atomically."""
    with output_errors(folder):
        replace_file(folder / SHARDS, shards.content())
        sync(folder)


def _shared(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return {file: SHA-256} of the files that segments share."""
    prefix = f"{manifest['shared']}/"
    files = manifest["files"].items()
    return {name.removeprefix(prefix): entry["sha256"] for name, entry in files if name.startswith(prefix)}
