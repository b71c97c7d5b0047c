"""The recall of an approximate search against an exact one."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from eet.retrieval.gallery_index import FOUND_SCHEMA

Search = Callable[..., pa.Table]
"""(codes, k, query_hash=...) -> items in the columns and order of FOUND_SCHEMA. k: None for all within the radius that the search has."""


def measured_recall(
    search: Search, exact: Search, codes_QB: np.ndarray, k: int | None, *, query_hash: np.ndarray | None = None, sample: int
) -> dict[str, float]:
    """Measures recall@k of `search` on an evenly spaced sample of queries.

    It is the share of the k hits, or of those within the radius, for which `search` finds an item no farther than the last exact hit. Which
    of several items at that distance is found does not matter.

    Args:
        search: the approximate search.
        exact: the exact search.
        codes_QB: packed codes of the queries.
        k: hits for each query; None for all within the radius of both searches.
        query_hash: (Q, b), real-valued hashes of the queries.
        sample: number of queries; all are used if there are fewer.

    Returns:
        "recall", in 0 to 1, and "queries", the number measured.
    """
    chosen = np.unique(np.linspace(0, len(codes_QB) - 1, min(sample, len(codes_QB))).astype(np.int64))
    hash_Qb = None if query_hash is None else query_hash[chosen]
    found, wanted = (answer(codes_QB[chosen], k, query_hash=hash_Qb) for answer in (search, exact))
    assert found.schema == wanted.schema == FOUND_SCHEMA
    if not len(wanted):
        return {"recall": 1.0, "queries": len(chosen)}
    farthest = np.full(len(chosen), -1)  # within a radius, a query may have no hit
    np.maximum.at(farthest, wanted["query"].to_numpy(), wanted["distance"].to_numpy())
    as_near = int((found["distance"].to_numpy() <= farthest[found["query"].to_numpy()]).sum())
    return {"recall": as_near / len(wanted), "queries": len(chosen)}


def recall_as_text(recall: Mapping[str, float]) -> str:
    """A measured recall with the k and the radius of its search, for the user: "recall@100 0.9876", "recall within 8 bits 0.9876"."""
    depth = f"@{int(recall['k'])}" if "k" in recall else ""
    within = f" within {int(recall['radius'])} bits" if "radius" in recall else ""
    return f"recall{depth}{within} {recall['recall']:.4f}"
