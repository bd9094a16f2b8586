"""TextTokenizer: a checkpoint's tokenizer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lsr.encode.reading import applied, tokenizer_settings
from lsr.errors import EncoderError, MissingExtra
from lsr.fingerprint import digest

TOKENIZER_FILE = "tokenizer.json"
_AT_ONCE = 1 << 18  # characters tokenized at a time: encodings take many times the memory of the text


@dataclass(frozen=True)
class _Parsed:
    """A parsed tokenizer.json, shared by all encoders that use it. `cut` and `vocabularies` are caches, keyed by
    length.
    """

    content: bytes
    digest: str
    special: frozenset[int]
    size: int
    left: bool
    whole: Tokenizer
    cut: dict[int, Tokenizer]
    vocabularies: dict[int, list[str]]


@lru_cache(maxsize=2)  # an encoder opens the same file several times, and parsing is slow
def _parse(content: bytes) -> _Parsed:
    settings = json.loads(content)
    # The tokenizer decides on which side texts are cut, but not at which length.
    left = str((settings.get("truncation") or {}).get("direction")).lower() == "left"
    cut = {"direction": "Left", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    settings.update(truncation=cut if left else None, padding=None)
    content = json.dumps(settings, ensure_ascii=False).encode()
    whole = Tokenizer.from_str(content.decode())
    whole.no_truncation()
    special = frozenset(t["id"] for t in settings.get("added_tokens") or () if t.get("special"))
    settings.pop("version", None)
    made_by = digest([json.dumps(settings, sort_keys=True).encode()])
    size = max(whole.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return _Parsed(content, made_by, special, size, left, whole, {}, {})


class TextTokenizer:
    """A tokenizer from `tokenizer.json`.

    Args:
        content: Content of the file. Its settings for truncation and padding are ignored, except for the side of
            truncation.
        where: The file, for messages.

    Attributes:
        content: The content without padding and truncation length, as bytes.
        digest: Digest of the content, independent of its layout.
        special: Ids of the special tokens.
        size: One more than the largest id.

    Raises:
        EncoderError: The content isn't a tokenizer.
    """

    def __init__(self, content: str | bytes, where: str = TOKENIZER_FILE) -> None:
        try:
            parsed = _parse(content.encode() if isinstance(content, str) else content)
        except Exception as error:  # tokenizers raises bare Exceptions
            raise EncoderError(f"{where}: not a tokenizer: {error}") from None
        self.content, self.digest, self.special, self.size = parsed.content, parsed.digest, parsed.special, parsed.size
        self._left, self._whole, self._cut = parsed.left, parsed.whole, parsed.cut
        self._vocabularies = parsed.vocabularies

    @classmethod
    def open(cls, folder: Path, lower_case: bool = False, settings: Mapping[str, Any] | None = None) -> TextTokenizer:
        """Open the tokenizer of a checkpoint; if there is no tokenizer.json, transformers makes one.

        Args:
            folder: The checkpoint.
            lower_case: Lower-case all text first, if the tokenizer doesn't.
            settings: Changes from `lsr.encode.reading`; {} for a tokenizer that lsr saved; None to read them from the
                checkpoint.

        Raises:
            EncoderError: There is no tokenizer, or its settings aren't supported.
        """
        path = folder / TOKENIZER_FILE
        content = path.read_bytes() if path.is_file() else _convert_tokenizer(folder)
        content = applied(content, tokenizer_settings(folder, content) if settings is None else settings)
        return cls(_lower_cased(content) if lower_case else content, str(path))

    def vocabulary(self, n_terms: int) -> list[str]:
        """Token of each id below `n_terms`; ids without a token are named after their number."""
        if n_terms not in self._vocabularies:
            tokens = [f"[unused:{term}]" for term in range(n_terms)]
            for token, term in self._whole.get_vocab(with_added_tokens=True).items():
                if term < n_terms:
                    tokens[term] = token
            self._vocabularies[n_terms] = tokens
        return self._vocabularies[n_terms].copy()

    def term(self, token: str) -> int | None:
        """Id of a token; None if it is unknown."""
        found = self._whole.token_to_id(token)
        return None if found is None else int(found)

    def ids(self, texts: Sequence[str], max_length: int | None, special: bool) -> list[list[int]]:
        """Token ids of texts.

        Args:
            texts: The texts.
            max_length: Number of tokens to keep, special tokens included; None for all.
            special: Add the special tokens around a text.
        """
        encodings = self._reading(max_length).encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in encodings]

    def _reading(self, max_length: int | None) -> Tokenizer:
        """A tokenizer that cuts texts at a length; None for no limit."""
        if max_length is None:
            return self._whole
        if max_length not in self._cut:
            cut = Tokenizer.from_str(self.content.decode())
            cut.enable_truncation(max_length, direction="left" if self._left else "right")
            self._cut[max_length] = cut
        return self._cut[max_length]

    def words(
        self, text: str, max_length: int | None, prompt: str = "", *, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int] | None]]:
        """Return the tokens of a text that a model reads, and the position of each token's word.

        Args:
            text: The text.
            max_length: Number of tokens to read, special tokens included; None for all.
            prompt: The model's prompt before the text.
            special: Add the special tokens.

        Returns:
            Token ids, and for each id the (start, end) of its word in characters of the text; None for special tokens
            and the prompt's tokens.
        """
        encoding = self._reading(max_length).encode(prompt + text, add_special_tokens=special)
        found: list[tuple[int, int] | None] = []
        for term, word in zip(encoding.ids, encoding.word_ids, strict=True):
            place = None if word is None or term in self.special else encoding.word_to_chars(word) or (0, 0)
            start, end = place or (0, 0)
            start, end = max(0, start - len(prompt)), end - len(prompt)
            inside = text[start : max(start, end)]
            start += len(inside) - len(inside.lstrip())  # some tokenizers count the space before a word
            found.append((start, start + len(inside.strip())) if inside.strip() else None)
        return encoding.ids, found

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of a text's tokens in characters, without special tokens."""
        return [span for span in self.tokens(text) if span[0] not in self.special]

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """(start, end) of each text's `tokens`."""
        found: list[list[tuple[int, int]]] = []
        waiting, characters = [], 0
        for number, text in enumerate(texts, start=1):
            waiting.append(text)
            characters += len(text)
            if characters >= _AT_ONCE or number == len(texts):
                encodings = self._whole.encode_batch(waiting, add_special_tokens=False)
                found += [[place for place in encoding.offsets if place[0] < place[1]] for encoding in encodings]
                waiting, characters = [], 0
        return found

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Like `spans`, but including unknown tokens, which an encoder also reads."""
        encoding = self._whole.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [(term, start, end) for term, (start, end) in pairs if start < end]


def _lower_cased(content: bytes) -> bytes:
    settings = json.loads(content)
    normalizer = settings.get("normalizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if not any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        settings["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(settings).encode()


def _convert_tokenizer(folder: Path) -> bytes:
    """Let transformers make a tokenizer.json from an older tokenizer's files, such as vocab.txt."""
    if not any(folder.glob("*.txt")) and not any(folder.glob("*.model")) and not any(folder.glob("vocab.json")):
        raise EncoderError(f"{folder}: no {TOKENIZER_FILE}")
    pieces = next((path.name for path in folder.glob("*.model") if path.name != "tiktoken.model"), None)
    if pieces and importlib.util.find_spec("sentencepiece") is None:
        raise EncoderError(
            f"{folder}: no {TOKENIZER_FILE}, only the SentencePiece model {pieces}; converting that needs the "
            "package sentencepiece: pip install sentencepiece; or make the file where this package is installed: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "torch", f"{folder}: it has no {TOKENIZER_FILE}; making one") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True, trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str()).encode()
    except Exception as error:  # errors differ between kinds of tokenizers
        raise EncoderError(f"{folder}: no {TOKENIZER_FILE}, and none can be made from its files: {error}") from None
