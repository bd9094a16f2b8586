"""What is wrong with training data, gathered: bad lines are listed together, and so are ids that lead nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from lsr.errors import DataError

_LISTED = 20  # bad lines after which reading stops
_EXAMPLES = 5  # missing ids that are shown


class Problems:
    """The bad lines of a source.

    Args:
        name: The source, for messages.
        what: What its lines hold ("examples").
    """

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._lines: list[str] = []

    def add(self, error: DataError) -> None:
        """Note a bad line.

        Raises:
            DataError: There are so many that reading on is no use.
        """
        self.replace([*self._lines, str(error)])

    def replace(self, lines: list[str]) -> None:
        """Note all bad lines so far; see `add`."""
        self._lines = lines
        if len(lines) >= _LISTED:
            raise DataError("\n  ".join([f"{_LISTED} bad lines, and read no further:", *lines[:_LISTED]]), self._name)

    def settle(self, count: int) -> None:
        """All is read.

        Args:
            count: How many good ones there were.

        Raises:
            DataError: There were bad lines, or nothing good at all.
        """
        if len(self._lines) == 1:
            raise DataError(self._lines[0])
        if self._lines:
            raise DataError("\n  ".join([f"{len(self._lines)} bad lines:", *self._lines]), self._name)
        if not count:
            raise DataError(f"there are no {self._what} in it", self._name)


@dataclass
class Missing:
    """Ids that a file should have and has not.

    Attributes:
        name: The file that was looked in.
        what: What was looked for ("documents").
        asked_by: The file that named them.
        mend: What a user may do about it.
    """

    name: str
    what: str
    asked_by: str
    mend: str = ""
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Note an id; one that is missing in several lines counts as often."""
        self.count += 1
        if len(self.first) < _EXAMPLES and name not in self.first:
            self.first.append(name)

    def settle(self) -> None:
        """All is looked up.

        Raises:
            DataError: Something was missing.
        """
        if self.count:
            shown = ", ".join(self.first) + (", …" if self.count > len(self.first) else "")
            mend = f"; {self.mend}" if self.mend else ""
            raise DataError(
                f"{self.count} {self.what} that {self.asked_by} names are not in it: {shown}{mend}", self.name
            )
