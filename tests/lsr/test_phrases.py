"""Contextual phrase vectors are trained, score passages, and find answers."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.arrays import write_arrays
from lsr.encode import phrases as module
from lsr.encode.load import load_encoder
from lsr.encode.phrases import Asked, PhraseReader
from lsr.errors import DataError, EncoderError
from lsr.index import Index

NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Hugo"]
PLACES = ["abbey", "museum", "harbour", "library", "castle", "school"]
TOOLS = ["hammer", "violin", "ladder", "mirror", "basket"]


def passage(i):
    """A text about two people, and two (question, answer) pairs."""
    one, other = NAMES[i % 8], NAMES[(3 * i + 1) % 8 if (3 * i + 1) % 8 != i % 8 else (i + 1) % 8]
    place, tool = PLACES[i % 6], TOOLS[i % 5]
    text = f"In spring {one} leads the {place}. Every day {other} repairs the {tool} in the yard."
    return text, [(f"who leads the {place}?", one), (f"who repairs the {tool}?", other)]


def examples(numbers):
    found = []
    for i in numbers:
        text, asked = passage(i)
        found += [Asked(question, text, text.index(name), text.index(name) + len(name)) for question, name in asked]
    return found


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lsr-mini")


@pytest.fixture(scope="module")
def trained(encoder):
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EPOCHS", 8)
        return PhraseReader.fit(encoder, examples(range(40)))


@pytest.fixture(scope="module")
def drawn(encoder):
    """A reader with random weights."""
    rng, width = np.random.default_rng(0), 384
    shapes = {
        "query": (2, 2, width, 64),
        "key": (2, 2, width, 64),
        "phrase": (2, width, 64),
        "question": (2, width, 64),
        "sentence": (2, 2),
    }
    weights = {name: (rng.normal(size=shape) / width**0.5).astype(np.float32) for name, shape in shapes.items()}
    return PhraseReader(encoder, weights)


def test_scores_equal_products_of_vectors_over_words(drawn):
    """The definition sums over all words and word pairs. The implementation skips words that are in only one text."""
    question, text = "who leads the abbey of the lake?", "the abbey of the lake is old. The monk leads the abbey"
    read, asked = module._read(drawn.model, text), module._read(drawn.model, question, queries=True)
    found = module._scores(read, asked, drawn.weights, np)
    for side in (0, 1):
        for t in range(len(read.states)):
            phrase = read.states[t] @ drawn.weights["phrase"][side]
            expected = phrase @ (asked.first @ drawn.weights["question"][side]) / 8
            for order in (0, 1):
                q, k = drawn.weights["query"][side, order], drawn.weights["key"][side, order]

                keys, more = read.keys[order].tolist(), drawn.weights["sentence"][side, order]
                mine, theirs = {}, {}
                for j, key in enumerate(keys):
                    if j != t:
                        w = max(0.0, float((read.states[t] @ q) @ (read.states[j] @ k)) / 8)
                        w += more * ((j < 8) == (t < 8))  # the first sentence has eight tokens
                        mine[key] = mine.get(key, 0.0) + w
                for j, key in enumerate(asked.keys[order].tolist()):
                    w = max(0.0, float((asked.first @ q) @ (asked.states[j] @ k)) / 8)
                    theirs[key] = theirs.get(key, 0.0) + w + 1 / max(keys.count(key), 1)
                expected += sum(weight * theirs.get(key, 0.0) for key, weight in mine.items())
            assert found[side, t] == pytest.approx(expected, abs=1e-3)


def test_torch_gives_the_same_scores(drawn):
    torch = pytest.importorskip("torch")
    text = passage(3)[0]
    read, asked = module._read(drawn.model, text), module._read(drawn.model, "who leads it?", queries=True)
    weights = {name: torch.from_numpy(value) for name, value in drawn.weights.items()}
    mine, theirs = module._scores(read, asked, drawn.weights, np), module._scores(read, asked, weights, torch)
    assert mine == pytest.approx(theirs.numpy(), abs=1e-4)


def test_tokens_of_a_question_exclude_the_prompt(drawn):
    text = "who leads the abbey?"
    read = module._read(drawn.model, text, queries=True)
    assert [text[start:end] for start, end in read.spans] == ["who", "leads", "the", "abbey", "?"]
    assert len(read.states) == 5
    assert read.keys[1][-1] not in module._read(drawn.model, text).keys[1]


def test_a_trained_reader_finds_names_in_unseen_passages(trained):
    right = total = 0
    for i in range(41, 61):
        text, asked = passage(i)
        for question, name in asked:
            (answer,) = trained.answers(question, [text])
            assert text[answer.start : answer.end] == answer.text
            right += answer.text == name
            total += 1
    assert right >= 0.75 * total, right / total


def test_a_hit_has_an_answer(trained, tmp_path):
    docs = [{"_id": str(i), "text": passage(i)[0]} for i in (41, 42)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    question, name = passage(42)[1][0]
    hit = index.search(question, 1)[0]
    answer = hit.answer(question, trained)
    assert (hit.text[answer.start : answer.end], answer.text) == (name, name)


def test_answers_are_short_and_within_the_text(drawn):
    text = " ".join(f"word{i}" for i in range(300))
    (answer, nothing) = drawn.answers("which word is it?", [text, ""])
    assert 0 <= answer.start < answer.end <= len(text)
    assert len(drawn.model.tokens(answer.text)) <= 20
    assert (nothing.start, nothing.end, nothing.text) == (0, 0, "")


def test_saved_weights_are_read_back(drawn, encoder, tmp_path):
    path = tmp_path / "reader.arrow"
    drawn.save(path)
    text = passage(5)[0]
    loaded = PhraseReader.load(path, encoder)
    assert loaded.answers("who leads?", [text]) == drawn.answers("who leads?", [text])
    write_arrays(path, "phrase reader", loaded.weights | {"key": np.zeros((2, 2, 3, 64), np.float32)})
    with pytest.raises(EncoderError, match="of another model"):
        PhraseReader.load(path, encoder)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        PhraseReader.load(path, encoder)


def test_wrong_input_is_refused(encoder, drawn):
    with pytest.raises(EncoderError, match="lsr-mini has one"):
        PhraseReader(load_encoder("bm25"), drawn.weights)
    with pytest.raises(EncoderError, match="of another model"):
        PhraseReader(encoder, {**drawn.weights, "phrase": np.zeros((2, 3, 64), np.float32)})
    pytest.importorskip("torch")
    with pytest.raises(DataError, match="no example has an answer"):
        PhraseReader.fit(encoder, [Asked("who?", "a text", 100, 110)])


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_a_reader_marks_answers_of_squadshifts(real_data, benchmark_module):
    """A reader trained on 450 paragraphs marks a fifth of the answers exactly. It finds the right sentence almost as
    often as BM25.
    """
    pytest.importorskip("torch")
    _, rows = benchmark_module("phrases").compared(real_data("squadshifts-answers"))
    print(rows)
    (means,) = (row for row in rows if row["set"] == "all")
    assert means["exact"] >= 0.15
    assert means["f1"] >= 0.3
    assert means["reader"] >= means["bm25"] - 0.06
