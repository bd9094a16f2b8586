"""read_config reads YAML into dataclasses, and names all problems at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from lsr.config import read_config
from lsr.errors import DataError

pytest.importorskip("yaml")


@dataclass(frozen=True)
class Inner:
    rate: float
    kind: Literal["linear", "cosine"] = "linear"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    steps: int = 5
    loud: bool = False
    limit: int | None = None
    parts: tuple[Inner, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)


GOOD = """# a comment
name: first
inner:
  rate: 2e-5
  kind: cosine
limit: null
parts:
  - rate: 1
  - {rate: 0.5}
weights: {a: 1, b: .5}
"""


@pytest.fixture
def write(tmp_path):
    def put(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return put


def problems(path, *overrides):
    with pytest.raises(DataError) as error:
        read_config(path, Outer, overrides)
    return str(error.value).splitlines()


def test_values_are_converted_to_the_types_of_their_fields(write):
    found = read_config(write(GOOD), Outer)
    assert found == Outer("first", Inner(2e-5, "cosine"), parts=(Inner(1.0), Inner(0.5)), weights={"a": 1.0, "b": 0.5})
    assert isinstance(found.parts[0].rate, float)


def test_overrides_replace_and_add_values(write):
    found = read_config(write(GOOD), Outer, ["steps=7", "inner.kind=linear", "loud=true", "weights.c=2"])
    assert (found.steps, found.inner, found.loud) == (7, Inner(2e-5), True)
    assert found.weights == {"a": 1.0, "b": 0.5, "c": 2.0}
    assert read_config(write("name: x\n"), Outer, ["inner.rate=3"]).inner == Inner(3.0)


def test_all_problems_are_reported_with_their_lines(write):
    path = write("name: 3\ninnner:\n  rate: 1\nsteps: many\nloud: 1\nparts:\n  - rate: x\n    kind: cosinus\n")
    assert problems(path) == [
        f"{path}:1: name must be text, got 3",
        f"{path}:2: unknown key innner; did you mean inner?",
        f"{path}:4: steps must be a whole number, got 'many'",
        f"{path}:5: loud must be true or false, got 1",
        f"{path}:7: parts[0].rate must be a number, got 'x'",
        f"{path}:8: parts[0].kind must be one of linear, cosine, got 'cosinus'; did you mean cosine?",
        f"{path}:1: inner is missing",
    ]


def test_the_error_names_values_that_the_dataclass_refuses(write):
    path = write("name: a\ninner:\n  rate: -1\n")
    assert problems(path) == [f"{path}:3: inner.rate must not be negative, got -1.0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- a\n", "not a section with keys"),
        ("name: [a\ninner: b", ":2: not YAML: "),
        ("name: a\nname: b\ninner: {rate: 1}", ":2: name is given twice"),
        ("name: a\ninner: 3", ":2: inner must be a section with keys, got 3"),
        ("name: a\ninner: {rate: 1}\nparts: 3", ":3: parts must be a list"),
        ("name: !!python/object/apply:os.system [ls]\ninner: {rate: 1}", ":1: name must be one value, got a list"),
        ("name: a\ninner: {rate: !!python/name:os.system x}", ":2: inner.rate must be a number, got "),
        ("name: a\ninner: {{rate}}", ":2: a key of inner must be text, got a section"),
        ("name: a\ninner: {rate: 1}\nweights: {[a]: 1}", ":3: a key of weights must be text, got a list"),
        ("name: {a: b}\ninner: {rate: 1}", "got a section; write text with a colon or brackets in quotes"),
    ],
)
def test_bad_files_are_refused(write, text, message):
    assert any(message in line for line in problems(write(text)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "--set steps: write it as section.key=value"),
        ("name.x=1", "--set name.x=1: name is not a section"),
        ("stepz=1", "--set stepz=1: unknown key stepz; did you mean steps?"),
        ("steps=a", "--set steps=a: steps must be a whole number, got 'a'"),
        ("inner={rate: 1", "--set inner={rate: 1: not YAML: expected ',' or '}', but got '<stream end>'"),
    ],
)
def test_bad_overrides_are_refused(write, override, message):
    assert message in problems(write(GOOD), override)
