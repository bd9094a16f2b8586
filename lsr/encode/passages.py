"""Long documents cut into overlapping passages, which search rolls up to their documents again (max of the scores).

A passage is a run of whole words of its document; only a word of more tokens than fit is cut. Its id is the document's
with "#" and its number; `parent` is the document's id. The title goes with every passage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lsr.encode.base import Encoder
from lsr.io.document import Document


def split_passages(documents: Iterable[Document], encoder: Encoder, size: int, overlap: int = 0) -> Iterator[Document]:
    """Cut documents into passages, each of which the encoder reads to its end.

    Args:
        documents: What to cut.
        encoder: Its tokens are counted.
        size: Tokens of a passage at most, without those of the title; fewer where the encoder doesn't read as many
            beside title, prompt and special tokens. A title that takes more than half of what is read is cut with the
            text, as its beginning.
        overlap: Tokens that a passage repeats from the one before it; the same share of a smaller one.

    Raises:
        ValueError: Sizes that make no sense.
    """
    require_sizes(size, overlap)
    whole = encoder.room([""])
    for document in documents:
        fitting = size
        if whole is not None:
            left = _room(encoder, document.title)
            if 2 * left < whole[0]:
                document, left = replace(document, title="", text=document.content), whole[0]
            fitting = max(1, min(size, left))
        passages = _passages(document, encoder, fitting, overlap * fitting // size)
        # A part of a text may have more tokens for itself than it has in the whole.
        while (lost := -_room(encoder, *(passage.content for passage in passages))) > 0 and fitting > 1:
            fitting = max(1, fitting - lost)
            passages = _passages(document, encoder, fitting, overlap * fitting // size)
        yield from passages


def _room(encoder: Encoder, *texts: str) -> int:
    """The least room behind any of some texts."""
    return min(encoder.room(texts) or (0,))


def _passages(document: Document, encoder: Encoder, size: int, overlap: int) -> list[Document]:
    cuts = _cuts(encoder.tokens(document.text), document.text, size, overlap)
    return [
        replace(document, id=f"{document.id}#{number}", text=document.text[start:end].strip(), parent=document.id)
        for number, (start, end) in enumerate(cuts)
    ]


def require_sizes(size: int, overlap: int) -> None:
    """Refuse sizes of passages that make no sense.

    Raises:
        ValueError: As it says.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"passages need size >= 1 and 0 <= overlap < size, got size {size}, overlap {overlap}")


def _cuts(spans: list[tuple[int, int, int]], text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Character ranges of the passages: each starts where its first token does and ends where the next one starts."""

    def starts_word(token: int) -> bool:
        return any(map(str.isspace, text[spans[token - 1][2] : spans[token][1]]))

    def gets_on(token: int, last: int) -> bool:
        """Whether a passage from a token on has a whole word more than one that ended at `last`."""
        return token + size >= len(spans) or any(map(starts_word, range(last + 1, token + size + 1)))

    first = 0
    while True:
        last = first + size
        start = spans[first][1] if first else 0
        if last >= len(spans):
            yield start, len(text)
            return
        last = next((token for token in range(last, first, -1) if starts_word(token)), last)  # back to a word's start
        yield start, spans[last][1]
        repeated = last if starts_word(last) else last - overlap
        words = (token for token in range(max(last - overlap, first + 1), last) if starts_word(token))
        first = next((token for token in words if gets_on(token, last)), repeated)


@dataclass(frozen=True)
class Passages:
    """How documents are cut: tokens of a passage at most, and how many of them the next one repeats.

    An encoder that reads fewer, beside title, prompt and special tokens, gets shorter passages: none loses its end.

    Raises:
        ValueError: Sizes that make no sense.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        require_sizes(self.size, self.overlap)
