"""Matches by distance: the items of a gallery that lie near a query, in metres.

Shape suffixes: Q queries, N items, P pairs.
"""

from typing import NamedTuple

import numpy as np

from eet.errors import InputError
from eet.metrics.match_lists import MatchLists

QUERIES_AT_ONCE = 4096


class Positions(NamedTuple):
    """Where N images were taken.

    Attributes:
        metres_N2: float64 (N, 2), easting and northing; NaN where unknown.
        zones_N: (N,) of str, the zone of the coordinates. Distances exist inside one zone only.
    """

    metres_N2: np.ndarray
    zones_N: np.ndarray

    @property
    def known_N(self) -> np.ndarray:
        """Which positions are known, bool (N,)."""
        return np.isfinite(self.metres_N2).all(axis=1)

    def take(self, rows: np.ndarray) -> "Positions":
        """Those of some rows, given by position or by mask."""
        return Positions(self.metres_N2[rows], self.zones_N[rows])


def metres_between(some: Positions, others: Positions) -> np.ndarray:
    """Distance of each pair of positions, float32 (P,); NaN where one is unknown, or the zones differ."""
    metres_P = np.hypot(*(some.metres_N2 - others.metres_N2).T)
    return np.where(some.zones_N == others.zones_N, metres_P, np.nan).astype(np.float32)


def nearby(queries: Positions, items: Positions, *, metres: float) -> MatchLists:
    """The items within `metres` of each query, in the query's zone.

    A k-d tree for each zone finds them, so neither time nor memory grows with queries times items. Distances are compared as float32, as
    hits store them.

    Args:
        queries: of Q queries; one without a position has no match.
        items: of N items.
        metres: the radius, included; at least 0.

    Raises:
        InputError: the radius is negative or not finite.
    """
    from scipy.spatial import cKDTree

    if not 0 <= metres < np.inf:
        raise InputError(f"{metres} metres: a radius is 0 or more")
    pairs = [np.empty((2, 0), np.int64)]
    for zone in np.intersect1d(queries.zones_N[queries.known_N], items.zones_N[items.known_N]):
        query_rows, item_rows = (np.flatnonzero(side.known_N & (side.zones_N == zone)) for side in (queries, items))
        tree = cKDTree(items.metres_N2[item_rows])
        for start in range(0, len(query_rows), QUERIES_AT_ONCE):
            block = query_rows[start : start + QUERIES_AT_ONCE]
            # A little wider than the radius: what lies on it is decided below, in one way for everything.
            found = cKDTree(queries.metres_N2[block]).sparse_distance_matrix(tree, metres * (1 + 1e-6) + 1e-6, output_type="ndarray")
            query_P, item_P = block[found["i"]], item_rows[found["j"]]
            within = metres_between(queries.take(query_P), items.take(item_P)) <= np.float32(metres)
            pairs.append(np.stack([query_P[within], item_P[within]]))
    query_P, item_P = np.concatenate(pairs, axis=1)
    number = len(queries.zones_N)
    starts = np.concatenate([[0], np.cumsum(np.bincount(query_P, minlength=number))])
    return MatchLists(np.arange(number), starts, item_P[np.lexsort((item_P, query_P))], len(items.zones_N))
