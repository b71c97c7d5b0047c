"""The compiled loops of `match_counts` and `match_ranks`. Importing this module imports numba.

Shape suffixes: N items, T queries of a block, W words of a code, H = bits + 1 distances.
"""

import numpy as np
from numba import njit

from eet.hashing.popcount import popcount


@njit(nogil=True, cache=True)
def count(queries_TW, labels_T, rows_T, codes_NW, labels_N, total_TH, relevant_TH):  # type: ignore[no-untyped-def]
    """Adds the items and matches at each distance to total_TH and relevant_TH. rows_T: the row of the query itself, or -1."""
    words = codes_NW.shape[1]
    for t in range(len(queries_TW)):
        for row in range(len(codes_NW)):
            if row == rows_T[t]:
                continue
            distance = np.int64(0)
            for w in range(words):
                distance += np.int64(popcount(codes_NW[row, w] ^ queries_TW[t, w]))
            total_TH[t, distance] += 1
            if labels_N[row] == labels_T[t]:
                relevant_TH[t, distance] += 1


@njit(nogil=True, cache=True)
def scan(queries_TW, labels_T, rows_T, codes_NW, labels_N, starts, total_TH, relevant_TH, ranks):  # type: ignore[no-untyped-def]
    """Writes the ranks of the matches of query t, in the order of rows, into ranks[starts[t] :].

    Adds the items and matches at each distance to total_TH and relevant_TH. rows_T: the row of the query itself, or -1.

    Returns:
        The number of ranks written for each query, int64 (T,).
    """
    words = codes_NW.shape[1]
    written = np.zeros(len(queries_TW), np.int64)
    for t in range(len(queries_TW)):
        first, last = starts[t], starts[t]
        distances = np.empty(starts[t + 1] - first, np.int64)
        for row in range(len(codes_NW)):
            if row == rows_T[t]:
                continue
            distance = np.int64(0)
            for w in range(words):
                distance += np.int64(popcount(codes_NW[row, w] ^ queries_TW[t, w]))
            if labels_N[row] == labels_T[t]:
                distances[last - first] = distance
                ranks[last] = total_TH[t, distance]
                relevant_TH[t, distance] += 1
                last += 1
            total_TH[t, distance] += 1
        before = 0
        nearer = np.empty(total_TH.shape[1], np.int64)
        for radius in range(total_TH.shape[1]):
            nearer[radius] = before
            before += total_TH[t, radius]
        for place in range(first, last):
            ranks[place] += nearer[distances[place - first]] + 1
        written[t] = last - first
    return written
