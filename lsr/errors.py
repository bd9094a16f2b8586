"""Every error that the user can cause, in one place.

    LsrError                 base; the command line prints its message and exits with 1
    ├── DataError            a document, query, vector or file with a bad value: says file, line, value
    ├── EncoderError         an encoder that can't be found, opened or used as asked
    │   └── MissingExtra     a package that an extra of lsr-search brings is not installed
    ├── EncoderMismatch      query and index come from different encoders
    ├── OutputExists         the output is there already and `overwrite` was not given
    ├── OutputError          the output can't be written: full disk, no permission, another writer
    ├── TrainingError        training can't start or go on
    └── IndexFormatError     a folder that is no index, or one of another format version
        └── CorruptIndex     a file of the index is missing, cut short or changed

Wrong arguments of a call (a negative k, say) are plain ValueError and TypeError.
"""

from __future__ import annotations


class LsrError(Exception):
    """Base of all errors that carry a message meant for the user."""


class DataError(LsrError, ValueError):
    """A bad value in the input.

    Args:
        problem: What is wrong, with the value.
        where: File and line, or the like ("corpus.jsonl:17"); put in front of the problem.
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.where = where


class EncoderError(LsrError):
    """An encoder that can't be found, opened or used as asked."""


class MissingExtra(EncoderError, ImportError):
    """A package is missing that one of the extras brings."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs the package {package}, which is not installed: pip install "lsr-search[{extra}]"'
        )


class EncoderMismatch(LsrError, ValueError):
    """Query and index come from different encoders."""


class OutputExists(LsrError, FileExistsError):
    """The output is there already."""


class OutputError(LsrError):
    """The output can't be written."""


class TrainingError(LsrError):
    """Training can't start or go on."""


class IndexFormatError(LsrError):
    """A folder that is no index, or an index of another format version."""


class CorruptIndex(IndexFormatError):
    """A file of the index is missing, cut short or changed."""
