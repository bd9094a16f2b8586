"""An artifact is made once per key. An interrupted or damaged artifact is made again."""

from __future__ import annotations

import pytest

from lsr.eval.experiment.artifact_cache import Artifacts, content_digest


@pytest.fixture
def made(tmp_path):
    """A function that gets the artifact of a key, and a list that logs each key whose artifact is made."""
    log = []

    def get(key, fail=False):
        def make(path):
            log.append(key)
            path.write_text(str(key))
            if fail:
                raise KeyboardInterrupt
            return {"seconds": len(log)}

        return Artifacts(tmp_path / "cache").get("index", {"key": key}, make, ".txt")

    return get, log


def test_an_artifact_is_made_once_per_key(made):
    get, log = made
    path, facts, digest = get("a")
    assert (path.read_text(), facts) == ("a", {"seconds": 1})
    assert get("a") == (path, facts, digest)
    other, _, other_digest = get("b")
    assert (other.read_text(), other_digest != digest) == ("b", True)
    assert log == ["a", "b"]


def test_an_interrupted_artifact_is_made_again(made):
    get, log = made
    with pytest.raises(KeyboardInterrupt):
        get("a", fail=True)
    get("a")
    assert log == ["a", "a"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.unlink(),
        lambda p: p.write_text(""),
        lambda p: p.with_suffix(".json").write_text("{"),
        lambda p: p.with_suffix(".json").write_text("[]"),
    ],
)
def test_a_missing_or_damaged_artifact_is_made_again(made, damage):
    get, log = made
    path, _, _ = get("a")
    damage(path)
    assert get("a")[0].read_text() == "a"
    assert log == ["a", "a"]


def test_digests_depend_on_content(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "a").write_text("x")
    assert content_digest(one) == content_digest(two)
    (two / "in" / "a").write_text("y")
    assert content_digest(one) != content_digest(two)
    (two / "in" / "a").write_text("x")
    (two / "in" / "a").rename(two / "in" / "b")
    assert content_digest(one) != content_digest(two)
    assert content_digest(one / "in" / "a") == content_digest(two / "in" / "b")
