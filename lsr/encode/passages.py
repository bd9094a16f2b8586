"""Cut long documents into overlapping passages. A search can give each document the score of its best passage.

A passage is a run of whole words; a word is cut only if it has more tokens than fit into a passage. A passage's id is
the document's id with "#" and a number; `parent` is the document's id. Every passage has the document's title.

If a document has blocks, as documents from files do, passages follow its sections, and within them its paragraphs, code
blocks and list items. The title of such a passage includes the headings above it, and its metadata has its lines, page
and link.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, takewhile
from typing import Any

from lsr.encode.base import Encoder
from lsr.io.document import Block, Document

# Default size: enough to answer a question, short enough to read.
SIZE, OVERLAP = 256, 32
_CHARACTERS = 4  # average characters per token, roughly
_SMALL = 4  # sections shorter than 1 / _SMALL of a passage are joined with the next
_LONGEST = 1 << 18  # characters tokenized at a time: a tokenizer's output takes many times the memory of the text
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")


def split_passages(
    documents: Iterable[Document], encoder: Encoder, size: int = 0, overlap: int = 0
) -> Iterator[Document]:
    """Cut documents into passages, each short enough for the encoder.

    Args:
        documents: Documents; all are held in memory.
        encoder: The encoder whose tokens are counted.
        size: Largest number of tokens of a passage, without its title. Passages are smaller if the encoder has less
            room after title, prompt and special tokens. A title that takes more than half of the encoder's maximum
            length becomes the beginning of the text. With size 0, documents that have blocks are cut into passages of
            SIZE tokens; other documents are cut only if they are longer than the encoder reads.
        overlap: Tokens that a passage repeats from the passage before it; reduced in proportion if passages are smaller
            than `size`. With size 0, the overlap is OVERLAP.

    Raises:
        ValueError: The sizes are invalid.
    """
    require_sizes(size, overlap)
    documents = list(documents)
    whole = encoder.room([""])
    asked = [] if size else [document.content for document in documents if not document.blocks]
    rooms = iter(encoder.room(asked) or () if whole is not None and asked else ())
    wanted = (size, overlap) if size else (SIZE, OVERLAP)
    parts: list[list[_Part]] = []
    for document in documents:
        if document.blocks:
            parts.append([_Section(document, *wanted, *section) for section in _sections(document, wanted[0])])
        elif size:
            parts.append([_Part(document, *wanted)])
        elif next(rooms, 0) < 0 and whole is not None:
            parts.append([_Part(document, whole[0], min(OVERLAP, whole[0] - 1))])
        else:
            parts.append([])
    made = iter(_fitted(list(chain.from_iterable(parts)), encoder, whole))
    for document, its in zip(documents, parts, strict=True):
        passages = list(chain.from_iterable(islice(made, len(its))))
        if document.blocks and not passages:  # only white space
            passages = [replace(document, blocks=())]
        for number, passage in enumerate(passages):
            yield replace(passage, id=f"{document.id}#{number}", parent=document.id)
        if not passages:
            yield document


def _fitted(parts: list[_Part], encoder: Encoder, whole: list[int] | None) -> list[list[Document]]:
    """Return the passages of each text. All texts are tokenized in one call, which is fastest."""
    if whole is not None:
        for part, left in zip(parts, encoder.room([part.title for part in parts]) or (), strict=True):
            part.fit(left, whole[0], encoder)
    for part, offsets in zip(parts, encoder.offsets([part.text for part in parts]), strict=True):
        part.offsets = offsets
    made = [part.passages() for part in parts]
    rooms = iter(encoder.room([passage.content for passages in made for passage in passages]) or ())
    for number, part in enumerate(parts):
        # A piece of text may have more tokens on its own than as part of the whole text.
        lost = -min(islice(rooms, len(made[number])), default=0)
        while lost > 0 and part.size > 1:
            part.shrink(lost)
            made[number] = part.passages()
            lost = -min(encoder.room([passage.content for passage in made[number]]) or (0,))
    return made


class _Part:
    """A text to cut into passages: a document, or a section of one.

    Attributes:
        title: Title of each of its passages.
        text: The text to cut; final after `fit`.
        size: Largest number of tokens of a passage.
        offsets: (start, end) of the text's tokens; set before `passages` is called.
    """

    def __init__(self, document: Document, size: int, overlap: int) -> None:
        self._document, self.text, self.title = document, document.text, document.title
        self.size, self._overlap, self._wanted = size, overlap, size
        self.offsets: Sequence[tuple[int, int]] = ()

    def fit(self, left: int, whole: int, encoder: Encoder) -> None:
        """Leave room for the title, or move it into the text.

        Args:
            left: Number of tokens that the encoder reads after the title.
            whole: Number of tokens that the encoder reads in total.
            encoder: The encoder whose tokens are counted.
        """
        if 2 * left < whole:
            self.title, self.text, left = "", self._document.content, whole
        self.size = max(1, min(self.size, left))

    def shrink(self, lost: int) -> None:
        """Make passages smaller by `lost` tokens."""
        self.size = max(1, self.size - lost)

    def passages(self) -> list[Document]:
        """The passages, still without ids."""
        overlap = self._overlap * self.size // self._wanted
        breaks = self._breaks() if len(self.offsets) > self.size else ()
        return self._made(_cuts(self.offsets, self.text, self.size, overlap, breaks))

    def _breaks(self) -> Sequence[Sequence[int]]:
        return ()

    def _made(self, cuts: Iterable[tuple[int, int]]) -> list[Document]:
        return [replace(self._document, title=self.title, text=self.text[start:end].strip()) for start, end in cuts]


def require_sizes(size: int, overlap: int) -> None:
    """Check sizes of passages.

    Raises:
        ValueError: The sizes are invalid.
    """
    if (size, overlap) != (0, 0) and (size < 1 or not 0 <= overlap < size):
        raise ValueError(f"passages need size >= 1 and 0 <= overlap < size, got size {size}, overlap {overlap}")


@dataclass(frozen=True)
class Passages:
    """How documents are cut: the maximum number of tokens of a passage, and how many of them the next passage repeats.

    Passages are shorter if the encoder has less room after title, prompt and special tokens, so that it reads every
    passage to its end. `Passages()` cuts documents of files along their headings and paragraphs into passages of 256
    tokens that overlap by 32. Other documents are cut only if they are longer than the encoder reads.

    Raises:
        ValueError: The sizes are invalid.
    """

    size: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        require_sizes(self.size, self.overlap)


AS_NEEDED = Passages()


def _cuts(
    offsets: Sequence[tuple[int, int]], text: str, size: int, overlap: int, breaks: Sequence[Sequence[int]] = ()
) -> Iterator[tuple[int, int]]:
    """Character ranges of passages. A passage extends from the start of its first token to the start of the first token
    after the passage.

    Args:
        offsets: (start, end) of the text's tokens.
        text: The text.
        size: Largest number of tokens of a passage.
        overlap: Tokens that a passage repeats from the passage before it.
        breaks: Preferred places to cut: one list of ascending token numbers for each kind of place, the best kind
            first.
    """

    def starts_word(token: int) -> bool:
        return any(map(str.isspace, text[offsets[token - 1][1] : offsets[token][0]]))

    def gets_on(token: int, last: int) -> bool:
        """Whether a passage that starts at `token` reaches beyond `last` by at least one whole word."""
        return token + size >= len(offsets) or any(map(starts_word, range(last + 1, token + size + 1)))

    def word_start(token: int) -> int:
        """Where a token starts. If it begins a word, characters of the word before the token, such as a bracket, are
        included.
        """
        start, before = offsets[token][0], offsets[token - 1][1]
        if starts_word(token):
            while start > before and not text[start - 1].isspace():
                start -= 1
        return start

    first = 0
    while True:
        last = first + size
        start = word_start(first) if first else 0
        if last >= len(offsets):
            yield start, len(text)
            return
        best = next((there[-1] for kind in breaks if (there := _among(kind, first + size // 2 + 1, last + 1))), None)
        words = (token for token in range(last, first, -1) if starts_word(token))
        last = next(words, last) if best is None else best
        yield start, word_start(last)
        repeated = last if starts_word(last) else last - overlap
        begin = max(last - overlap, first + 1)
        words = (token for token in range(begin, last) if starts_word(token))
        again = (token for kind in breaks for token in _among(kind, begin, last))
        first = next((token for token in chain(again, words) if gets_on(token, last)), repeated)


def _among(ascending: Sequence[int], low: int, high: int) -> Sequence[int]:
    """The numbers from `low` to below `high`."""
    return ascending[bisect_left(ascending, low) : bisect_left(ascending, high)]


# --- along blocks -------------------------------------------------------------------------------------------------


class _Section(_Part):
    """Blocks of a document; cut at the start of a block if possible, else at the start of a line or sentence."""

    def __init__(self, document: Document, size: int, overlap: int, blocks: list[Block], end: int) -> None:
        super().__init__(document, size, overlap)
        self._blocks, self._base, self._end = blocks, blocks[0].start, end
        self.text = document.text[self._base : end]
        self._path = _path(document.title, blocks)
        self.title = " > ".join(self._path)

    def fit(self, left: int, whole: int, encoder: Encoder) -> None:
        """Leave room for the title. If it takes more than half of the encoder's room for title and text, it is
        shortened or dropped, since the headings are also in the text.
        """
        shorter = [*self._path[-1:], ""]
        while 2 * left < whole and shorter:
            self.title = shorter.pop(0)
            left = min(encoder.room([self.title]) or (whole,))
        self.size = max(1, min(self.size, left))

    def _breaks(self) -> Sequence[Sequence[int]]:
        starts = [start for start, _ in self.offsets]

        def tokens(places: Iterable[int]) -> list[int]:
            found = {bisect_left(starts, place) for place in places}
            return sorted(token for token in found if 0 < token < len(starts))

        sentences = (found.end() for found in SENTENCE.finditer(self.text))
        return tokens(block.start - self._base for block in self._blocks), tokens(sentences)

    def _made(self, cuts: Iterable[tuple[int, int]]) -> list[Document]:
        made, document = [], self._document
        for cut in cuts:
            start, end = _trimmed(document.text, self._base + cut[0], self._base + cut[1])
            if start < end:
                metadata = _place(document, self._blocks, self._end, start, end)
                made.append(Document("", document.text[start:end], self.title, metadata, where=document.where))
        return made


def _path(title: str, blocks: list[Block]) -> list[str]:
    """The document's title and the headings that all the given blocks share."""
    shared = blocks[0].headings
    for block in blocks[1:]:
        if block.headings[: len(shared)] != shared:
            equal = takewhile(lambda pair: pair[0] == pair[1], zip(shared, block.headings, strict=False))
            shared = tuple(heading for heading, _ in equal)
    return [*([title] if title and title not in shared[:1] else []), *shared]


def _sections(document: Document, size: int) -> Iterator[tuple[list[Block], int]]:
    """Yield the blocks of each section, and their end. A section has the blocks under a heading; small sections are
    joined with the next.
    """
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
    """Yield the blocks and their ends; very long blocks are yielded in pieces."""
    text = document.text
    for block, end in zip(document.blocks, [*(b.start for b in document.blocks[1:]), len(text)], strict=True):
        start, exact = block.start, _is_exact(text, block, end)
        while end - start > _LONGEST:
            middle, cut = start + _LONGEST // 2, start + _LONGEST
            cut = 1 + next((at for mark in "\n " if (at := text.rfind(mark, middle, cut)) >= 0), cut - 1)
            lines = text.count("\n", start, cut - 1) if exact else 0
            yield block._replace(start=start, end_line=block.line + lines if exact else block.end_line), cut
            if exact:
                block = block._replace(line=block.line + text.count("\n", start, cut))
            start = cut
        yield block._replace(start=start), end


def _is_exact(text: str, block: Block, end: int) -> bool:
    """Whether a block has exactly as many lines as its source, so that line numbers can be counted."""
    return bool(block.line) and len(text[block.start : end].rstrip().split("\n")) == block.end_line - block.line + 1


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A range without white space at its ends, except the indent of its first line."""
    end = start + len(text[start:end].rstrip())
    first = end - len(text[start:end].lstrip())
    line = text.rfind("\n", 0, first) + 1
    return (first if text[line:first].strip() else line), end


def _place(document: Document, blocks: list[Block], section_end: int, start: int, end: int) -> dict[str, Any]:
    """The metadata of a document, with the position of a passage."""
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
