"""Recall of a search by cosine between places, where a match is near. Base models are evaluated so when they are trained on places.

Shape suffixes: Q queries, N items, t queries of a block, D width.
"""

from collections.abc import Sequence

import numpy as np

from eet.metrics.intervals import means_with_intervals
from eet.metrics.nearby import Positions, nearby

QUERIES_AT_ONCE = 256


def place_recall(
    queries_QD: np.ndarray,
    items_ND: np.ndarray,
    query_places: Positions,
    item_places: Positions,
    *,
    metres: float,
    ks: Sequence[int],
    same_images: bool = False,
) -> dict[str, float]:
    """Share of the queries that have a match among their first k items, over the queries that have a match at all.

    Of equal similarities the item with the lower row comes first.

    Args:
        queries_QD: floating, unit length.
        items_ND: likewise.
        query_places: of the queries.
        item_places: of the items.
        metres: items within this distance of a query, in its zone, are its matches.
        ks: numbers of first items, from 1.
        same_images: items are the queries, row by row: then no query finds itself.

    Returns:
        "recall@k" for each of ks, in [0, 1], with the bounds of their 95 % confidence intervals; "queries", the number in the means, and
        "queries_without_relevant". Recall is NaN if no query has a match.
    """
    matches = nearby(query_places, item_places, metres=metres)
    own = int(same_images)
    rows = np.flatnonzero(matches.counts_Q - own * query_places.known_N > 0)
    best_rank = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        block = rows[start : start + QUERIES_AT_ONCE]
        similarities_tN = queries_QD[block] @ items_ND.T
        if same_images:
            similarities_tN[np.arange(len(block)), block] = -np.inf  # the last one, and no match
        order_tN = np.argsort(-similarities_tN, axis=1, kind="stable")
        for place, (row, order_N) in enumerate(zip(block.tolist(), order_tN, strict=True), start):
            best_rank[place] = np.isin(order_N, matches.of(row) if not same_images else np.setdiff1d(matches.of(row), row)).argmax()
    values = {f"recall@{k}": (best_rank < k).astype(np.float64) for k in ks}
    return {**means_with_intervals(values), "queries": len(rows), "queries_without_relevant": len(matches.list_Q) - len(rows)}
