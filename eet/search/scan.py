"""The compiled loops of Hamming search on a CPU: one pass over the codes, then the ranking of the candidates.

Importing this module imports numba. A function is compiled when it is first called (some seconds) and cached on disk next to this file if
possible; a function that closed over another would be compiled again in each process.

The argument `offsets` (U + 1,): the items of code u are rows_N[offsets[u] : offsets[u + 1]], ascending. If it is empty, every code has one
item: rows_N[u], or item u if `rows_N` is empty too.

Shape suffixes: U codes, W words of a code, N items, T queries of a tile, B bytes of a code, R ranges, L lists.
"""

import numpy as np

from eet.compiled_loops import compiled
from eet.hashing.popcount import popcount
from eet.search.bit_planes import LANES, LIMIT_PLANES, VECTOR, codes_within, scratch_words, transpose

QUERIES_AT_ONCE = 64
"""Queries that share a pass over the codes: a block of codes stays in the first-level cache for all of them."""

_PLANES_FROM = 4  # queries: turning a block into bit planes costs as much as comparing it with a few
_BLOCK = 128  # codes compared one by one: with larger blocks, one near code would cause more codes to be compared again


@compiled(inline="always")
def distance_of(block, i, query_W):  # type: ignore[no-untyped-def]
    """The Hamming distance of code i of a block and a query."""
    distance = np.int64(0)
    for w in range(len(query_W)):
        distance += np.int64(popcount(block[i * len(query_W) + w] ^ query_W[w]))
    return distance


@compiled
def fill_planes(planes, flat_codes, words, start, size):  # type: ignore[no-untyped-def]
    """Turns the codes from `start` on, `size` of them and then zeros, into the bit planes of a block."""
    rows = 8 * flat_codes.itemsize
    for w in range(words):
        part = planes[w * 64 * LANES : w * 64 * LANES + rows * LANES]
        if rows == 64:
            for i in range(size):
                part[i] = flat_codes[(start + i) * words + w]
            part[size:] = 0
        else:
            pairs = size // 2
            for i in range(pairs):
                part[i] = np.uint64(flat_codes[start + 2 * i]) | (np.uint64(flat_codes[start + 2 * i + 1]) << np.uint64(32))
            part[pairs:] = 0
            if size % 2:
                part[pairs] = np.uint64(flat_codes[start + size - 1])
        transpose(part, rows)


@compiled
def set_limit(limit_planes, t, limit):  # type: ignore[no-untyped-def]
    """The bits of a query's limit, in the form of `codes_within`."""
    for i in range(LIMIT_PLANES):
        limit_planes[t * LIMIT_PLANES + i] = ~np.uint64(0) if (limit >> i) & 1 else np.uint64(0)


@compiled
def near_places(near, column, rows, size, places, count):  # type: ignore[no-untyped-def]
    """Writes the positions in a block that `codes_within` found to places[count :]; returns the new count."""
    for v in range(VECTOR):
        word = near[v]
        while word:
            bit = np.int64(popcount((word & (~word + np.uint64(1))) - np.uint64(1)))
            word &= word - np.uint64(1)
            place = (bit % rows) * LANES + column + v
            if rows == 32:
                place = 2 * place + bit // 32
            if place < size:
                places[count] = place
                count += 1
    return count


@compiled
def nearest(codes_UW, offsets, queries_TW, k, num_bits, most, ranges_R2):  # type: ignore[no-untyped-def]
    """The candidates of some queries, as (starts, codes, distances): those of query t are codes[starts[t] : starts[t + 1]], in any order.

    They are all codes in the ranges ranges_R2[r, 0] .. ranges_R2[r, 1] that lie within the smallest radius that holds k items, or within a
    distance of `most` if that is less.
    """
    words = codes_UW.shape[1]
    flat_codes = codes_UW.reshape(-1)
    num_queries = len(queries_TW)
    grouped = len(offsets) > 0
    most = min(most, num_bits)
    radius = np.full(num_queries, most, np.int64)
    within = np.zeros(num_queries, np.int64)
    counts = np.zeros((num_queries, num_bits + 1), np.int64)
    found = np.zeros(num_queries, np.int64)
    capacity = 4096
    found_codes = np.empty((num_queries, capacity), np.int64)
    found_distances = np.empty((num_queries, capacity), np.uint16)
    in_planes = num_queries >= _PLANES_FROM
    rows = 8 * codes_UW.itemsize
    block_size = 64 * LANES if in_planes else _BLOCK
    planes, scratch = np.empty(words * 64 * LANES, np.uint64), np.empty(scratch_words(num_bits), np.uint64)
    near_words, places = np.empty(VECTOR, np.uint64), np.empty(block_size, np.int64)
    flips = np.zeros((num_queries + 1) * num_bits, np.uint64)  # zeros after the last query's
    limit_planes = np.zeros(num_queries * LIMIT_PLANES, np.uint64)
    for t in range(num_queries if in_planes else 0):
        for bit in range(num_bits):
            if (np.uint64(queries_TW[t, bit // rows]) >> np.uint64(bit % rows)) & np.uint64(1):
                flips[t * num_bits + bit] = ~np.uint64(0)
        set_limit(limit_planes, t, most)
    for r in range(len(ranges_R2)):
        for start in range(ranges_R2[r, 0], ranges_R2[r, 1], block_size):
            size = min(block_size, ranges_R2[r, 1] - start)
            block = flat_codes[start * words : (start + size) * words]
            if in_planes:
                fill_planes(planes, flat_codes, words, start, size)
            for t in range(num_queries):
                limit = radius[t]
                # Near codes, mostly none, are compared again below.
                near = 0
                if in_planes:
                    for column in range(0, LANES, VECTOR):
                        if codes_within(planes, column, num_bits, flips, t * num_bits, limit_planes, t * LIMIT_PLANES, scratch, near_words):
                            near = near_places(near_words, column, rows, size, places, near)
                elif words == 1:
                    query = queries_TW[t, 0]
                    for i in range(size):
                        near += np.int64(popcount(block[i] ^ query)) <= limit
                elif words == 2:
                    low, high = queries_TW[t, 0], queries_TW[t, 1]
                    for i in range(size):
                        near += np.int64(popcount(block[2 * i] ^ low) + popcount(block[2 * i + 1] ^ high)) <= limit
                else:
                    for i in range(size):
                        near += distance_of(block, i, queries_TW[t]) <= limit
                if near == 0:
                    continue
                if found[t] + near > capacity:
                    # First drop candidates outside the radius, which has shrunk; enlarge the arrays only if that is not enough.
                    kept = 0
                    for i in range(found[t]):
                        if found_distances[t, i] <= limit:
                            found_codes[t, kept] = found_codes[t, i]
                            found_distances[t, kept] = found_distances[t, i]
                            kept += 1
                    found[t] = kept
                    if kept + near > capacity:
                        more = max(2 * capacity, kept + near)
                        wider_codes = np.empty((num_queries, more), np.int64)
                        wider_distances = np.empty((num_queries, more), np.uint16)
                        wider_codes[:, :capacity] = found_codes
                        wider_distances[:, :capacity] = found_distances
                        found_codes, found_distances, capacity = wider_codes, wider_distances, more
                last = found[t]
                inside = within[t]
                for n in range(near if in_planes else size):
                    i = places[n] if in_planes else n
                    distance = distance_of(block, i, queries_TW[t])
                    if distance <= limit:
                        found_codes[t, last] = start + i
                        found_distances[t, last] = distance
                        last += 1
                        items = offsets[start + i + 1] - offsets[start + i] if grouped else 1
                        counts[t, distance] += items
                        inside += items
                        while limit > 0 and inside - counts[t, limit] >= k:
                            inside -= counts[t, limit]
                            limit -= 1
                if in_planes and limit < radius[t]:
                    set_limit(limit_planes, t, limit)
                found[t], within[t], radius[t] = last, inside, limit
    starts = np.zeros(num_queries + 1, np.int64)
    for t in range(num_queries):
        kept = 0
        for i in range(found[t]):
            kept += found_distances[t, i] <= radius[t]
        starts[t + 1] = starts[t] + kept
    all_codes = np.empty(starts[-1], np.int64)
    all_distances = np.empty(starts[-1], np.uint16)
    for t in range(num_queries):
        place = starts[t]
        for i in range(found[t]):
            if found_distances[t, i] <= radius[t]:
                all_codes[place] = found_codes[t, i]
                all_distances[place] = found_distances[t, i]
                place += 1
    return starts, all_codes, all_distances


@compiled
def nearest_in_lists(codes_UW, offsets, queries_TW, k, num_bits, most, centroids_LW, list_starts, probes):  # type: ignore[no-untyped-def]
    """`nearest` over codes in lists: each query searches the `probes` lists whose centroids are nearest to it, ties by list number.

    List l is codes_UW[list_starts[l] : list_starts[l + 1]].
    """
    whole = np.array([[0, len(centroids_LW)]])
    firsts, lists, list_distances = nearest(centroids_LW, np.empty(0, np.int64), queries_TW, probes, num_bits, num_bits, whole)
    starts = np.zeros(len(queries_TW) + 1, np.int64)
    capacity = 4096
    all_codes, all_distances = np.empty(capacity, np.int64), np.empty(capacity, np.uint16)
    for t in range(len(queries_TW)):
        near = slice(firsts[t], firsts[t + 1])
        # The nearest list first, so that the radius shrinks soon.
        keys = list_distances[near].astype(np.int64) * len(centroids_LW) + lists[near]
        probed = lists[near][np.argsort(keys)[:probes]]
        ranges_R2 = np.empty((len(probed), 2), np.int64)
        ranges_R2[:, 0], ranges_R2[:, 1] = list_starts[probed], list_starts[probed + 1]
        _, codes, distances = nearest(codes_UW, offsets, queries_TW[t : t + 1], k, num_bits, most, ranges_R2)
        end = starts[t] + len(codes)
        if end > capacity:
            capacity = 2 * end
            more_codes, more_distances = np.empty(capacity, np.int64), np.empty(capacity, np.uint16)
            more_codes[: starts[t]] = all_codes[: starts[t]]
            more_distances[: starts[t]] = all_distances[: starts[t]]
            all_codes, all_distances = more_codes, more_distances
        all_codes[starts[t] : end] = codes
        all_distances[starts[t] : end] = distances
        starts[t + 1] = end
    return starts, all_codes[: starts[-1]], all_distances[: starts[-1]]


@compiled
def sift_down(rows, members, size, place):  # type: ignore[no-untyped-def]
    """Restores a min-heap of `size` rows whose entry at `place` may be too large; `members` are moved with the rows."""
    while True:
        child = 2 * place + 1
        if child >= size:
            return
        if child + 1 < size and rows[child + 1] < rows[child]:
            child += 1
        if rows[place] <= rows[child]:
            return
        rows[place], rows[child] = rows[child], rows[place]
        members[place], members[child] = members[child], members[place]
        place = child


@compiled
def rank(codes_UW, offsets, rows_N, tables_TB256, starts, codes, distances, out_starts, out_distances, out_scores, out_rows):  # type: ignore[no-untyped-def]
    """Ranks the candidates of `nearest` by distance, then asymmetric score (0 without tables), then row.

    Writes the first out_starts[t + 1] - out_starts[t] items of query t into out_distances, out_scores and out_rows, from out_starts[t] on.
    """
    grouped = len(offsets) > 0
    num_bytes = tables_TB256.shape[1]
    word_bytes = codes_UW.itemsize
    for t in range(len(starts) - 1):
        first, count = starts[t], starts[t + 1] - starts[t]
        keys = np.empty(count, np.int64)
        penalties = np.zeros(count, np.float32)
        if len(tables_TB256):
            for i in range(count):
                score = np.float32(0)
                for b in range(num_bytes):
                    word = np.uint64(codes_UW[codes[first + i], b // word_bytes])
                    score += tables_TB256[t, b, np.int64((word >> np.uint64(8 * (b % word_bytes))) & np.uint64(255))]
                penalties[i] = np.float32(0) - score
        # An integer that rises with the penalty, like the bits of a float after those of negative values are inverted.
        bits = penalties.view(np.int32)
        for i in range(count):
            rising = np.int64(bits[i]) if bits[i] >= 0 else -(np.int64(bits[i]) & np.int64(0x7FFFFFFF))
            keys[i] = (np.int64(distances[first + i]) << np.int64(33)) + rising
        order = np.argsort(keys, kind="mergesort")  # ties are ordered below
        filled, last, place = out_starts[t], out_starts[t + 1], 0
        while filled < last and place < count:
            end = place + 1
            while end < count and keys[order[end]] == keys[order[place]]:
                end += 1
            distance = np.int32(distances[first + order[place]])
            score = np.float32(0) - penalties[order[place]]
            if not grouped:
                rows = codes[first + order[place:end]]
                if len(rows_N):
                    for i in range(len(rows)):
                        rows[i] = rows_N[rows[i]]
                rows.sort()
                for i in range(min(len(rows), last - filled)):
                    out_distances[filled] = distance
                    out_scores[filled] = score
                    out_rows[filled] = rows[i]
                    filled += 1
            elif end == place + 1:
                code = codes[first + order[place]]
                for item in range(offsets[code], min(offsets[code + 1], offsets[code] + last - filled)):
                    out_distances[filled] = distance
                    out_scores[filled] = score
                    out_rows[filled] = rows_N[item]
                    filled += 1
            else:
                # The rows of each code ascend: merge them up to k rows.
                size = end - place
                heap_rows = np.empty(size, np.int64)
                members = np.arange(size)
                following = np.empty(size, np.int64)
                ends = np.empty(size, np.int64)
                for i in range(size):
                    code = codes[first + order[place + i]]
                    following[i], ends[i] = offsets[code], offsets[code + 1]
                    heap_rows[i] = rows_N[following[i]]
                for i in range(size // 2 - 1, -1, -1):
                    sift_down(heap_rows, members, size, i)
                while size > 0 and filled < last:
                    out_distances[filled] = distance
                    out_scores[filled] = score
                    out_rows[filled] = heap_rows[0]
                    filled += 1
                    member = members[0]
                    following[member] += 1
                    if following[member] < ends[member]:
                        heap_rows[0] = rows_N[following[member]]
                    else:
                        size -= 1
                        heap_rows[0], members[0] = heap_rows[size], members[size]
                    sift_down(heap_rows, members, size, 0)
            place = end
