"""Fingerprints compare encoders and are read back from JSON. Digests depend only on the bytes."""

import dataclasses

import pytest

from lsr.errors import DataError, EncoderMismatch
from lsr.fingerprint import Fingerprint, digest, digest_files

FULL = Fingerprint("m", "w1", "t1", 30522, "max", "log1p", 256)
OTHER_VALUES = {
    "weights": "w2",
    "tokenizer": "t2",
    "vocabulary_size": 5,
    "pooling": "sum",
    "saturation": "log1p_log1p",
    "max_length": 512,
}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_the_error_names_each_difference(name):
    other = dataclasses.replace(FULL, **{name: OTHER_VALUES[name]})
    assert FULL.differences(other) == [f"{name} {getattr(FULL, name)} / {OTHER_VALUES[name]}"]
    with pytest.raises(EncoderMismatch, match=f"differ in {name}.*build an index again") as error:
        FULL.require_same(other, "the index idx", "the query")
    assert str(error.value).startswith("the index idx was made with another version, or other settings, of m than the")
    with pytest.raises(EncoderMismatch, match=r"^the index idx was made with m, the query with n; they differ"):
        FULL.require_same(dataclasses.replace(other, model="n"), "the index idx", "the query")


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_unknown_values_are_not_a_difference(name):
    unknown = dataclasses.replace(FULL, **{name: None})
    FULL.require_same(unknown, "a", "b")
    unknown.require_same(FULL, "b", "a")


def test_the_name_is_not_compared():
    FULL.require_same(dataclasses.replace(FULL, model="the same files elsewhere"), "a", "b")


def test_the_str_of_a_fingerprint_is_the_name_of_the_model():
    assert str(FULL) == "m"
    assert str(Fingerprint()) == "an unknown encoder"


@pytest.mark.parametrize("fingerprint", [FULL, Fingerprint(), Fingerprint(model="näme", max_length=0)])
def test_a_fingerprint_is_read_back_from_json(fingerprint):
    text = fingerprint.to_json()
    assert "\n" not in text
    assert Fingerprint.from_json(text) == fingerprint
    assert Fingerprint.from_json(text.encode()) == fingerprint


def test_keys_of_later_versions_are_ignored():
    assert Fingerprint.from_json('{"model": "m", "colour": [1]}') == Fingerprint(model="m")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model": 3}', b'{"max_length": "256"}', b"[" * 100_000],
    ids=range(9),
)
def test_an_error_about_bad_json_names_the_file(text):
    with pytest.raises(DataError, match=r"^v\.parquet: the encoder's fingerprint"):
        Fingerprint.from_json(text, "v.parquet")


def test_the_digest_depends_only_on_the_bytes(tmp_path):
    assert digest([b"ab", b"c"]) == digest([b"abc"]) == "ba7816bf8f01cfea"  # SHA-256 of "abc", FIPS 180
    assert digest([b"abd"]) != digest([b"abc"])
    (tmp_path / "x").write_bytes(b"ab")
    (tmp_path / "y").write_bytes(b"c")
    assert digest_files([tmp_path / "x", str(tmp_path / "y")]) == digest([b"abc"])
    assert digest_files([tmp_path / "y", tmp_path / "x"]) != digest([b"abc"])
