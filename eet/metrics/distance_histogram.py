"""Evaluation of Hamming rankings from counts: how many items, and how many matches, lie at each distance of a query.

The tie-aware average precision and the precision-recall curve need nothing else, so a gallery of any size can stream
by, and no (queries, items) table is ever held.

Shape suffixes: Q queries, N or n items, B bytes, H = bits + 1 distances (0 to bits).
"""

import numpy as np

# Bounds the temporary (queries, items) block to some tens of MB.
_PAIRS_AT_ONCE = 4_000_000


class DistanceHistograms:
    """Counts, for each query, the items and the matches at each Hamming distance.

    Args:
        query_codes: uint8 (Q, B), packed as `eet.hashing.pack` does.
        query_labels: integers (Q,).
        num_bits: bits of a code; B must be ceil(num_bits / 8).
        query_rows: integers (Q,), the row of each query in the gallery when queries are gallery items, so that no
            query is its own hit; None when the two are different.

    Attributes:
        total: int64 (Q, num_bits + 1), items at each distance.
        relevant: int64 (Q, num_bits + 1), items of the query's label at each distance.

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """

    def __init__(
        self,
        query_codes: np.ndarray,
        query_labels: np.ndarray,
        num_bits: int,
        *,
        query_rows: np.ndarray | None = None,
    ) -> None:
        check_codes(query_codes, query_labels, num_bits, "query")
        if query_rows is not None and np.shape(query_rows) != (len(query_codes),):
            raise ValueError(f"query_rows has shape {np.shape(query_rows)}; give one gallery row per query.")
        self.num_bits = num_bits
        self.total = np.zeros((len(query_codes), num_bits + 1), dtype=np.int64)
        self.relevant = np.zeros_like(self.total)
        self._signs_Qb = code_signs(query_codes, num_bits)
        self._labels_Q = np.asarray(query_labels)
        self._rows_Q = None if query_rows is None else np.asarray(query_rows)

    def add(self, gallery_codes: np.ndarray, gallery_labels: np.ndarray, first_row: int) -> None:
        """Count a run of gallery items.

        Args:
            gallery_codes: uint8 (n, B).
            gallery_labels: integers (n,).
            first_row: row of the first of them in the gallery; the others follow. Each row must be added once.

        Raises:
            ValueError: shapes or dtypes that do not fit together.
        """
        check_codes(gallery_codes, gallery_labels, self.num_bits, "gallery")
        gallery_labels = np.asarray(gallery_labels)
        for start in range(0, len(gallery_codes), _PAIRS_AT_ONCE // 64):
            stop = min(start + _PAIRS_AT_ONCE // 64, len(gallery_codes))
            signs_nb = code_signs(gallery_codes[start:stop], self.num_bits)
            step = max(1, _PAIRS_AT_ONCE // (stop - start))
            for q in range(0, len(self.total), step):
                queries = slice(q, q + step)
                distances = code_distances(self._signs_Qb[queries], signs_nb)
                relevant = self._labels_Q[queries, None] == gallery_labels[None, start:stop]
                counted = None
                if self._rows_Q is not None:
                    own = self._rows_Q[queries] - (first_row + start)
                    inside = np.flatnonzero((own >= 0) & (own < stop - start))
                    counted = (inside, own[inside])
                total, matches = count_distances(distances, relevant, self.num_bits, counted)
                self.total[queries] += total
                self.relevant[queries] += matches


def count_distances(
    distances_QN: np.ndarray,
    relevant_QN: np.ndarray,
    num_bits: int,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Histogram a block of distances.

    Args:
        distances_QN: integers in 0 to num_bits.
        relevant_QN: bool.
        num_bits: bits of a code.
        excluded: (rows, columns) of pairs that do not count, each pair once.

    Returns:
        total and relevant, int64 (Q, num_bits + 1).
    """
    num_queries, bins = len(distances_QN), num_bits + 1
    places = distances_QN + np.arange(num_queries, dtype=np.int32)[:, None] * np.int32(bins)
    total = np.bincount(places.ravel(), minlength=num_queries * bins)
    relevant = np.bincount(places[relevant_QN], minlength=num_queries * bins)
    if excluded is not None:
        np.subtract.at(total, places[excluded], 1)
        np.subtract.at(relevant, places[excluded], relevant_QN[excluded].astype(np.int64))
    return total.reshape(num_queries, bins), relevant.reshape(num_queries, bins)


def code_signs(packed_NB: np.ndarray, num_bits: int) -> np.ndarray:
    """The bits of packed codes as float32 (N, num_bits) in {-1, +1}, for `code_distances`."""
    return np.unpackbits(packed_NB, axis=1, count=num_bits).astype(np.float32) * 2 - 1


def code_distances(signs_Qb: np.ndarray, signs_Nb: np.ndarray) -> np.ndarray:
    """Hamming distances, int32 (Q, N), as (bits - inner product) / 2: exact, since float32 holds these integers."""
    products_QN = signs_Qb @ signs_Nb.T
    np.subtract(np.float32(signs_Qb.shape[1]), products_QN, out=products_QN)
    return (products_QN * np.float32(0.5)).astype(np.int32)


def check_codes(codes: np.ndarray, labels: np.ndarray, num_bits: int, side: str) -> None:
    """Raise ValueError unless `codes` are packed codes of `num_bits` bits and `labels` one integer for each."""
    width = -(-num_bits // 8)
    if num_bits < 1 or codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != width:
        raise ValueError(
            f"{side} codes are {codes.dtype} {codes.shape}; for num_bits={num_bits} give uint8 (N, {width}) with num_bits >= 1."
        )
    labels = np.asarray(labels)
    if labels.shape != (len(codes),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{side} labels are {labels.dtype} {labels.shape}; give one integer for each of {len(codes)} codes, "
            "and leave out items without a label."
        )


def expected_average_precision(total_QH: np.ndarray, relevant_QH: np.ndarray) -> np.ndarray:
    """Average precision of each query, expected over all orders inside each distance, from its histograms.

    The formula is the one of `eet.metrics.average_precision`, summed over the ranks of a group in closed form. With
    S = 1 / (N0 + 1) + ... + 1 / (N0 + n), a group of n items with r matches after N0 items with R0 matches adds

        r / n * ((R0 + 1) * S + (r - 1) / (n - 1) * (n - (N0 + 1) * S))

    Args:
        total_QH: counts of items by distance, as `DistanceHistograms.total`.
        relevant_QH: counts of matches by distance.

    Returns:
        float64 (Q,) in [0, 1]; NaN where a query has no match.

    Raises:
        ValueError: shapes that differ, or more matches than items at some distance.
    """
    total_QH, relevant_QH = _histograms(total_QH, relevant_QH)
    before_QH = np.cumsum(total_QH, axis=1) - total_QH
    relevant_before_QH = np.cumsum(relevant_QH, axis=1) - relevant_QH
    inverse_ranks_QH = _sum_of_inverses(before_QH, total_QH)
    slope_QH = (relevant_QH - 1) / np.maximum(total_QH - 1, 1)
    # n = 1 leaves (j - 1) = 0 for its only rank, which rounding in n - (N0 + 1) * S would not.
    offsets_QH = np.where(total_QH > 1, total_QH - (before_QH + 1) * inverse_ranks_QH, 0.0)
    gain_QH = (relevant_before_QH + 1) * inverse_ranks_QH + slope_QH * offsets_QH
    gain_QH *= relevant_QH / np.maximum(total_QH, 1)
    matches_Q = relevant_QH.sum(axis=1)
    return np.where(matches_Q > 0, gain_QH.sum(axis=1) / np.maximum(matches_Q, 1), np.nan)


def precision_recall_curve(total_QH: np.ndarray, relevant_QH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of taking everything within Hamming radius 0, 1, ... bits, counts pooled over queries.

    Queries without any match are left out.

    Args:
        total_QH: counts of items by distance, as `DistanceHistograms.total`.
        relevant_QH: counts of matches by distance.

    Returns:
        recall and precision, float64 (H,), by radius. Precision is NaN at radii within which no query finds anything,
        and both are NaN when no query has a match.

    Raises:
        ValueError: shapes that differ, or more matches than items at some distance.
    """
    total_QH, relevant_QH = _histograms(total_QH, relevant_QH)
    used = relevant_QH.sum(axis=1) > 0
    found_H = np.cumsum(relevant_QH[used].sum(axis=0)).astype(np.float64)
    taken_H = np.cumsum(total_QH[used].sum(axis=0)).astype(np.float64)
    undefined = np.full_like(found_H, np.nan)
    recall_H = np.divide(found_H, found_H[-1], out=undefined.copy(), where=found_H[-1:] > 0)
    precision_H = np.divide(found_H, taken_H, out=undefined, where=taken_H > 0)
    return recall_H, precision_H


def _histograms(total_QH: np.ndarray, relevant_QH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total_QH, relevant_QH = np.asarray(total_QH), np.asarray(relevant_QH)
    if total_QH.ndim != 2 or total_QH.shape != relevant_QH.shape or total_QH.shape[1] < 1:
        raise ValueError(f"histograms {total_QH.shape} and {relevant_QH.shape} must both be (queries, bits + 1).")
    if (relevant_QH > total_QH).any() or (relevant_QH < 0).any():
        raise ValueError("a distance has more matches than items, or fewer than none; give counts (total, relevant).")
    return total_QH, relevant_QH


# Up to here harmonic numbers are summed; beyond, the first left-out term of the expansion, 1 / (252 x^6), is < 2e-17.
_SUMMED = 256
_HARMONIC = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _SUMMED + 1))])


def _sum_of_inverses(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """1 / (start + 1) + ... + 1 / (start + count), without a loop.

    Far ranks use the difference of two expansions of the harmonic numbers with the logarithms joined in log1p, because
    the plain difference of two large harmonic numbers would lose the digits that n - (N0 + 1) * S needs.
    """
    end = start + count
    low = np.maximum(start, _SUMMED).astype(np.float64)
    high = np.maximum(end, _SUMMED).astype(np.float64)
    beyond = np.log1p((high - low) / low) + _tail(high) - _tail(low)
    return _HARMONIC[np.minimum(end, _SUMMED)] - _HARMONIC[np.minimum(start, _SUMMED)] + beyond


def _tail(x: np.ndarray) -> np.ndarray:
    return 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)
