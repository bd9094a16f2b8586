"""All errors that a user can cause.

    LsrError                 base; the command line prints its message and exits with 1
    ├── DataError            a document, query, vector or file with a bad value: says file, line, value
    │   └── DoubledId        a document id that occurs twice
    ├── EncoderError         an encoder that can't be found, opened or used as asked
    │   └── MissingExtra     a package that belongs to an extra of lsr-search isn't installed
    ├── EncoderMismatch      query and index come from different encoders
    ├── OutputExists         the output exists and `overwrite` was not given
    ├── OutputError          the output can't be written: full disk, no permission
    │   └── IndexLocked      another process, or another object in this one, is writing this index
    ├── StorageError         object storage that can't be reached, read or written, or a damaged file there
    ├── TrainingError        training can't start or continue
    ├── ClusterError         a cluster that doesn't answer, lacks resources, or has lost a part of an index
    ├── RerankerError        a re-ranker that fails, or whose scores can't be used
    ├── ServerError          a server that can't be reached or refuses a request: key, limit, overload
    └── IndexFormatError     a folder that isn't an index, or has another format version
        └── CorruptIndex     a file of the index is missing, cut short or changed

Wrong arguments of a call, such as a negative k, are plain ValueError and TypeError.

A condition that changes results without being an error is a warning; the command line prints it as one line:

    LsrWarning               base, a UserWarning
    ├── CutTexts             texts are longer than the encoder reads, and are cut
    ├── GuessedEncoding      texts aren't in UTF-8, and don't declare their encoding
    ├── LeftOut              files of a folder can't be read, and are left out
    ├── NoTerms              texts have no term, and so match nothing
    └── CheckpointWarning    a checkpoint whose vectors depend on something other than the text
"""

from __future__ import annotations

from collections.abc import Sequence


class LsrError(Exception):
    """Base of all errors with a message for the user."""


class DataError(LsrError, ValueError):
    """A bad value in the input.

    Args:
        problem: What is wrong, with the value.
        where: The place of the error, such as file and line ("corpus.jsonl:17"); the message begins with it.
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.where = where


class DoubledId(DataError):
    """A document's id occurs twice, or is in the index already."""


class DataErrors:
    """Collects several DataErrors and raises them as one: the first 20 in full, and the number of the others.

        problems = DataErrors()
        with problems:
            measures = parse_measures(names)  # a DataError raised here is kept
        problems.settle()

    Attributes:
        count: Number of collected errors.
    """

    _LISTED = 20

    def __init__(self) -> None:
        self.count = 0
        self._first: list[DataError] = []

    def add(self, error: DataError) -> None:
        """Keep an error."""
        self.count += 1
        if self.count <= self._LISTED:
            self._first.append(error)

    def __enter__(self) -> DataErrors:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, DataError):
            self.add(error)
            return True
        return False

    def lines(self) -> list[str]:
        """The messages, and the number of further ones."""
        more = self.count - len(self._first)
        return [*map(str, self._first), *([f"and {more:,} more"] if more else [])]

    def settle(self, where: str = "", what: str = "problems") -> None:
        """Raise the collected errors, if there are any.

        Args:
            where: The place that all errors share, such as a file.
            what: Noun for the errors in the message ("bad lines").

        Raises:
            DataError: The only error, or all errors as one.
        """
        if self.count == 1:
            raise self._first[0]
        if self.count:
            raise DataError("\n  ".join([f"{self.count:,} {what}:", *self.lines()]), where)


class EncoderError(LsrError):
    """An encoder that can't be found, opened or used as asked."""


def install_hint(extra: str) -> str:
    """The command that installs an extra: from the package index, or from a checkout."""
    return f'pip install "lsr-search[{extra}]", or in a checkout pip install -e ".[{extra}]"'


class MissingExtra(EncoderError, ImportError):
    """A package that belongs to an extra isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed: {install_hint(extra)}")


class EncoderMismatch(LsrError, ValueError):
    """Query and index come from different encoders."""


class OutputExists(LsrError, FileExistsError):
    """The output exists already."""


class OutputError(LsrError):
    """The output can't be written."""


class IndexLocked(OutputError):
    """Another process is writing this index."""


class StorageError(LsrError):
    """Object storage can't be reached, read or written, or a file there is damaged."""


class TrainingError(LsrError):
    """Training can't start or continue."""


class ClusterError(LsrError):
    """A cluster doesn't answer, lacks resources, or has lost a part of an index."""


class RerankerError(LsrError):
    """A re-ranker fails, or gives scores that can't be used."""


class ServerError(LsrError):
    """A server can't be reached, or refuses a request."""


class IndexFormatError(LsrError):
    """A folder isn't an index, or has a format that this version doesn't read."""


class CorruptIndex(IndexFormatError):
    """A file of the index is missing, cut short or changed."""


class LsrWarning(UserWarning):
    """Base of all warnings: something changes results without being an error."""


class CutTexts(LsrWarning):
    """Texts are longer than the encoder reads, and their ends are lost."""


class LeftOut(LsrWarning):
    """Files of a folder can't be read, and are left out.

    Attributes:
        bad: A message about each file, "FILE: REASON", or "FILE:LINE: REASON" for rows of tables.
    """

    def __init__(self, message: str, bad: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.bad = list(bad)


class GuessedEncoding(LsrWarning):
    """Texts aren't in UTF-8 and don't declare their encoding: their letters may be wrong."""


class NoTerms(LsrWarning):
    """Texts have no term, and so match nothing."""


class UncommittedChanges(LsrWarning):
    """An index was closed with uncommitted changes, which are lost."""


class CheckpointWarning(LsrWarning):
    """A checkpoint's vectors depend on something other than the text."""
