"""Decode the bytes of a text file of any encoding."""

from __future__ import annotations

import codecs
import re
import unicodedata

from lsr.errors import DataError, MissingExtra

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""<(?:\?xml[^>]*?encoding|meta[^>]*?charset)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""")
# Encodings to try for files that aren't UTF-8. Among encodings that fit equally well, the first is taken.
_GUESSES = [
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874",
    "cp932", "euc_jp", "iso2022_jp", "cp949", "gb18030", "big5",
]  # fmt: skip
_CLOSE = 0.1  # encodings whose `chaos` in charset-normalizer differs by less than this fit equally well
_LOOKED_AT = 1 << 16
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.02  # largest share of control characters in a text; form feeds and escapes don't count


def decoded(content: bytes, *, markup: bool = False) -> tuple[str, str]:
    r"""Return the text of a file, with "\n" as line ends, and its encoding if that was guessed ("" otherwise).

    Args:
        content: The file.
        markup: Whether the file is HTML or XML, which may declare its encoding.

    Raises:
        DataError: The file isn't text, or its encoding is unknown.
        MissingExtra: The file isn't UTF-8, and charset-normalizer, which guesses encodings, isn't installed.
    """
    text, guessed = _decoded(content, markup)
    return re.sub(r"\r\n?", "\n", text), guessed


def _decoded(content: bytes, markup: bool) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _by(content, encoding), ""
    if is_binary(content):
        raise DataError("it isn't text: it has bytes that no text has")
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    if markup and (declared := _DECLARED.search(content[:_LOOKED_AT])):
        return _by(content, declared[1].decode()), ""
    return _guessed(content)


def is_binary(content: bytes) -> bool:
    """Whether a file without a byte order mark is binary, judged by its beginning."""
    looked_at = content[:_LOOKED_AT]
    return b"\0" in looked_at or len(_CONTROL.findall(looked_at)) > _MOST_CONTROL * len(looked_at)


def _by(content: bytes, encoding: str) -> str:
    try:
        if codecs.lookup(encoding).name == "iso8859-1":
            encoding = "cp1252"  # like browsers: cp1252 adds quotes and dashes
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"not {encoding}, though the file declares it: {error}") from None
    if not isinstance(text, str):
        raise DataError(f"{encoding} is not an encoding of text")
    return text


def _guessed(content: bytes) -> tuple[str, str]:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise MissingExtra("charset-normalizer", "files", "reading text that isn't UTF-8") from None
    found = list(from_bytes(content, cp_isolation=_GUESSES))
    least = min((one.chaos for one in found), default=0.0)
    fitting = [
        (_strange(str(one)), -round(one.coherence, 1), place, str(one))
        for one in found
        if one.chaos < least + _CLOSE
        for place, name in enumerate(_GUESSES)
        if name in (one.encoding, *one.could_be_from_charset)
    ]
    if not fitting:
        raise DataError("not UTF-8, and its encoding is unknown: save it as UTF-8")
    *_, place, text = min(fitting)
    return text, _GUESSES[place]


def _strange(text: str) -> float:
    """The share of non-ASCII words that can't be words of any language. For short texts, this is the best evidence."""
    words = [word for word in text[:_LOOKED_AT].split() if not word.isascii()]
    return round(sum(map(_is_strange, words)) / max(len(words), 1), 2)


def _is_strange(word: str) -> bool:
    """Whether a word has symbols, several scripts, a capital after a small letter, or Latin letters but no ASCII."""
    letters = [letter for letter in word if letter.isalpha()]
    latin = [letter for letter in letters if unicodedata.name(letter, "").startswith("LATIN")]
    symbols = any(not one.isascii() and unicodedata.category(one)[0] in "SNC" for one in word)
    capitals = bool(letters) and letters[0].islower() and any(map(str.isupper, letters))
    foreign = len(latin) > 2 and not any(map(str.isascii, latin))
    return bool(letters and symbols) or 0 < len(latin) < len(letters) or capitals or foreign
