"""The disk cache of rows copes with several writers, incomplete writes and repeated texts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lsr.train.state_cache import RowCache


def _rows(key: int, width: int = 3) -> np.ndarray:
    """Rows whose values depend on their key."""
    return np.full((key % 4 + 1, width), key, np.float16)


def test_writers_of_one_folder_keep_each_others_rows(tmp_path: Path) -> None:
    """Caches append to the same files even if all of them were opened before the first write."""
    caches = [RowCache(tmp_path, 3) for _ in range(4)]

    def write(number: int) -> None:
        for first in range(0, 120, 6):
            some = range(first + number, first + number + 8)  # overlaps with the keys of the other caches
            caches[number].put((key, _rows(key)) for key in some)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = RowCache(tmp_path, 3)
    for key in range(125):
        assert key in found
        np.testing.assert_array_equal(found[key], _rows(key))
    for cache in caches:
        cache.put([(999, _rows(999))])
        for key in (*range(125), 999):
            np.testing.assert_array_equal(cache[key], _rows(key))
    assert (tmp_path / "places.bin").stat().st_size == 24 * 126


def test_a_cache_sees_rows_of_other_caches_after_it_writes(tmp_path: Path) -> None:
    """Reading takes no lock. A text that another cache has written meanwhile isn't written again."""
    first, second = RowCache(tmp_path, 3), RowCache(tmp_path, 3)
    first.put([(1, _rows(1))])
    assert 1 not in second
    second.put([(1, _rows(2)[:1]), (5, _rows(5))])
    np.testing.assert_array_equal(second[1], _rows(1))
    np.testing.assert_array_equal(second[5], _rows(5))


@pytest.mark.parametrize("cut", [1, 6, 24, 30])
def test_an_incomplete_write_is_cut_off(tmp_path: Path, cut: int) -> None:
    """After a kill, complete texts stay and new texts are appended to them."""
    RowCache(tmp_path, 3).put([(1, _rows(1)), (2, _rows(2))])
    places, rows = tmp_path / "places.bin", tmp_path / "rows.bin"
    for path, more in ((rows, b"\x01" * cut), (places, b"\x7f" * (cut % 24))):
        path.write_bytes(path.read_bytes() + more)
    found = RowCache(tmp_path, 3)
    found.put([(7, _rows(7))])
    for cache in (found, RowCache(tmp_path, 3)):
        for key in (1, 2, 7):
            np.testing.assert_array_equal(cache[key], _rows(key))


def test_offsets_beyond_the_rows_are_dropped(tmp_path: Path) -> None:
    """Texts whose rows were lost count as missing, so they are computed again."""
    RowCache(tmp_path, 3).put([(1, _rows(1)), (2, _rows(2))])
    rows = tmp_path / "rows.bin"
    rows.write_bytes(rows.read_bytes()[:-2])
    found = RowCache(tmp_path, 3)
    assert 1 in found
    assert 2 not in found
    found.put([(2, _rows(2))])
    np.testing.assert_array_equal(RowCache(tmp_path, 3)[2], _rows(2))


def test_a_text_without_rows_is_kept(tmp_path: Path) -> None:
    """A text may have no rows, even the first text of a cache."""
    cache = RowCache(tmp_path, 3)
    cache.put([(7, np.zeros((0, 3)))])
    assert cache[7].shape == (0, 3)
    assert RowCache(tmp_path, 3)[7].shape == (0, 3)
