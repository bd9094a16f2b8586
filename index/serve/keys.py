"""Keys of a server: who may read, and who may write too.

A file has a line for each, `reader KEY` or `writer KEY`; # begins a comment. Only digests of keys are kept in memory.
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
_LINE = re.compile(r"(reader|writer)\s+([!-~]+)")  # what a header can hold


class Keys:
    """The keys that a server takes.

    Args:
        roles: {key: role}.
    """

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._roles = [(digest(key.encode()), role) for key, role in roles.items()]

    def role(self, key: bytes) -> Role | None:
        """What a key allows, None for one that isn't known; takes as long whichever it is."""
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
        """Read keys.

        Args:
            text: The lines; commas end one as well.
            where: What messages call it.

        Raises:
            DataError: None at all, a line that is none, a key that is too short; no message shows a key.
        """
        roles: dict[str, Role] = {}
        wrong = []
        for number, line in enumerate(text.replace(",", "\n").splitlines(), start=1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                wrong.append(f"{where}:{number}: a line is reader KEY or writer KEY, keys of plain characters")
            elif len(match[2]) < _SHORTEST:
                wrong.append(f"{where}:{number}: a key has at least {_SHORTEST} characters: openssl rand -hex 32")
            else:
                roles[match[2]] = "writer" if "writer" in (match[1], roles.get(match[2])) else "reader"
        if not (roles or wrong):
            wrong.append(f"{where}: there is no key in it; a line is reader KEY or writer KEY")
        if wrong:
            raise DataError("\n".join(wrong))
        return cls(roles)


def find_keys(path: Path | None) -> Keys | None:
    """The keys of a file, or of the environment variable LSR_KEYS; None if neither is given.

    Raises:
        DataError: As of `Keys.parse`, or the file can't be read.
    """
    if path is not None:
        try:
            return Keys.parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the keys can't be read: {error}", str(path)) from None
    text = os.environ.get(ENVIRONMENT)
    return None if text is None else Keys.parse(text, ENVIRONMENT)


def digest(key: bytes) -> bytes:
    """All that is kept of a key."""
    return hashlib.sha256(key).digest()
