"""All measures of a Hamming ranking of the whole gallery, over a set of queries, in blocks of queries."""

from collections.abc import Sequence

import numpy as np

from eet.metrics.distance_histogram import (
    check_codes,
    code_distances,
    code_signs,
    count_distances,
    expected_average_precision,
)


def ranked_metrics(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    gallery_codes: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    num_bits: int,
    query_rows: np.ndarray | None = None,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    block: int = 256,
) -> dict[str, float]:
    """Rank the whole gallery for every query by Hamming distance and average the measures over the queries.

    Ties stay in the order of gallery rows, except in mAP, which is the expected one over all orders inside ties. For
    galleries too large to rank, `DistanceHistograms` gives mAP alone. Memory is O(block * N).

    Args:
        query_codes, gallery_codes: uint8 (Q, B) and (N, B), packed as `eet.hashing.pack` does.
        query_labels, gallery_labels: integers (Q,) and (N,).
        num_bits: bits of a code.
        query_rows: integers (Q,), the row of each query in the gallery when queries are gallery items: a query is
            never its own hit. None when the two are different.
        ks: ranks for precision.
        recall_ks: ranks for recall (1 if any of the first k is a match).
        count_query: R-precision and MAP@R with R + 1 for R, the published form (see `eet.metrics.r_precision`).
        block: queries at once.

    Returns:
        "mAP", "mAP_stable", "P@k" for each of ks, "recall@k" for each of recall_ks, "R-precision", "MAP@R", all in
        [0, 1]; "queries", the number averaged over, and "queries_without_relevant", the number left out because the
        gallery holds no match for them. NaN measures when no query is left.

    Raises:
        ValueError: shapes or dtypes that do not fit together, query_rows outside the gallery, or k or block < 1.
    """
    check_codes(query_codes, query_labels, num_bits, "query")
    check_codes(gallery_codes, gallery_labels, num_bits, "gallery")
    if min([block, *ks, *recall_ks]) < 1:
        raise ValueError(f"ks={tuple(ks)}, recall_ks={tuple(recall_ks)}, block={block}; give numbers from 1.")
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    if query_rows is not None:
        query_rows = np.asarray(query_rows)
        if query_rows.shape != (len(query_codes),) or not np.all((query_rows >= 0) & (query_rows < len(gallery_codes))):
            raise ValueError(
                f"query_rows has shape {query_rows.shape} and must name, for each of {len(query_codes)} queries, "
                f"a row in 0 to {len(gallery_codes) - 1}."
            )

    names = ["mAP_stable", *(f"P@{k}" for k in ks), *(f"recall@{k}" for k in recall_ks), "R-precision", "MAP@R"]
    sums = dict.fromkeys(["mAP", *names], 0.0)
    used = 0
    signs_Nb = code_signs(gallery_codes, num_bits)
    # A 16-bit key makes numpy's stable sort a radix sort, several times faster than a sort of wider integers.
    key_type = np.uint16 if num_bits < np.iinfo(np.uint16).max else np.int32
    for start in range(0, len(query_codes), block):
        queries = slice(start, start + block)
        distances_QN = code_distances(code_signs(query_codes[queries], num_bits), signs_Nb)
        relevant_QN = query_labels[queries, None] == gallery_labels[None]
        own = None
        if query_rows is not None:
            own = (np.arange(len(distances_QN)), query_rows[queries])
        expected_Q = expected_average_precision(*count_distances(distances_QN, relevant_QN, num_bits, own))
        if own is not None:
            # Behind everything and no match: the query then changes no rank and no count.
            distances_QN[own] = num_bits + 1
            relevant_QN[own] = False
        keys_QN = distances_QN.astype(key_type)
        for q in np.flatnonzero(relevant_QN.any(axis=1)):
            hit_ranks = np.flatnonzero(relevant_QN[q, np.argsort(keys_QN[q], kind="stable")]) + 1
            values = _measures(hit_ranks, ks, recall_ks, count_query)
            sums["mAP"] += float(expected_Q[q])
            for name, value in zip(names, values, strict=True):
                sums[name] += value
            used += 1
    means = {name: value / used if used else float("nan") for name, value in sums.items()}
    return {**means, "queries": used, "queries_without_relevant": len(query_codes) - used}


def _measures(hit_ranks: np.ndarray, ks: Sequence[int], recall_ks: Sequence[int], count_query: bool) -> list[float]:
    """The measures of one query, in the order of `names` above, from the ranks (from 1, ascending) of its matches."""
    precision_at_hits = np.arange(1, len(hit_ranks) + 1) / hit_ranks
    r = len(hit_ranks) + count_query
    hits_in_r = int(np.searchsorted(hit_ranks, r, side="right"))
    return [
        float(precision_at_hits.mean()),
        *(float(np.searchsorted(hit_ranks, k, side="right") / k) for k in ks),
        *(float(hit_ranks[0] <= k) for k in recall_ks),
        hits_in_r / r,
        float(precision_at_hits[:hits_in_r].sum() / r),
    ]
