"""The measures of a ranking in groups of equal distance, by name: those of the first k ranks, and those of `MEASURES`.

Shape suffixes: Q queries, G groups of a query.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from eet.metrics.tie_groups import TieGroups, expected_matches, expected_precision_sum, expected_recall


def r_precision_of(groups: TieGroups, num_relevant_Q: np.ndarray, r_Q: np.ndarray) -> np.ndarray:
    """Share of matches among the first R ranks; see `eet.metrics.r_precision`."""
    return expected_matches(groups, r_Q) / r_Q


def map_at_r_of(groups: TieGroups, num_relevant_Q: np.ndarray, r_Q: np.ndarray) -> np.ndarray:
    """Average precision at R; see `eet.metrics.map_at_r`."""
    return expected_precision_sum(groups, r_Q) / r_Q


class Measure(NamedTuple):
    """A measure of one query.

    Attributes:
        of: called with the groups of Q queries, the number of their matches in the whole gallery (integers (Q,), at least 1), and R: that
            number, plus 1 where the query counts (the published form). Returns finite float64 (Q,).
        reads: the ranks that it reads: "R", "all", or the first so many. Of hits that are fewer, the measure is left out; "all" means all
            that there are.
    """

    of: Callable[[TieGroups, np.ndarray, np.ndarray], np.ndarray]
    reads: Literal["R", "all"] | int

    def fits(self, k: int, *, r_fits: bool) -> bool:
        """Whether k hits of a query are enough. r_fits: every R is at most k."""
        return r_fits if self.reads == "R" else self.reads == "all" or self.reads <= k


MEASURES: dict[str, Measure] = {
    "R-precision": Measure(r_precision_of, "R"),
    "MAP@R": Measure(map_at_r_of, "R"),
}
"""Name -> measure, for those without a k of their own. Every evaluation has them, after mAP, P@k and recall@k."""


def measures_of_groups(
    groups: TieGroups,
    num_relevant_Q: np.ndarray,
    *,
    ks: Sequence[int],
    recall_ks: Sequence[int],
    count_query: bool,
) -> dict[str, np.ndarray]:
    """All measures of each query.

    Args:
        groups: of the queries.
        num_relevant_Q: integers (Q,), R: the number of matches in the whole gallery, at least 1. It is the denominator of "mAP" and the cut
            of "R-precision" and "MAP@R".
        ks: ranks k, from 1, for precision.
        recall_ks: ranks k, from 1, for recall.
        count_query: R-precision and MAP@R with R + 1 for R.

    Returns:
        float64 (Q,) for each measure, by the names of their means: "mAP", "P@k", "recall@k", and those of `MEASURES`.
    """
    num_relevant_Q = np.asarray(num_relevant_Q)
    return {
        "mAP": expected_precision_sum(groups) / num_relevant_Q,
        **{f"P@{k}": expected_matches(groups, k) / k for k in ks},
        **{f"recall@{k}": expected_recall(groups, k) for k in recall_ks},
        **{name: measure.of(groups, num_relevant_Q, num_relevant_Q + count_query) for name, measure in MEASURES.items()},
    }
