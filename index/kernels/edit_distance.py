"""Edit distance of words: insertions, deletions, substitutions, and swaps of neighbours."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel


@kernel
def edit_distances(codes, offsets, word, most, found):
    """Compute the distances of many words from one word (optimal string alignment).

    Args:
        codes: (size,) int32, the code points of all words.
        offsets: (n + 1,) int64, start of each word, then the end of the last word.
        word: (m,) int32, the code points of the one word.
        most: Largest distance of interest, at most 254.
        found: (n,) uint8, receives the distances; most + 1 stands for larger ones.
    """
    m = len(word)
    rows = np.empty((3, m + 1), np.int64)
    for i in range(len(found)):
        begin, n = offsets[i], offsets[i + 1] - offsets[i]
        found[i] = most + 1
        if abs(n - m) > most:
            continue
        before, last, now = 0, 1, 2
        for j in range(m + 1):
            rows[last, j] = j
        least = np.int64(0)
        for a in range(1, n + 1):
            code = codes[begin + a - 1]
            rows[now, 0] = a
            least = np.int64(a)
            for j in range(1, m + 1):
                best = min(rows[last, j], rows[now, j - 1]) + 1
                best = min(best, rows[last, j - 1] + np.int64(code != word[j - 1]))
                if a > 1 and j > 1 and code == word[j - 2] and codes[begin + a - 2] == word[j - 1]:
                    best = min(best, rows[before, j - 2] + 1)
                rows[now, j] = best
                least = min(least, best)
            before, last, now = last, now, before
            if least > most:
                break
        if least <= most:
            found[i] = min(rows[last, m], most + 1)
