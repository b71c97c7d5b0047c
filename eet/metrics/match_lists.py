"""The matches of queries in a gallery, as lists of rows. They come from labels here, or from positions in `eet.metrics.nearby`.

Shape suffixes: Q queries, N items of the gallery, L lists, M entries of all lists, m of one.
"""

from typing import NamedTuple

import numpy as np

from eet.errors import InputError


class MatchLists(NamedTuple):
    """Which rows of a gallery are matches of each query. Queries may share a list, as those of one label do.

    Attributes:
        list_Q: int64 (Q,), number of each query's list.
        starts: int64 (L + 1,); list l is rows_M[starts[l] : starts[l + 1]].
        rows_M: int64 (M,), ascending inside a list. A query that is an item of the gallery may be in its own list.
        num_items: N.
    """

    list_Q: np.ndarray
    starts: np.ndarray
    rows_M: np.ndarray
    num_items: int

    @property
    def first_Q(self) -> np.ndarray:
        """Place in rows_M at which each query's list begins, int64 (Q,)."""
        return self.starts[self.list_Q]

    @property
    def last_Q(self) -> np.ndarray:
        """Place in rows_M after each query's list, int64 (Q,)."""
        return self.starts[self.list_Q + 1]

    @property
    def counts_Q(self) -> np.ndarray:
        """Length of each query's list, int64 (Q,)."""
        return self.last_Q - self.first_Q

    def of(self, query: int) -> np.ndarray:
        """The list of a query, int64 (m,)."""
        return self.rows_M[self.first_Q[query] : self.last_Q[query]]


def matches_by_label(query_labels: np.ndarray, gallery_labels: np.ndarray) -> MatchLists:
    """Matches are the items with the query's label.

    Args:
        query_labels: integers (Q,).
        gallery_labels: integers (N,).

    Raises:
        InputError: labels of another shape or dtype.
    """
    for side, labels in (("query", query_labels), ("gallery", gallery_labels)):
        if np.ndim(labels) != 1 or np.asarray(labels).dtype.kind not in "iu":
            raise InputError(
                f"{side} labels are {np.asarray(labels).dtype} {np.shape(labels)}; give one integer for each code, and leave out items "
                "without a label."
            )
    used, list_N = np.unique(gallery_labels, return_inverse=True)
    counts = np.bincount(list_N, minlength=len(used) + 1)  # the last list is empty: that of labels which no item has
    found = np.searchsorted(used, query_labels)
    known = np.append(used, 0)[found] == query_labels
    list_Q = np.where(known & (found < len(used)), found, len(used)).astype(np.int64)
    return MatchLists(list_Q, np.concatenate([[0], np.cumsum(counts)]), np.argsort(list_N, kind="stable"), len(list_N))
