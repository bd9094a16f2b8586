"""Keys of a server: who may read, and who may also write.

A key file has a line for each key, `reader KEY` or `writer KEY`; # starts a comment. Only hashes of keys are kept in
memory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lsr.errors import DataError

Role = Literal["reader", "writer"]
ENVIRONMENT = "LSR_KEYS"
_SHORTEST = 16
_LINE = re.compile(r"(reader|writer)\s+([!-~]+)")  # characters that a header can hold


class Keys:
    """The keys that a server accepts.

    Args:
        roles: {key: role}.
    """

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._roles = [(digest(key.encode()), role) for key, role in roles.items()]

    def role(self, key: bytes) -> Role | None:
        """Return a key's role, or None for an unknown key, in constant time."""
        mine, found = digest(key), None
        for known, role in self._roles:
            if hmac.compare_digest(known, mine):
                found = role
        return found

    def __len__(self) -> int:
        return len(self._roles)

    def __repr__(self) -> str:
        return f"Keys({len(self)})"

    @classmethod
    def parse(cls, text: str, where: str) -> Keys:
        """Parse keys.

        Args:
            text: The lines, separated by line breaks or commas.
            where: Name of the source, for messages.

        Raises:
            DataError: There are no keys, a line is malformed, or a key is too short. Messages never show keys.
        """
        roles: dict[str, Role] = {}
        wrong = []
        for number, line in enumerate(text.replace(",", "\n").splitlines(), start=1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                wrong.append(
                    f"{where}:{number}: a line must be 'reader KEY' or 'writer KEY', where KEY is printable ASCII "
                    "without spaces, commas or #"
                )
            elif len(match[2]) < _SHORTEST:
                wrong.append(
                    f"{where}:{number}: a key must have at least {_SHORTEST} characters; to make one: "
                    "openssl rand -hex 32"
                )
            else:
                roles[match[2]] = "writer" if "writer" in (match[1], roles.get(match[2])) else "reader"
        if not (roles or wrong):
            wrong.append(f"{where}: contains no key; a line must be 'reader KEY' or 'writer KEY'")
        if wrong:
            raise DataError("\n".join(wrong))
        return cls(roles)


def find_keys(path: Path | None) -> Keys | None:
    """Read the keys of a file, or of the environment variable LSR_KEYS; None if neither is given.

    Raises:
        DataError: As for `Keys.parse`, or the file can't be read.
    """
    if path is not None:
        try:
            return Keys.parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "the file isn't UTF-8 text"
            raise DataError(f"the keys can't be read: {why}", str(path)) from None
    text = os.environ.get(ENVIRONMENT)
    return None if text is None else Keys.parse(text, ENVIRONMENT)


def digest(key: bytes) -> bytes:
    """Return the hash of a key; keys themselves aren't kept."""
    return hashlib.sha256(key).digest()
