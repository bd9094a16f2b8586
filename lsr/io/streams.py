"""Streams can be read only once, so they are kept in a temporary file while they are in use."""

from __future__ import annotations

import atexit
import hashlib
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any

from lsr.forks import here_only
from lsr.io.object_store import is_remote
from lsr.io.text_files import open_bytes


def spool(chunks: Iterable[bytes]) -> Any:
    """Copy a stream into a temporary file, since encoders that need a fit read their corpus twice."""
    file = tempfile.NamedTemporaryFile(prefix="lsr-", suffix=".jsonl", delete=False)  # noqa: SIM115 - as the corpus
    try:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
    except BaseException:
        end_spool(file)
        raise
    return file


def end_spool(file: Any) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)


# {name: (file, digest)} of streams that were read to find out whether they hold vectors, but aren't opened yet.
_streams: dict[str, tuple[Any, str]] = {}


def is_stream(source: str | PathLike[str]) -> bool:
    """Whether a source can be read only once: "-" (standard input), or a pipe such as /dev/stdin."""
    name = str(source)
    if name in ("-", "/dev/stdin") or name.startswith("/dev/fd/"):
        return True
    return not is_remote(name) and (Path(name).is_fifo() or Path(name).is_char_device())


def stream_name(source: str | PathLike[str]) -> str:
    """A stream's name in messages."""
    return "<stdin>" if str(source) == "-" else str(source)


def peek_stream(source: str | PathLike[str]) -> tuple[Path, str]:
    """Copy a stream into a temporary file, and return the file and a digest of the content. `take_stream` hands over
    this file.
    """
    name = str(source)
    if name not in _streams:
        state = hashlib.sha256()

        def chunks(stream: IO[bytes]) -> Iterator[bytes]:
            while chunk := stream.read(1 << 20):
                state.update(chunk)
                yield chunk

        if name in ("-", "/dev/stdin"):
            file = spool(chunks(sys.stdin.buffer))
        else:
            with open_bytes(Path(name)) as stream:
                file = spool(chunks(stream))
        atexit.register(here_only(end_spool), file)  # in case `take_stream` is never called
        _streams[name] = file, state.hexdigest()
    file, digest = _streams[name]
    return Path(file.name), digest


def take_stream(source: str | PathLike[str], owner: object) -> None:
    """Hand the file of `peek_stream` over to `owner`: it is deleted together with `owner`. Later content of the stream
    goes into a new file.
    """
    file, _ = _streams.pop(str(source))
    weakref.finalize(owner, here_only(end_spool), file)
