"""The recall of an approximate search against an exact one."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.retrieval.gallery_index import FOUND_SCHEMA

Search = Callable[..., pa.Table]
"""(codes, k, query_hash=...) -> items in the columns and order of FOUND_SCHEMA."""


def measured_recall(
    search: Search, exact: Search, codes_QB: np.ndarray, k: int, *, query_hash: np.ndarray | None = None, sample: int
) -> dict[str, float]:
    """Measures recall@k of `search` on an evenly spaced sample of queries.

    It is the share of the k hits for which `search` finds an item no farther than the exact k-th hit. Which of several items at that
    distance is found does not matter.

    Args:
        search: the approximate search.
        exact: the exact search.
        codes_QB: packed codes of the queries.
        k: hits for each query.
        query_hash: (Q, b), real-valued hashes of the queries.
        sample: number of queries; all are used if there are fewer.

    Returns:
        "recall", in 0 to 1, and "queries", the number measured.
    """
    chosen = np.unique(np.linspace(0, len(codes_QB) - 1, min(sample, len(codes_QB))).astype(np.int64))
    hash_Qb = None if query_hash is None else query_hash[chosen]
    found, wanted = (answer(codes_QB[chosen], k, query_hash=hash_Qb) for answer in (search, exact))
    assert found.schema == wanted.schema == FOUND_SCHEMA
    farthest = wanted.group_by("query").aggregate([("distance", "max")]).sort_by("query")["distance_max"].to_numpy()
    as_near = pc.sum(found["distance"].to_numpy() <= farthest[found["query"].to_numpy()]).as_py() if len(found) else 0
    return {"recall": as_near / max(1, len(wanted)), "queries": len(chosen)}
