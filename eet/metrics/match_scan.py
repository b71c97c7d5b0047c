"""The compiled loops of `match_counts` and `match_ranks`. Importing this module imports numba.

Shape suffixes: N items, T queries of a block, W words of a code, H = bits + 1 distances.
"""

import numpy as np

from eet.compiled_loops import compiled
from eet.hashing.popcount import popcount


@compiled(inline="always")
def hamming(one_W, other_W):  # type: ignore[no-untyped-def]
    """The distance of two codes."""
    distance = np.int64(0)
    for w in range(len(one_W)):
        distance += np.int64(popcount(one_W[w] ^ other_W[w]))
    return distance


@compiled
def count(queries_TW, first_T, last_T, matches_M, rows_T, codes_NW, total_TH, relevant_TH):  # type: ignore[no-untyped-def]
    """Adds the items and matches at each distance to total_TH and relevant_TH.

    The matches of query t are the rows matches_M[first_T[t] : last_T[t]], ascending. rows_T: the row of the query itself, or -1.
    """
    for t in range(len(queries_TW)):
        place = first_T[t]
        for row in range(len(codes_NW)):
            is_match = place < last_T[t] and matches_M[place] == row
            place += is_match
            if row == rows_T[t]:
                continue
            distance = hamming(codes_NW[row], queries_TW[t])
            total_TH[t, distance] += 1
            relevant_TH[t, distance] += is_match


@compiled
def scan(queries_TW, first_T, last_T, matches_M, rows_T, codes_NW, starts, total_TH, relevant_TH, ranks):  # type: ignore[no-untyped-def]
    """Writes the ranks of the matches of query t, in the order of rows, into ranks[starts[t] :].

    Matches and counts are as of `count`.

    Returns:
        The number of ranks written for each query, int64 (T,).
    """
    written = np.zeros(len(queries_TW), np.int64)
    for t in range(len(queries_TW)):
        first, last = starts[t], starts[t]
        distances = np.empty(starts[t + 1] - first, np.int64)
        place = first_T[t]
        for row in range(len(codes_NW)):
            is_match = place < last_T[t] and matches_M[place] == row
            place += is_match
            if row == rows_T[t]:
                continue
            distance = hamming(codes_NW[row], queries_TW[t])
            if is_match:
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
        for found in range(first, last):
            ranks[found] += nearer[distances[found - first]] + 1
        written[t] = last - first
    return written
