"""Cache of an experiment's artifacts. The key of an artifact has the settings that determine its content, so a second
run makes only artifacts whose settings have changed.

CACHE/index-3f…/         the artifact, a file or a folder
CACHE/index-3f….json     its key, size and measurements; written last, so an artifact with this file is complete
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lsr.durable import sync_tree, take_name

Facts = dict[str, Any]


class Artifacts:
    """A folder of artifacts.

    Args:
        folder: The folder; made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, kind: str, key: Mapping[str, Any], make: Callable[[Path], Facts], suffix: str = ""
    ) -> tuple[Path, Facts, str]:
        """Get an artifact; make it if it isn't in the cache.

        Args:
            kind: Beginning of the artifact's name.
            key: Everything that determines the content, as a JSON object.
            make: Function that writes the artifact to a path and returns measurements. The remains of an interrupted
                attempt may be there.
            suffix: End of the artifact's name.

        Returns:
            The artifact's path, the measurements, and the digest of the key.
        """
        text = json.dumps(key, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path, sidecar = self._folder / f"{kind}-{name}{suffix}", self._folder / f"{kind}-{name}.json"
        try:
            known = json.loads(sidecar.read_bytes())
            size = _size(path)
            if known["key"] == json.loads(text) and path.exists() and known.get("bytes", size) == size:
                return path, known["facts"], name
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # not made yet, or incomplete
        sidecar.unlink(missing_ok=True)
        facts = make(path)
        sync_tree(path)
        partial = sidecar.with_name(sidecar.name + ".tmp")
        partial.write_text(
            json.dumps({"key": key, "bytes": _size(path), "facts": facts}, indent=1) + "\n", encoding="utf-8"
        )
        take_name(partial, sidecar)
        return path, facts, name


def _size(path: Path) -> int:
    """Size in bytes of a file, or of all files of a folder; 0 if it doesn't exist."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(path: Path) -> None:
    """Delete the remains of an interrupted attempt."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            digest.update(f"{file.relative_to(path)}\n".encode())
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
