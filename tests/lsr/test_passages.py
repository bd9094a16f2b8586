"""Passages contain every word of a text, and have the given size and overlap."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.load import load_encoder
from lsr.encode.passages import split_passages
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tower import Tower
from lsr.io.document import Block, Document

STOP_WORDS = ["the", "of", "a", "-"]  # these words aren't tokens of the encoder
SEVERAL = st.lists(st.sampled_from([*STOP_WORDS, "word"]), max_size=30)
SIZES = st.integers(1, 6).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@pytest.fixture(scope="module")
def encoder():
    encoder = BM25Encoder()
    encoder.fit([f"word{i}" for i in range(30)] + ["wing flow plate boundary"])
    return encoder


class Letters(BM25Encoder):
    """Each letter is a token, like the smallest pieces of a subword tokenizer."""

    def tokens(self, text):
        return [(0, i, i + 1) for i, letter in enumerate(text) if not letter.isspace()]


def split(text, encoder, size, overlap=0, **fields):
    return list(split_passages([Document("d", text, **fields)], encoder, size, overlap))


@given(words=SEVERAL, sizes=SIZES)
def test_passages_have_all_words_and_the_given_size_and_overlap(encoder, words, sizes):
    size, overlap = sizes
    text = " ".join(f"word{i}" if word == "word" else word for i, word in enumerate(words))
    passages = split(text, encoder, size, overlap)

    def words_of(text):
        return [text[start:end] for _, start, end in encoder.tokens(text)]

    tokens = [words_of(passage.text) for passage in passages]
    assert all(len(part) == size for part in tokens[:-1])
    assert len(tokens[-1]) <= size
    assert sum((part[overlap:] for part in tokens[1:]), tokens[0]) == words_of(text)
    for before, after in pairwise(tokens):
        assert before[size - overlap :] == after[:overlap]
    assert {word for passage in passages for word in passage.text.split()} == set(text.split())
    if not overlap:
        assert " ".join(passage.text for passage in passages).split() == text.split()


def test_overlap_repeats_the_last_tokens(encoder):
    passages = split("wing flow plate boundary wing", encoder, 3, 1)
    assert [passage.text for passage in passages] == ["wing flow plate", "plate boundary wing"]


@given(st.lists(st.sampled_from(["ab", "cde", "f"]), max_size=20).map(" ".join), st.integers(3, 6), st.integers(0, 2))
def test_words_of_many_tokens_stay_whole(text, size, overlap):
    size += overlap  # leaves room for the longest word after the overlap
    passages = split(text, Letters(), size, overlap)
    assert {word for passage in passages for word in passage.text.split()} == set(text.split())
    assert all(len(passage.text.replace(" ", "")) <= size for passage in passages)


@pytest.mark.parametrize(
    ("text", "size", "overlap", "expected"),
    [
        ("abcdefgh", 3, 0, ["abc", "def", "gh"]),
        ("abcdefgh", 4, 2, ["abcd", "cdef", "efgh"]),
        ("ab cdefgh", 3, 0, ["ab", "cde", "fgh"]),
        ("", 3, 0, [""]),
        ("  \n ", 3, 0, [""]),
    ],
)
def test_a_word_longer_than_a_passage_is_cut(text, size, overlap, expected):
    assert [passage.text for passage in split(text, Letters(), size, overlap)] == expected


def test_passages_have_ids_parents_titles_and_metadata(encoder):
    passages = split("wing flow plate", encoder, 2, title="T", metadata={"k": 1}, where="f:1")
    assert [(p.id, p.parent) for p in passages] == [("d#0", "d"), ("d#1", "d")]
    assert {p.title for p in passages} == {"T"}
    assert all(p.metadata == {"k": 1} and p.where == "f:1" for p in passages)


def test_documents_stay_in_order(encoder):
    documents = [Document("a", "wing flow plate"), Document("b", ""), Document("c", "wing")]
    assert [p.id for p in split_passages(documents, encoder, 2)] == ["a#0", "a#1", "b#0", "c#0"]


@pytest.mark.parametrize(("size", "overlap"), [(0, 1), (-1, 0), (3, 3), (3, -1)])
def test_impossible_sizes_are_refused(encoder, size, overlap):
    with pytest.raises(ValueError, match=f"got size {size}, overlap {overlap}"):
        split("wing", encoder, size, overlap)


# --- the encoder's maximum length ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(checkpoint):
    """An encoder that reads 24 tokens, including two special tokens and one token of its prompt."""
    return SpladeEncoder(Tower.open(checkpoint, prompt="the "))


WORDS = st.lists(st.sampled_from(["cat", "dog", "sat", "abc", "ghij", "dogs", "?"]), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    text=WORDS, title=WORDS, sizes=st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))
)
def test_no_passage_is_truncated(reader, text, title, sizes):
    passages = split(text, reader, *sizes, title=title)
    assert min(reader.room([passage.content for passage in passages])) >= 0
    assert reader.count_truncated([passage.content for passage in passages]) == 0
    kept = [passage.text for passage in passages]
    if passages[0].title != title:
        assert 2 * reader.room([title])[0] < reader.room([""])[0]
        text = f"{title} {text}"
    if not sizes[1]:
        assert "".join("".join(kept).split()) == "".join(text.split())
    elif sizes[0] > 8:
        assert set(" ".join(kept).split()) == set(text.split())


def test_passages_have_as_many_tokens_as_fit(reader):
    assert reader.room(["", "cat", "the cat " * 12]) == [21, 20, -3]
    text = "cat " * 50
    for size in (21, 24, 1000):
        assert [passage.text.count("cat") for passage in split(text, reader, size)] == [21, 21, 8]
    assert [passage.text.count("cat") for passage in split(text, reader, 24, title="dog sat")] == [19, 19, 12]
    assert split("cat " * 9, reader, 24, title="dog " * 30)[0].content.split() == ["dog"] * 21


def test_whole_texts_are_tokenized_only_if_needed(reader, monkeypatch):
    text, counted, room = "cat " * 50, [], reader.room
    file = {"blocks": (Block(0), Block(100))}
    documents = [Document("a", text, **file), Document("b", text), Document("c", "dog"), Document("d", text, **file)]
    alone = [passage for document in documents for passage in split_passages([document], reader)]
    monkeypatch.setattr(reader, "room", lambda texts: counted.extend(texts) or room(texts))
    assert list(split_passages(documents, reader)) == alone
    assert {passage.parent for passage in alone} == {"a", "b", None, "d"}
    assert counted.count(text) == 1


@pytest.mark.parametrize("size", [62, 64, 512, 900])
def test_a_passage_ends_after_the_given_number_of_tokens(size):
    encoder = load_encoder("lsr-mini").learned
    words = ["wing"] * 600
    words[min(size, 510) - 1] = "zebra"
    first = split(" ".join(words), encoder, size)[0]
    assert first.text.endswith("zebra")
    assert encoder.room([first.text]) == [max(510 - size, 0)]
