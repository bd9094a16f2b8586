"""Collect problems of training data, so that one error lists all bad lines, or all unknown ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from lsr.errors import DataError

_LISTED = 20  # bad lines after which reading stops
_EXAMPLES = 5  # missing ids that are shown


class Problems:
    """The bad lines of a source.

    Args:
        name: The source, for messages.
        what: Noun for its lines ("examples").
    """

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._lines: list[str] = []

    def add(self, error: DataError) -> None:
        """Record a bad line.

        Raises:
            DataError: There are too many to continue.
        """
        self.replace([*self._lines, str(error)])

    def replace(self, lines: list[str]) -> None:
        """Record all bad lines so far; see `add`."""
        self._lines = lines
        if len(lines) >= _LISTED:
            raise DataError("\n  ".join([f"{_LISTED} bad lines; the rest was not read:", *lines[:_LISTED]]), self._name)

    def settle(self, count: int) -> None:
        """Raise the problems after all lines were read.

        Args:
            count: Number of good lines.

        Raises:
            DataError: There were bad lines, or no good lines.
        """
        if len(self._lines) == 1:
            raise DataError(self._lines[0])
        if self._lines:
            raise DataError("\n  ".join([f"{len(self._lines)} bad lines:", *self._lines]), self._name)
        if not count:
            raise DataError(f"there are no {self._what} in it", self._name)


@dataclass
class Missing:
    """Ids that a file should have but doesn't.

    Attributes:
        name: The file that should have the ids.
        what: Noun for the things with these ids ("documents").
        asked_by: The file that refers to the ids.
        mend: What the user can do about it.
    """

    name: str
    what: str
    asked_by: str
    mend: str = ""
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Record a missing id; it is counted once for each line that refers to it."""
        self.count += 1
        if len(self.first) < _EXAMPLES and name not in self.first:
            self.first.append(name)

    def settle(self) -> None:
        """Raise the problems after all ids were looked up.

        Raises:
            DataError: Ids were missing.
        """
        if self.count:
            shown = ", ".join(self.first) + (", …" if self.count > len(self.first) else "")
            mend = f"; {self.mend}" if self.mend else ""
            raise DataError(
                f"{self.count} {self.what} that {self.asked_by} refers to are not in it: {shown}{mend}", self.name
            )
