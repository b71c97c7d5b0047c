"""All measures of a ranking by cosine, where a set of embedded images is its own gallery. Base models are evaluated so.

Shape suffixes: N images, D width, T queries of a block, m matches of a query, G groups of equal similarity.
"""

from collections.abc import Sequence

import numpy as np

from eet.errors import InputError
from eet.metrics.intervals import means_with_intervals
from eet.metrics.measures import measures_of_groups
from eet.metrics.tie_groups import TieGroups, check_ranks

QUERIES_AT_ONCE = 256  # their similarities to 60,000 images take 60 MB


def cosine_metrics(
    embeddings_ND: np.ndarray,
    labels_N: np.ndarray,
    *,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
) -> dict[str, float]:
    """Rank all other images for every image by cosine and average the measures over the images.

    Every measure is the mean over random order inside ties, that is, among images of exactly equal similarity. There is no N x N table in
    memory, and only the matches are sorted: the rank of an image is a count.

    Args:
        embeddings_ND: floating, finite, no row all zeros; this function scales them to unit length.
        labels_N: integers (N,).
        ks: ranks k, from 1, for precision.
        recall_ks: ranks k, from 1, for recall (1 if any of the first k is a match).
        count_query: R-precision and MAP@R with R + 1 for R, the published form (see `eet.metrics.r_precision`).

    Returns:
        "mAP", "P@k" for each of ks, "recall@k" for each of recall_ks, "R-precision", "MAP@R", all in [0, 1], and the bounds of their 95 %
        confidence intervals, "mAP_low", "mAP_high" and so on; "queries", the number of images in the means, and
        "queries_without_relevant", the number of images whose label no other image has. The measures are NaN if no query is left.

    Raises:
        InputError: shapes that do not fit together, a row that is zero or not finite, or k < 1.
    """
    check_ranks(ks, recall_ks)
    embeddings_ND, labels_N = np.asarray(embeddings_ND, np.float32), np.asarray(labels_N)
    if embeddings_ND.ndim != 2 or labels_N.shape != (len(embeddings_ND),):
        raise InputError(f"embeddings {embeddings_ND.shape} and labels {labels_N.shape} must be (N, D) and (N,).")
    lengths_N = np.linalg.norm(embeddings_ND, axis=1)
    if not (np.isfinite(lengths_N) & (lengths_N > 0)).all():
        wrong = int(np.argmin(np.isfinite(lengths_N) & (lengths_N > 0)))
        raise InputError(f"the embedding in row {wrong} is zero or not finite, so it has no cosine.")
    units_ND = embeddings_ND / lengths_N[:, None]
    rows_of = {label: np.flatnonzero(labels_N == label) for label in np.unique(labels_N).tolist()}
    blocks: list[dict[str, np.ndarray]] = []
    for start in range(0, max(len(units_ND), 1), QUERIES_AT_ONCE):
        similarities_TN = units_ND[start : start + QUERIES_AT_ONCE] @ units_ND.T
        counted, num_relevant = [], []
        for row, similarities_N in enumerate(similarities_TN, start):
            matches = rows_of[labels_N[row].item()]
            matches = matches[matches != row]
            similarities_N[row] = -np.inf  # the query is last, so it is in no count of items before a match
            if len(matches):
                counted.append(_group_counts(similarities_N, matches))
                num_relevant.append(len(matches))
        groups = _padded(counted)
        blocks.append(measures_of_groups(groups, np.array(num_relevant, np.int64), ks=ks, recall_ks=recall_ks, count_query=count_query))
    values = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    used = len(values["mAP"])
    return {**means_with_intervals(values), "queries": used, "queries_without_relevant": len(units_ND) - used}


def _group_counts(similarities_N: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Counts for each group of equal similarity that holds one of the rows `matches`, by descending similarity.

    Returns:
        int64 (3, G): items before the group, items in it, and matches in it.
    """
    values_G, matches_G = np.unique(similarities_N[matches], return_counts=True)
    # Number of items larger than each value, and of items at least as large.
    larger_G, no_less_G = (
        len(similarities_N) - np.cumsum(np.bincount(np.searchsorted(values_G, similarities_N, side=side), minlength=len(values_G) + 1))[:-1]
        for side in ("left", "right")
    )
    return np.stack([larger_G, no_less_G - larger_G, matches_G])[:, ::-1]


def _padded(counted: list[np.ndarray]) -> TieGroups:
    """Groups of several queries, from the counts that `_group_counts` returns for each of them."""
    counts_3QG = np.zeros((3, len(counted), max((counts.shape[1] for counts in counted), default=1)), np.int64)
    for query, counts in enumerate(counted):
        counts_3QG[:, query, : counts.shape[1]] = counts
    before_QG, total_QG, matches_QG = counts_3QG
    return TieGroups(before_QG, total_QG, np.cumsum(matches_QG, axis=1) - matches_QG, matches_QG)
