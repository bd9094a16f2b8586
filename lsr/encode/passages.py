"""Long documents cut into overlapping passages, which search rolls up to their documents again (max of the scores).

A passage is a run of whole words of its document; only a word of more tokens than fit is cut. Its id is the document's
with "#" and its number; `parent` is the document's id. The title goes with every passage.

Where a document's blocks are known, those of a file say, passages follow its sections and, within them, paragraphs,
code blocks and list items. Such a passage has the headings above it in its title, and in its metadata the lines, the
page and the link of what it holds.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from lsr.corpus import Block, Document
from lsr.encode.base import Encoder

# Of passages whose size isn't given: enough to answer a question, little enough to be read.
SIZE, OVERLAP = 256, 32
_CHARACTERS = 4  # of a token, roughly
_SMALL = 4  # sections of less than this part of a passage are joined with the next
_LONGEST = 1 << 18  # characters that are cut together: what a tokenizer makes of a text takes many times its room
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")


def split_passages(
    documents: Iterable[Document], encoder: Encoder, size: int = 0, overlap: int = 0
) -> Iterator[Document]:
    """Cut documents into passages, each of which the encoder reads to its end.

    Args:
        documents: What to cut.
        encoder: Its tokens are counted.
        size: Tokens of a passage at most, without those of the title; fewer where the encoder doesn't read as many
            beside title, prompt and special tokens. A title that takes more than half of what is read is cut with the
            text, as its beginning. 0 cuts only what needs it: documents whose blocks are known into passages of SIZE,
            and of the others those that the encoder doesn't read to their ends.
        overlap: Tokens that a passage repeats from the one before it; the same share of a smaller one. With size 0
            it is OVERLAP.

    Raises:
        ValueError: Sizes that make no sense.
    """
    require_sizes(size, overlap)
    whole = encoder.room([""])
    documents = list(documents)
    rooms = None if size else encoder.room([document.content for document in documents])
    for number, document in enumerate(documents):
        if document.blocks:
            yield from _along_blocks(document, encoder, size or SIZE, overlap if size else OVERLAP, whole)
        elif size:
            yield from _cut(document, encoder, size, overlap, whole)
        elif whole is not None and rooms is not None and rooms[number] < 0:
            yield from _cut(document, encoder, whole[0], min(OVERLAP, whole[0] - 1), whole)
        else:
            yield document


def require_sizes(size: int, overlap: int) -> None:
    """Refuse sizes of passages that make no sense.

    Raises:
        ValueError: As it says.
    """
    if (size, overlap) != (0, 0) and (size < 1 or not 0 <= overlap < size):
        raise ValueError(f"passages need size >= 1 and 0 <= overlap < size, got size {size}, overlap {overlap}")


def _room(encoder: Encoder, *texts: str) -> int:
    """The least room behind any of some texts."""
    return min(encoder.room(texts) or (0,))


def _fit(
    make: Callable[[int, int], list[Document]], encoder: Encoder, size: int, overlap: int, fitting: int
) -> list[Document]:
    """Passages of so many tokens, or of as many fewer as it takes for the encoder to read all of them."""
    passages = make(fitting, overlap * fitting // size)
    # A part of a text may have more tokens for itself than it has in the whole.
    while (lost := -_room(encoder, *(passage.content for passage in passages))) > 0 and fitting > 1:
        fitting = max(1, fitting - lost)
        passages = make(fitting, overlap * fitting // size)
    return passages


def _with_room(document: Document, encoder: Encoder, size: int, whole: list[int] | None) -> tuple[Document, int]:
    """A document whose title leaves room for its text, and how many tokens of that fit into a passage."""
    if whole is None:
        return document, size
    left = _room(encoder, document.title)
    if 2 * left < whole[0]:
        document, left = replace(document, title="", text=document.content), whole[0]
    return document, max(1, min(size, left))


def _cut(document: Document, encoder: Encoder, size: int, overlap: int, whole: list[int] | None) -> Iterator[Document]:
    document, fitting = _with_room(document, encoder, size, whole)
    spans = encoder.tokens(document.text)

    def make(size: int, overlap: int) -> list[Document]:
        return [
            replace(document, id=f"{document.id}#{number}", text=document.text[start:end].strip(), parent=document.id)
            for number, (start, end) in enumerate(_cuts(spans, document.text, size, overlap))
        ]

    yield from _fit(make, encoder, size, overlap, fitting)


def _cuts(
    spans: list[tuple[int, int, int]], text: str, size: int, overlap: int, breaks: Sequence[Sequence[int]] = ()
) -> Iterator[tuple[int, int]]:
    """Character ranges of the passages: each starts where its first token does and ends where the next one starts.

    Args:
        spans: The tokens of the text.
        text: The text.
        size: Tokens of a passage at most.
        overlap: Tokens that are repeated.
        breaks: Tokens at which it is better to cut than at any word, ascending; the best kind of them first.
    """

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
        best = next((there[-1] for kind in breaks if (there := _among(kind, first + size // 2 + 1, last + 1))), None)
        words = (token for token in range(last, first, -1) if starts_word(token))
        last = next(words, last) if best is None else best
        yield start, spans[last][1]
        repeated = last if starts_word(last) else last - overlap
        begin = max(last - overlap, first + 1)
        words = (token for token in range(begin, last) if starts_word(token))
        again = (token for kind in breaks for token in _among(kind, begin, last))
        first = next((token for token in chain(again, words) if gets_on(token, last)), repeated)


def _among(ascending: Sequence[int], low: int, high: int) -> Sequence[int]:
    """Those of some numbers that are at least `low` and below `high`."""
    return ascending[bisect_left(ascending, low) : bisect_left(ascending, high)]


# --- along blocks -------------------------------------------------------------------------------------------------


def _along_blocks(
    document: Document, encoder: Encoder, size: int, overlap: int, whole: list[int] | None
) -> Iterator[Document]:
    """Cut a document section by section, at the starts of its blocks if possible, else of lines and sentences."""
    number = 0
    for blocks, section_end in _sections(document, size):
        base = blocks[0].start
        text = document.text[base:section_end]
        title, fitting = _title(document, blocks, encoder, size, whole)
        spans = encoder.tokens(text)
        breaks = _breaks(text, spans, [block.start - base for block in blocks])

        def make(size: int, overlap: int) -> list[Document]:
            made = []
            for start, end in _cuts(spans, text, size, overlap, breaks):  # noqa: B023 - called before the next section
                start, end = _trimmed(document.text, base + start, base + end)  # noqa: B023
                if start < end:
                    metadata = _place(document, blocks, section_end, start, end)  # noqa: B023
                    made.append(Document("", document.text[start:end], title, metadata, document.id, document.where))  # noqa: B023
            return made

        for passage in _fit(make, encoder, size, overlap, fitting):
            yield replace(passage, id=f"{document.id}#{number}")
            number += 1
    if not number:  # nothing but white space
        yield replace(document, id=f"{document.id}#0", parent=document.id, blocks=())


def _sections(document: Document, size: int) -> Iterator[tuple[list[Block], int]]:
    """The blocks under each heading, and where they end; small sections are joined with the next ones."""
    small, most = _CHARACTERS * size // _SMALL, _CHARACTERS * size
    section: list[Block] = []
    for block, end in _pieces(document):
        if section:
            before = section[-1]
            length = block.start - section[0].start
            begins = block.headings != before.headings or (block.anchor != before.anchor and not block.page)
            if end - section[0].start > _LONGEST or (begins and (length >= small or end - section[0].start > most)):
                yield section, block.start
                section = []
        section.append(block)
    if section:
        yield section, len(document.text)


def _pieces(document: Document) -> Iterator[tuple[Block, int]]:
    """The blocks and where they end; the longest in pieces."""
    text = document.text
    for block, end in zip(document.blocks, [*(b.start for b in document.blocks[1:]), len(text)], strict=True):
        start, exact = block.start, _is_exact(text, block, end)
        while end - start > _LONGEST:
            cut = 1 + max(text.rfind(mark, start + _LONGEST // 2, start + _LONGEST) for mark in "\n ")
            cut = cut or start + _LONGEST
            lines = text.count("\n", start, cut - 1) if exact else 0
            yield block._replace(start=start, end_line=block.line + lines if exact else block.end_line), cut
            if exact:
                block = block._replace(line=block.line + text.count("\n", start, cut))
            start = cut
        yield block._replace(start=start), end


def _is_exact(text: str, block: Block, end: int) -> bool:
    """Whether the lines of a block are those of its source, one by one."""
    return bool(block.line) and len(text[block.start : end].rstrip().split("\n")) == block.end_line - block.line + 1


def _title(
    document: Document, blocks: list[Block], encoder: Encoder, size: int, whole: list[int] | None
) -> tuple[str, int]:
    """The document's title and the headings that all of some blocks stand under, and how many tokens fit beside it.

    What takes more than half of the room goes: the headings are in the text, too.
    """
    shared = blocks[0].headings
    for block in blocks[1:]:
        same = [a for a, b in zip(shared, block.headings, strict=False) if a == b]
        shared = shared[: len(same)] if shared[: len(same)] == block.headings[: len(same)] else ()
    path = [*([document.title] if document.title and document.title not in shared[:1] else []), *shared]
    if whole is None:
        return " > ".join(path), size
    for title in (" > ".join(path), *path[-1:], ""):
        left = _room(encoder, title)
        if 2 * left >= whole[0]:
            break
    return title, max(1, min(size, left))


def _breaks(text: str, spans: list[tuple[int, int, int]], blocks: list[int]) -> tuple[list[int], list[int]]:
    """The tokens with which blocks start, and those with which lines and sentences do."""
    starts = [start for _, start, _ in spans]
    sentences = [found.end() for found in _SENTENCE.finditer(text)]

    def tokens(places: list[int]) -> list[int]:
        found = {bisect_left(starts, place) for place in places}
        return sorted(token for token in found if 0 < token < len(starts))

    return tokens(blocks), tokens(sentences)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A range without white space at its ends, but for the indent of its first line."""
    part = text[start:end]
    end -= len(part) - len(part.rstrip())
    first = end - len(text[start:end].lstrip())
    indent = text.rfind("\n", start, first) + 1
    return max(indent, start), end


def _place(document: Document, blocks: list[Block], section_end: int, start: int, end: int) -> dict[str, Any]:
    """The metadata of a document with where a passage stands in it."""
    text, metadata = document.text, dict(document.metadata or {})
    starts = [block.start for block in blocks]
    number, last_number = bisect_right(starts, start) - 1, bisect_left(starts, end) - 1
    first, last = blocks[number], blocks[last_number]
    ends = [*starts[1:], section_end]
    if first.line:
        exact = _is_exact(text, first, ends[number]), _is_exact(text, last, ends[last_number])
        metadata["line"] = first.line + (text.count("\n", first.start, start) if exact[0] else 0)
        metadata["end_line"] = last.line + text.count("\n", last.start, end) if exact[1] else last.end_line
    if first.page:
        metadata["page"] = first.page
    if first.anchor:
        metadata["anchor"] = f"#{first.anchor}"
        if "url" in metadata:
            metadata["url"] = f"{metadata['url']}#{first.anchor}"
    return metadata
