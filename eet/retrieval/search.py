"""Searching a gallery for the items nearest to each query."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.gallery import HITS_SCHEMA, Gallery, check_same_model, labels_in
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.recall import Search
from eet.storage import same_location

QUERIES_AT_ONCE = 1024


def search_gallery(gallery: Gallery, queries: Gallery, *, k: int, search: Search | None = None) -> pa.Table:
    """Finds the k nearest items for every query that has a code.

    Items of equal distance are ordered by the asymmetric score, if the queries have real-valued hashes, then by item_id. If queries and
    gallery are the same folder, no item is its own hit.

    Args:
        gallery: the gallery to search.
        queries: the gallery of the queries.
        k: hits for each query, at least 1.
        search: finds items of the gallery; default an exact search over its codes, read into this process.

    Returns:
        Hits in the columns of HITS_SCHEMA, by query, then rank. score is minus the distance, plus the asymmetric score scaled to
        -0.5 .. 0.5, so that it falls with the rank.

    Raises:
        InputError: the galleries were encoded by different models.
    """
    check_same_model(gallery, queries)
    search = search or GalleryIndex.of_gallery(gallery).search
    query_codes, query_ids, query_labels = queries.coded_rows()
    query_hash = queries.hashes()
    query_labels = labels_in(gallery, queries, query_labels)
    same = same_location(gallery.path, queries.path)
    pieces = []
    for start in range(0, len(query_codes), QUERIES_AT_ONCE):
        block = slice(start, start + QUERIES_AT_ONCE)
        hash_Qb = None if query_hash is None else query_hash[block]
        found = search(query_codes[block], k + 1 if same else k, query_hash=hash_Qb)
        pieces.append(_hits(found, query_ids.slice(start, QUERIES_AT_ONCE), query_labels[block], hash_Qb, k=k, same=same))
    return pa.concat_tables(pieces) if pieces else HITS_SCHEMA.empty_table()


def _hits(found: pa.Table, ids: pa.Array, labels: np.ndarray, query_hash: np.ndarray | None, *, k: int, same: bool) -> pa.Table:
    """Hits of a block of queries from what a search found for them."""
    if same:
        asked = ids.take(found["query"]).cast(pa.large_string())
        found = found.filter(pc.not_equal(found["item_id"], asked))
    query = found["query"].to_numpy()
    starts = np.searchsorted(query, np.arange(len(ids)))
    rank = np.arange(len(query)) - starts[query]
    within = rank < k
    found, query, rank = found.filter(pa.array(within)), query[within], rank[within]
    scores = -found["distance"].to_numpy().astype(np.float32)
    if query_hash is not None:
        scores += 0.499 * found["score"].to_numpy() / np.maximum(np.abs(query_hash).sum(axis=1), 1e-12)[query]
    item_labels = found["label"].to_numpy()
    return pa.table(
        [
            ids.take(pa.array(query)).cast(pa.string()),
            pa.array(rank + 1, pa.int32()),
            found["item_id"].cast(pa.string()),
            found["distance"],
            pa.array(scores, pa.float32()),
            _label_column(labels[query]),
            _label_column(item_labels),
        ],
        schema=HITS_SCHEMA,
    )


def _label_column(labels: np.ndarray) -> pa.Array:
    return pa.array(labels, pa.int32(), mask=labels < 0)
