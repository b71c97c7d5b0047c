"""Queries in two halves: a choice made on one half is measured on the other."""

import hashlib
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc


class HitsInHalves(NamedTuple):
    """Hits of the queries on which trials are compared, and of those on which the chosen trial is measured once."""

    judged: pa.Table
    held_out: pa.Table


def in_halves(hits: pa.Table, seed: int) -> HitsInHalves:
    """Splits hits by query, in the order of a hash of (seed, query_id). The first half, which is the larger if odd, compares trials."""
    ids = sorted(pc.unique(hits["query_id"]).to_pylist(), key=lambda query_id: hashlib.sha256(f"{seed} {query_id}".encode()).digest())
    middle = -(-len(ids) // 2)
    judged, held_out = (
        hits.filter(pc.is_in(hits["query_id"], value_set=pa.array(half, pa.string()))) for half in (ids[:middle], ids[middle:])
    )
    return HitsInHalves(judged, held_out)
