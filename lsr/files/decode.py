"""Decode the bytes of a text file of any encoding."""

from __future__ import annotations

import codecs
import re

from lsr.errors import DataError, MissingExtra

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""<(?:\?xml[^>]*?encoding|meta[^>]*?charset)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""")
_LOOKED_AT = 1 << 16
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.02  # largest share of control characters in a text, such as form feeds and escapes


def decoded(content: bytes, *, markup: bool = False) -> str:
    r"""The text of a file, with "\n" as line ends.

    Args:
        content: The file.
        markup: It is HTML or XML, which may declare its encoding.

    Raises:
        DataError: It isn't text, or its encoding is unknown.
        MissingExtra: It isn't UTF-8, and charset-normalizer, which guesses, isn't installed.
    """
    return re.sub(r"\r\n?", "\n", _decoded(content, markup))


def _decoded(content: bytes, markup: bool) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _by(content, encoding)
    if is_binary(content):
        raise DataError("it isn't text: it has bytes that no text has")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if markup and (declared := _DECLARED.search(content[:_LOOKED_AT])):
        return _by(content, declared[1].decode())
    return _guessed(content)


def is_binary(content: bytes) -> bool:
    """Whether the beginning of a file can't be text of an encoding without a byte order mark."""
    looked_at = content[:_LOOKED_AT]
    return b"\0" in looked_at or len(_CONTROL.findall(looked_at)) > _MOST_CONTROL * len(looked_at)


def _by(content: bytes, encoding: str) -> str:
    try:
        if codecs.lookup(encoding).name == "iso8859-1":
            encoding = "cp1252"  # like browsers: it adds quotes and dashes
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"not {encoding}, though it declares it: {error}") from None
    if not isinstance(text, str):
        raise DataError(f"{encoding} is not an encoding of text")
    return text


def _guessed(content: bytes) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise MissingExtra("charset-normalizer", "files", "reading text that isn't UTF-8") from None
    best = from_bytes(content).best()
    if best is None or best.encoding == "ascii":
        raise DataError("not UTF-8, and its encoding is unknown: save it as UTF-8")
    return str(best)
