"""Searching a gallery for the items nearest to each query."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import HITS_SCHEMA, Gallery, check_same_model, labels_in, warn_of_precision
from eet.gallery.encoding import error_report
from eet.retrieval.embedding_search import EmbeddingSearch
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.metres import with_metres
from eet.retrieval.recall import Search
from eet.storage import same_location

QUERIES_AT_ONCE = 1024
QUERIES_A_READ = 16384
"""Queries by embedding at once: the gallery is read again for each such block."""


def search_gallery(
    gallery: Gallery, queries: Gallery, *, k: int | None, search: Search | None = None, embeddings: EmbeddingSearch | None = None
) -> pa.Table:
    """Finds the k nearest items for every query that has a code.

    Items of equal distance are ordered by the asymmetric score, if the queries have real-valued hashes, then by item_id. If queries and
    gallery are the same folder, no item is its own hit.

    Args:
        gallery: the gallery to search.
        queries: the gallery of the queries.
        k: most hits of each query, at least 1; None for all that the search finds, if it has a radius.
        search: finds items of the gallery; default an exact search over its codes, read into this process.
        embeddings: finds items by the cosine of embeddings instead, which is the score then.

    Returns:
        Hits in the columns of HITS_SCHEMA, by query, then rank. score is minus the distance, plus the asymmetric score scaled to
        -0.5 .. 0.5, so that it falls with the rank. Between places they have the column METRES_FIELD too.

    Raises:
        InputError: the galleries were encoded by different models, or no query has a code because all of them failed.

    Warns:
        PrecisionWarning: the galleries were encoded in different precisions.
    """
    check_same_model(gallery, queries)
    warn_of_precision(gallery, queries)
    if queries.manifest.num_rows and not queries.manifest.num_ok:
        first = queries.errors().slice(0, 1).to_pylist()[0]
        raise InputError(
            f"no query can be searched for: all {queries.manifest.num_rows} {error_report(queries.manifest)}; {first['item_id']}: "
            f"{first['error']}. Give images that can be read"
        )
    if embeddings is None:
        search = search or GalleryIndex.of_gallery(gallery).search
    query_codes, query_ids, query_labels = queries.coded_rows()
    query_hash = queries.hashes() if embeddings is None else None
    query_labels = labels_in(gallery, queries, query_labels)
    same = same_location(gallery.path, queries.path)
    pieces = []
    at_once = QUERIES_AT_ONCE if embeddings is None else QUERIES_A_READ
    for start in range(0, len(query_codes), at_once):
        block = slice(start, start + at_once)
        ids = query_ids.slice(start, at_once)
        if search is None:
            assert embeddings is not None
            assert k is not None  # only codes have a radius
            found = embeddings.search(queries, ids, k + 1 if same else k)
            scores = found["score"].to_numpy()
        else:
            hash_Qb = None if query_hash is None else query_hash[block]
            found = search(query_codes[block], k + 1 if same and k is not None else k, query_hash=hash_Qb)
            scores = code_scores(found, hash_Qb)
        pieces.append(hits_of(found, scores, ids, query_labels[block], k=k, same=same))
    return with_metres(pa.concat_tables(pieces) if pieces else HITS_SCHEMA.empty_table(), gallery, queries)


def code_scores(found: pa.Table, query_hash: np.ndarray | None) -> np.ndarray:
    """Scores of what a search by code found: minus the distance, plus the asymmetric score where the queries have hashes, float32.

    Args:
        found: from a `Search`, in the columns of FOUND_SCHEMA.
        query_hash: real-valued hashes of the queries (Q, bits), or None.
    """
    scores = -found["distance"].to_numpy().astype(np.float32)
    if query_hash is not None:
        scores += 0.499 * found["score"].to_numpy() / np.maximum(np.abs(query_hash).sum(axis=1), 1e-12)[found["query"].to_numpy()]
    return scores


def hits_of(found: pa.Table, scores: np.ndarray, ids: pa.Array, labels: np.ndarray, *, k: int | None, same: bool) -> pa.Table:
    """Hits of a block of queries from what a search found for them.

    Args:
        found: in the columns of FOUND_SCHEMA.
        scores: of what was found, float32; `code_scores` makes those of a search by code.
        ids: of the queries.
        labels: of the queries in the gallery's numbering, int32; -1 where unknown.
        k: most hits of each query; None for all.
        same: the queries are items of the gallery, and none is its own hit.

    Returns:
        Hits in the columns of HITS_SCHEMA, by query, then rank.
    """
    if same:
        others = pc.not_equal(found["item_id"], ids.take(found["query"]).cast(pa.large_string()))
        found, scores = found.filter(others), scores[others.to_numpy()]
    query = found["query"].to_numpy()
    starts = np.searchsorted(query, np.arange(len(ids)))
    rank = np.arange(len(query)) - starts[query]
    if k is not None:
        within = rank < k
        found, query, rank, scores = found.filter(pa.array(within)), query[within], rank[within], scores[within]
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
