"""RowCache: what was put is found, by this process and the next, whatever a kill left in the files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lsr.train.rows import RowCache

WIDTH = 3


def rows(key, n=2):
    return np.arange(n * WIDTH, dtype=np.float32).reshape(n, WIDTH) + key


def check(cache, *keys):
    for key in keys:
        assert np.array_equal(cache[key], rows(key))


@pytest.fixture
def filled(tmp_path):
    """The folder of a cache with three texts."""
    RowCache(tmp_path, WIDTH).put([(key, rows(key)) for key in (1, 2, 3)])
    return tmp_path


def test_what_was_put_is_found(filled):
    cache = RowCache(filled, WIDTH)
    check(cache, 1, 2, 3)
    assert 4 not in cache
    cache.put([(4, rows(4)), (5, rows(5, n=0))])
    check(cache, 4, 1)
    assert cache[5].shape == (0, WIDTH)
    check(RowCache(filled, WIDTH), 1, 2, 3, 4)


def test_the_first_of_two_is_kept(filled):
    cache = RowCache(filled, WIDTH)
    cache.put([(1, rows(7)), (4, rows(4)), (4, rows(4))])
    cache.put([])
    check(cache, 1, 2, 3, 4)
    assert (filled / "rows.bin").stat().st_size == 4 * 2 * WIDTH * 2
    check(RowCache(filled, WIDTH), 1, 2, 3, 4)


@pytest.mark.parametrize("lost", range(0, 60, 7))
@pytest.mark.parametrize("file", ["rows.bin", "places.bin"])
def test_a_file_that_was_cut(filled, file, lost):
    path = filled / file
    with path.open("r+b") as opened:
        opened.truncate(max(0, path.stat().st_size - lost))
    cache = RowCache(filled, WIDTH)
    left = [key for key in (1, 2, 3) if key in cache]
    assert left == [1, 2, 3][: len(left)]
    assert len(left) >= (3 - lost // 12 - 1 if file == "rows.bin" else 3 - lost // 24 - 1)
    check(cache, *left)
    cache.put([(key, rows(key)) for key in (1, 2, 3, 4)])
    check(cache, 1, 2, 3, 4)
    check(RowCache(filled, WIDTH), 1, 2, 3, 4)


def test_a_kill_between_rows_and_places(filled):
    code = f"""
import os, signal, sys
import numpy as np
from pathlib import Path
from lsr.train.rows import RowCache

cache = RowCache(Path(sys.argv[1]), {WIDTH})
opened = Path.open
Path.open = lambda path, *how: os.kill(os.getpid(), signal.SIGKILL) if path.name == "places.bin" else opened(path, *how)
cache.put([(9, np.ones((5, {WIDTH})))])
"""
    done = subprocess.run([sys.executable, "-c", code, str(filled)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (filled / "rows.bin").stat().st_size == (6 + 5) * WIDTH * 2
    cache = RowCache(filled, WIDTH)
    assert 9 not in cache
    cache.put([(4, rows(4))])
    check(RowCache(filled, WIDTH), 1, 2, 3, 4)


def test_a_write_that_failed_is_written_over(filled, monkeypatch):
    cache = RowCache(filled, WIDTH)
    opened = Path.open

    def full(path, *how):
        if path.name == "places.bin":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            cache.put([(9, rows(9))])
    assert 9 not in cache
    cache.put([(4, rows(4))])
    check(cache, 1, 2, 3, 4)
    check(RowCache(filled, WIDTH), 1, 2, 3, 4)


def test_keys_tell_texts_apart():
    assert len({RowCache.key(ids) for ids in ([], [0], [0, 0], [1, 2], [2, 1], [1, 2, 0])}) == 6
    assert RowCache.key([1, 2]) == RowCache.key((1, 2))
