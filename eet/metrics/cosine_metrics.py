"""All measures of a ranking by cosine: a set of embedded images as its own gallery, as base models are judged.

Shape suffixes: N images, D width, T queries of a block.
"""

from collections.abc import Sequence

import numpy as np

from eet.errors import InputError
from eet.metrics.ranked_metrics import check_ranks, measure_names, measures_of_ranks

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

    Ties stay in the order of rows. No table of N x N is held, and nothing is sorted but the matches: an image's rank is a count.

    Args:
        embeddings_ND: floating, finite, not all zero in a row; scaled to unit length here.
        labels_N: integers (N,).
        ks: ranks for precision.
        recall_ks: ranks for recall (1 if any of the first k is a match).
        count_query: R-precision and MAP@R with R + 1 for R, the published form (see `eet.metrics.r_precision`).

    Returns:
        "mAP", "P@k" for each of ks, "recall@k" for each of recall_ks, "R-precision", "MAP@R", all in [0, 1]; "queries", the number
        averaged over, and "queries_without_relevant", the images whose label no other has. NaN measures when no query is left.

    Raises:
        ValueError: shapes that do not fit together, a row without a direction, or k < 1.
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
    names = ["mAP", *measure_names(ks, recall_ks)]
    sums, used = np.zeros(len(names)), 0
    for start in range(0, len(units_ND), QUERIES_AT_ONCE):
        similarities_TN = units_ND[start : start + QUERIES_AT_ONCE] @ units_ND.T
        for row, similarities_N in enumerate(similarities_TN, start):
            matches = rows_of[labels_N[row].item()]
            matches = matches[matches != row]
            if not len(matches):
                continue
            similarities_N[row] = -np.inf
            sums += measures_of_ranks(_ranks(similarities_N, matches), ks, recall_ks, count_query)
            used += 1
    means = {name: total / used if used else float("nan") for name, total in zip(names, sums.tolist(), strict=True)}
    return {**means, "queries": used, "queries_without_relevant": len(units_ND) - used}


def _ranks(similarities_N: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Ranks (from 1, ascending) of the rows `matches` (ascending) when rows are in descending order of similarity, ties by row."""
    wanted = similarities_N[matches]
    ascending = np.sort(wanted)
    # counts[i]: rows that are more similar than exactly i of the matches
    counts = np.bincount(np.searchsorted(ascending, similarities_N, side="left"), minlength=len(matches) + 1)
    larger = len(similarities_N) - np.cumsum(counts)[np.searchsorted(ascending, wanted, side="left")]
    equal_before = np.array([np.count_nonzero(similarities_N[:row] == value) for row, value in zip(matches, wanted, strict=True)])
    return np.sort(larger + equal_before + 1)
