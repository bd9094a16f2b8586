"""Read YAML files into frozen dataclasses. One error lists every wrong key and value with its line.

The dataclass is the schema: nested dataclasses, lists of them, optional values, literals and plain types. Overrides
such as "optimizer.steps=300" replace values of the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lsr.errors import DataError, MissingExtra

T = TypeVar("T")
_ALLOWED = "allowed"
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number. A number that is not finite is always out of range."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None if it is in range."""
        if not isinstance(value, int | float):
            return None
        whole = not isinstance(value, float) or math.isfinite(value)
        low = (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)
        high = (self.at_most is None or value <= self.at_most) and (self.below is None or value < self.below)
        if whole and low and high:
            return None
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        said = " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)
        return f"must be {said or 'a finite number'}, got {value}"


class Check(Protocol):
    """Says what is wrong with a value."""

    def problem(self, value: Any) -> str | None:
        """What is wrong; None if nothing is."""


C = TypeVar("C", bound=Check)


def within(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> dict[str, Range]:
    """Metadata of a dataclass field: its range, which `read_config` and `Settings` check."""
    return allowed(Range(at_least, above, at_most, below))


def allowed(check: C) -> dict[str, C]:
    """Metadata of a dataclass field: the check that `read_config` and `Settings` apply to its value."""
    return {_ALLOWED: check}


class Settings:
    """Base of dataclasses that check their values."""

    def __post_init__(self) -> None:
        """Check all values, then their combinations.

        Raises:
            ValueError: A value or a combination of values is invalid; the message has a line for each problem.
        """
        wrong = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if problem := _problem(field, getattr(self, field.name)):
                wrong.append(f"{field.name} {problem}")
        if wrong := wrong or self.conflicts():
            raise ValueError("\n".join(wrong))

    def conflicts(self) -> list[str]:
        """Combinations of values that don't work, one message for each. Called only if each value is allowed by
        itself."""
        return []


def _problem(field: dataclasses.Field[Any], value: Any) -> str | None:
    check: Check | None = field.metadata.get(_ALLOWED)
    return None if check is None else check.problem(value)


def read_config(path: str | PathLike[str], schema: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML file.

    Args:
        path: The file.
        schema: A dataclass; fields without a default are required.
        overrides: "key=value" or "section.key=value", the value in YAML; they replace values of the file.

    Returns:
        An instance of `schema`.

    Raises:
        DataError: A key is unknown or missing, or a value has the wrong type or is out of range; the message lists all
            problems with their lines.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtra("pyyaml", "train", "reading YAML") from None
    path = Path(path)
    try:
        root = _compose(yaml, path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error}", str(path)) from None
    nodes = [(one, _compose(yaml, one.partition("=")[2], f"--set {one}", lines=False)) for one in overrides]
    if not isinstance(root, yaml.MappingNode):
        raise DataError("the file is empty" if root is None else "not a section with keys", str(path))
    reader = _Reader(yaml, str(path))
    for override, node in nodes:
        reader.put(root, override, node)
    config = reader.read(root, schema, "")
    if reader.problems:
        raise DataError("\n".join(reader.problems))
    assert isinstance(config, schema)
    return config


def _compose(yaml: Any, text: str, where: str, *, lines: bool = True) -> Any:
    """Parse YAML to nodes; the error names the line if `lines` is true."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if lines and mark is not None else ""
        raise DataError(f"not YAML: {getattr(error, 'problem', None) or error}", f"{where}{line}") from None


class _Reader:
    """Turns YAML nodes into values and collects the problems."""

    def __init__(self, yaml: Any, path: str) -> None:
        self.yaml, self.path = yaml, path
        self.problems: list[str] = []

    def wrong(self, node: Any, problem: str) -> None:
        """Record a problem with its line."""
        where = getattr(node, "override", None) or f"{self.path}:{node.start_mark.line + 1}"
        self.problems.append(f"{where}: {problem}")

    def put(self, root: Any, override: str, value: Any) -> None:
        """Set a value in the tree; missing parent sections are created."""
        where, (names, equals, _) = f"--set {override}", override.partition("=")
        if not equals or value is None:
            self.problems.append(f"{where}: write it as section.key=value")
            return
        self._mark(value, where)
        *sections, last = names.split(".")
        at = root
        for name in sections:
            if (inner := self._child(at, name)) is None:
                inner = self.yaml.MappingNode("tag:yaml.org,2002:map", [], value.start_mark, value.end_mark)
                self._set(at, name, inner, where)
            at = inner
            if not isinstance(at, self.yaml.MappingNode):
                self.problems.append(f"{where}: {name} is not a section")
                return
        self._set(at, last, value, where)

    def _child(self, node: Any, name: str) -> Any:
        return next((value for key, value in node.value if key.value == name), None)

    def _set(self, node: Any, name: str, value: Any, where: str) -> None:
        key = self.yaml.ScalarNode("tag:yaml.org,2002:str", name, value.start_mark, value.end_mark)
        key.override = value.override = where
        node.value = [pair for pair in node.value if pair[0].value != name] + [(key, value)]

    def _mark(self, node: Any, where: str) -> None:
        node.override = where
        for child in node.value if isinstance(node.value, list) else ():
            for part in child if isinstance(child, tuple) else (child,):
                self._mark(part, where)

    def read(self, node: Any, kind: Any, name: str) -> Any:
        """Convert a node to a type. If that fails, record a problem and return None."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if self._is_null(node) and type(None) in arguments:
                return None
            return self._one_of(node, [a for a in arguments if a is not type(None)], name)
        if dataclasses.is_dataclass(kind):
            return self._section(node, kind, name)
        if origin in (tuple, list):
            if not isinstance(node, self.yaml.SequenceNode):
                self.wrong(node, f"{name} must be a list")
                return None
            return tuple(self.read(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(node.value))
        if origin is dict:
            if not isinstance(node, self.yaml.MappingNode):
                self.wrong(node, f"{name} must be a mapping")
                return None
            return {
                key.value: self.read(value, arguments[1], f"{name}.{key.value}")
                for key, value in self._keys(node, name)
            }
        value = self._scalar(node)
        if not isinstance(node, self.yaml.ScalarNode):
            quotes = "; write text with a colon or brackets in quotes" if kind is str else ""
            self.wrong(node, f"{name} must be one value, got {value}{quotes}")
            return None
        if origin is typing.Literal:
            if value not in arguments:
                near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.wrong(node, f"{name} must be one of {', '.join(map(str, arguments))}, got {value!r}{hint}")
                return None
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind is float and isinstance(value, str):  # YAML reads 1e-5 as text
            try:
                return float(value)
            except ValueError:
                pass
        if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
            return value
        self.wrong(node, f"{name} must be {_NAMES.get(kind, kind.__name__)}, got {value!r}")
        return None

    def _one_of(self, node: Any, kinds: list[Any], name: str) -> Any:
        """Convert a node to the first type that fits: dataclasses for mappings, plain types for scalars."""
        mapping = isinstance(node, self.yaml.MappingNode)
        fitting = [k for k in kinds if dataclasses.is_dataclass(k) == mapping] or kinds
        for kind in fitting[:-1]:
            before = len(self.problems)
            value = self.read(node, kind, name)
            if len(self.problems) == before:
                return value
            del self.problems[before:]
        return self.read(node, fitting[-1], name)

    def _section(self, node: Any, kind: Any, name: str) -> Any:
        if not isinstance(node, self.yaml.MappingNode):
            self.wrong(node, f"{name or 'the file'} must be a section with keys, got {self._scalar(node)!r}")
            return None
        hints, known = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
        values: dict[str, Any] = {}
        before, prefix = len(self.problems), f"{name}." if name else ""
        for key, value in self._keys(node, name or "the file"):
            if key.value not in known:
                near = difflib.get_close_matches(str(key.value), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                self.wrong(key, f"unknown key {prefix}{key.value}; {hint}")
            elif key.value in values:
                self.wrong(key, f"{prefix}{key.value} is given twice")
            else:
                values[key.value] = self.read(value, hints[key.value], prefix + key.value)
                if problem := _problem(known[key.value], values[key.value]):
                    self.wrong(value, f"{prefix}{key.value} {problem}")
        no_default = dataclasses.MISSING
        for field in known.values():
            if field.name not in values and field.default is no_default and field.default_factory is no_default:
                self.wrong(node, f"{prefix}{field.name} is missing")
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except ValueError as error:
            for problem in str(error).splitlines():
                self.wrong(node, f"{prefix or 'the file'}{': ' if not prefix else ''}{problem}")
            return None

    def _keys(self, node: Any, name: str) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values of a mapping; record keys that aren't text, such as those of `{{template}}`, as
        problems.
        """
        for key, value in node.value:
            if isinstance(key, self.yaml.ScalarNode):
                yield key, value
            else:
                self.wrong(key, f"a key of {name} must be text, got {self._scalar(key)}")

    def _is_null(self, node: Any) -> bool:
        return getattr(node, "tag", "") == "tag:yaml.org,2002:null"

    def _scalar(self, node: Any) -> Any:
        if not isinstance(node, self.yaml.ScalarNode):
            return "a section" if isinstance(node, self.yaml.MappingNode) else "a list"
        try:
            return self.yaml.constructor.SafeConstructor().construct_object(node)
        except self.yaml.YAMLError:  # a tag that makes something other than a plain value
            return f"{node.tag} {node.value}"
