"""Place: a folder on this machine or in object storage, with the few operations that lsr needs.

A place is a path or a URI that pyarrow knows: s3://bucket/folder, gs://bucket/folder, file:///folder. pyarrow finds
credentials where the clouds' own tools do (AWS_ACCESS_KEY_ID, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS). The user
can choose another S3 server in the URI, s3://bucket/folder?endpoint_override=localhost:9000&scheme=http, or with
AWS_ENDPOINT_URL; a file that lsr reads can't choose the server. Requests have timeouts, files get their final name only
when they are complete, and checksums are checked.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from lsr.durable import take_name
from lsr.errors import StorageError

_SCHEMES = ("s3", "gs", "gcs", "file")
_S3_OPTIONS = ("endpoint_override", "region", "scheme")
_CONNECT, _ANSWER = 5.0, 20.0  # seconds
_ATTEMPTS = 3
_PIECE = 1 << 22
_LIMIT = 1 << 28  # largest file that is read into memory, in bytes

_NO_BUCKET = "there is no such bucket: check its name and its region (?region=)"
# Words in the libraries' errors, and the message for the user.
_REASONS = (
    (
        ("ACCESS_DENIED", "AccessDenied", "INVALID_ACCESS_KEY", "InvalidAccessKey", "SIGNATURE", "ExpiredToken",
         "status 403", "status 401", "PERMISSION_DENIED", "Could not load credentials"),
        "access is denied: check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
        "GOOGLE_APPLICATION_CREDENTIALS) and what they may do there",
    ),
    (("NO_SUCH_BUCKET", "NoSuchBucket", "ucket does not exist", "Bucket '"), _NO_BUCKET),
    (("curlCode: 28", "imed out", "imeout"), "no answer in time: check the network and the endpoint, and try again"),
    (("NETWORK_CONNECTION", "curlCode", "UNAVAILABLE", "onnection refused"), "it can't be reached: check the network "
     "and the endpoint"),
)  # fmt: skip


def is_remote(where: str | PathLike[str]) -> bool:
    """Whether something is a URI rather than a local path."""
    return isinstance(where, str) and where.partition("://")[0] in _SCHEMES and "://" in where


def with_suffix(where: str | Path, ending: str) -> str:
    """Append a suffix to a path, or to a URI before its query string."""
    base, mark, options = str(where).partition("?") if is_remote(str(where)) else (str(where), "", "")
    return base.rstrip("/") + ending + mark + options


def cache_folder() -> Path:
    """The folder for copies of remote files: LSR_CACHE, else "lsr" in the user's cache directory."""
    if named := os.environ.get("LSR_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin" and "XDG_CACHE_HOME" not in os.environ:
        return Path("~/Library/Caches/lsr").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache").expanduser() / "lsr"


class Place:
    """A folder of files; it need not exist yet.

    Attributes:
        name: The path or URI.
        is_local: Whether it is a path or a file:// URI.

    Args:
        where: A path or URI.

    Raises:
        StorageError: The URI can't be opened, or its bucket doesn't exist.
    """

    def __init__(self, where: str | PathLike[str]) -> None:
        self.name = os.fspath(where)
        self._files, self._root = _open(self.name)
        self.is_local = self._files.type_name == "local"

    def sizes(self) -> dict[str, int]:
        """{name: size in bytes} of all files, including those in subfolders ("folder/file"); empty if the place doesn't
        exist.

        Raises:
            StorageError: The place can't be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        with self._told():
            found = self._files.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        if not found:
            self._require_bucket()
        root = PurePosixPath(self._root)
        return {
            PurePosixPath(info.path).relative_to(root).as_posix(): info.size
            for info in found
            if info.type == FileType.File
        }

    def stat(self, name: str = "") -> str | None:
        """Size and modification time of a file (of the place itself if `name` is ""); None if it doesn't exist.

        Raises:
            StorageError: The request fails.
        """
        from pyarrow.fs import FileType

        with self._told(name):
            info = self._files.get_file_info(self._at(name))
        if info.type == FileType.File:
            return f"{info.size} {info.mtime_ns}"
        self._require_bucket()
        return None

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is no such file.

        Raises:
            StorageError: The file can't be read.
        """
        try:
            with self._told(name), self._files.open_input_stream(self._at(name), compression=None) as file:
                return bytes(file.read(_LIMIT))
        except FileNotFoundError:
            self._require_bucket()
            return None

    def fetch(self, name: str, to: Path, wanted: Mapping[str, Any] | None = None) -> None:
        """Copy a file to this machine. The copy gets its name when it is complete.

        Args:
            name: Name of the file; "" if the place itself is a file.
            to: Local path.
            wanted: The {"bytes", "sha256"} that the file must have.

        Raises:
            StorageError: The file doesn't exist, can't be read, or has other content.
        """
        state, size = hashlib.sha256(), 0
        to.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".fetched-", dir=to.parent)
        try:
            with (
                os.fdopen(descriptor, "wb") as target,
                self._told(name),
                self._files.open_input_stream(self._at(name), compression=None) as source,
            ):
                while piece := source.read(_PIECE):
                    state.update(piece)
                    size += target.write(piece)
            if wanted is not None and (size, state.hexdigest()) != (wanted["bytes"], wanted["sha256"]):
                what = "the content has changed" if size == wanted["bytes"] else f"{wanted['bytes']} expected"
                raise StorageError(
                    f"{self._say(name)}: damaged: {size} bytes, {what}; put it there again from where it was made"
                )
            take_name(Path(partial), to)
        except FileNotFoundError:
            self._require_bucket()
            raise StorageError(f"{self._say(name)}: there is no such file") from None
        finally:
            Path(partial).unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; an existing one is replaced.

        Raises:
            StorageError: The file can't be written.
        """
        with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
            path = Path(scratch) / "content"
            path.write_bytes(content)
            self.put(path, name)

    def put(self, path: Path, name: str) -> dict[str, Any]:
        """Upload a local file; it gets its name when it is complete.

        Returns:
            {"bytes", "sha256"} of the file.

        Raises:
            StorageError: The file can't be written.
        """
        state, size, target = hashlib.sha256(), 0, self._at(name)
        # Object storage shows only complete files, but a local folder also shows unfinished ones.
        written = f"{target}.{secrets.token_hex(4)}.unfinished" if self.is_local else target
        if self.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                path.open("rb") as source,
                self._told(name),
                self._files.open_output_stream(written, compression=None) as file,
            ):
                while piece := source.read(_PIECE):
                    state.update(piece)
                    file.write(piece)
                    size += len(piece)
            if self.is_local:
                take_name(Path(written), Path(target))
        finally:
            if self.is_local:
                Path(written).unlink(missing_ok=True)
        return {"bytes": size, "sha256": state.hexdigest()}

    def delete(self, *names: str) -> None:
        """Delete files; ignores missing ones.

        Raises:
            StorageError: A file can't be deleted.
        """
        for name in names:
            with self._told(name):
                try:
                    self._files.delete_file(self._at(name))
                except FileNotFoundError:
                    continue

    def clear(self) -> None:
        """Delete the place with everything in it.

        Raises:
            StorageError: The place can't be deleted.
        """
        with self._told(), suppress(FileNotFoundError):
            self._files.delete_dir(self._root)

    def _require_bucket(self) -> None:
        """Raise an error if the bucket is missing; other requests can't tell a missing bucket from a missing file."""
        from pyarrow.fs import FileType

        if self._files.type_name != "local":
            with suppress(OSError):  # a user may read files without permission to see the bucket
                bucket = self._root.partition("/")[0]
                if self._files.get_file_info(bucket).type == FileType.NotFound:
                    raise StorageError(f"{self.name}: {_NO_BUCKET}")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _say(self, name: str) -> str:
        return with_suffix(self.name, f"/{name}") if name else self.name

    @contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """Turn remote errors into a StorageError with the file's name; local errors already have the name."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise StorageError(f"{self._say(name)}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    said = next((mend for words, mend in _REASONS if any(word in text for word in words)), "")
    return f"{said} ({text[:300]})" if said else text[:300]


def _open(where: str) -> tuple[Any, str]:
    """pyarrow's file system, and the path within it."""
    from pyarrow import fs

    if not is_remote(where):
        return fs.LocalFileSystem(), Path(where).absolute().as_posix()
    try:
        if where.startswith("s3:"):
            return _open_s3(where)
        if where.startswith("g") and "retry_limit_seconds" not in where:  # the default is a quarter of an hour
            where += ("&" if "?" in where else "?") + f"retry_limit_seconds={_ANSWER:g}"
        files, root = fs.FileSystem.from_uri(where)
        return files, root.rstrip("/")
    except (OSError, pa.ArrowException, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{where}: {_reason(error)}") from None


def _open_s3(where: str) -> tuple[Any, str]:
    """S3 with our own timeouts, which a URI can't express."""
    from pyarrow import fs

    parts = urlsplit(where)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - set(_S3_OPTIONS)):
        raise StorageError(f"{where}: no option {unknown[0]!r}; there are {', '.join(_S3_OPTIONS)}")
    if "@" in parts.netloc:  # the credentials would appear in messages and files
        raise StorageError(
            f"s3://…@{parts.netloc.rpartition('@')[2]}: credentials don't belong in a URI: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if not parts.netloc:
        raise StorageError(f"{where}: the URI needs a bucket: s3://bucket/folder")
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if named and "endpoint_override" not in options:
        scheme, mark, host = named.rstrip("/").rpartition("://")
        options |= {"endpoint_override": host} | ({"scheme": scheme} if mark else {})
    if "region" not in options:
        known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        options["region"] = known if "endpoint_override" in options else fs.resolve_s3_region(parts.netloc)
    files = fs.S3FileSystem(
        **options,
        connect_timeout=_CONNECT,
        request_timeout=_ANSWER,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
    return files, f"{parts.netloc}/{unquote(parts.path).strip('/')}".rstrip("/")
