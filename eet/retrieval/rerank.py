"""Re-ranking: the first hits of every query in a new order, by matching image regions or comparing embeddings.

Shape suffixes: H hits, P pairs, Q queries, b bits.
"""

import math
import warnings
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import (
    METRES_FIELD,
    RERANKED_SCHEMA,
    Gallery,
    Manifest,
    check_same_model,
    fixed_binary_to_numpy,
    is_rotated,
    vectors_of,
)
from eet.matching import MARGINALS, SOLVERS, ConvergenceWarning
from eet.matching.sinkhorn import CONVERGED, check_transport
from eet.options.choices import GlobalSimilarity
from eet.options.defaults import RESCORE_WEIGHT
from eet.retrieval.pairs import (
    MatchOptions,
    OpenedScorer,
    Queries,
    Scorer,
    complete,
    needed_columns,
    pairs_by_part,
    scoring_here,
    token_set,
)

QUERY_BYTES_AT_ONCE = 256 * 2**20
"""Limit of the queries' tokens in one block."""


def match_options(
    gallery: Gallery,
    queries: Gallery,
    *,
    marginal: str = "importance",
    epsilon: float = 0.05,
    transported: float = 1.0,
    solver: str = "sinkhorn",
    global_similarity: GlobalSimilarity | None = None,
    embedding_weight: float = 0.0,
    tokens: bool = True,
    device: str = "cpu",
    threads: int | None = None,
) -> MatchOptions:
    """Checks the options of a re-ranking, and completes them from what the galleries hold.

    Args:
        gallery: the searched gallery.
        queries: the gallery of the queries.
        marginal: a name in `eet.matching.MARGINALS`.
        epsilon: strength of the entropy, at least 1e-4.
        transported: share of the mass to move, in (0, 1].
        solver: a name in `eet.matching.SOLVERS`.
        global_similarity: "hamming", "asymmetric" or "embedding"; default "asymmetric" if the queries have hashes, else "hamming".
        embedding_weight: weight of the cosine of the stored final CLS vectors, at least 0, which is added to the similarity of codes.
        tokens: match tokens; otherwise hits are ordered by the global similarity alone.
        device: "cpu" or "cuda".
        threads: CPU threads; default all.

    Raises:
        InputError: the galleries were encoded by different models, a gallery lacks a column that the options need, or an option is
            out of range.
    """
    check_same_model(gallery, queries)
    similarities = (None, *get_args(GlobalSimilarity))
    for kind, name, known in (
        ("marginal", marginal, MARGINALS),
        ("solver", solver, SOLVERS),
        ("global_similarity", global_similarity, similarities),
    ):
        if name not in known:
            raise InputError(f"{kind} {name!r} is unknown; choose one of {', '.join(filter(None, known))}")
    check_transport(epsilon, transported)
    if not 0 <= embedding_weight < math.inf:
        raise InputError(f"embedding_weight={embedding_weight}: use 0 or more")
    if global_similarity == "embedding" and embedding_weight:
        raise InputError(
            f"embedding_weight={embedding_weight} adds to a similarity of codes, and global_similarity embedding has none: choose one"
        )
    chosen = global_similarity or ("asymmetric" if queries.manifest.has_hash else "hamming")
    centres = MARGINALS[marginal].reads == "correlation"
    options = MatchOptions(
        marginal=marginal,
        epsilon=epsilon,
        transported=transported,
        solver=solver,
        global_similarity=chosen,
        embeddings=chosen == "embedding" or embedding_weight > 0 or (tokens and centres and _have_embeddings(gallery, queries)),
        embedding_weight=embedding_weight,
        tokens=tokens,
        rotated=is_rotated(gallery.manifest),
        device=device,
        threads=threads,
    )
    _check_columns(gallery, queries, chosen, options)
    return options


def _have_embeddings(*galleries: Gallery) -> bool:
    return all(gallery.manifest.embedding_dim is not None for gallery in galleries)


def _check_columns(gallery: Gallery, queries: Gallery, chosen: GlobalSimilarity, options: MatchOptions) -> None:
    for side in (gallery, queries):
        if options.tokens and side.manifest.token_shape is None:
            raise InputError(f"{side.path} has no tokens to match: encode it with tokens")
        if (chosen == "embedding" or options.embedding_weight) and not _have_embeddings(side):
            need = "global_similarity embedding" if chosen == "embedding" else "embedding_weight"
            raise InputError(f"{side.path} has no embeddings, which {need} needs: encode it with embedding")
    if chosen == "asymmetric" and not queries.manifest.has_hash:
        raise InputError(f"{queries.path} has no real-valued hashes, which global_similarity asymmetric needs: encode it with hash")


def reranked_hits(
    hits: pa.Table, gallery: Gallery, queries: Gallery, options: MatchOptions, *, top: int, weight: float, opened: OpenedScorer
) -> pa.Table:
    """Re-ranks hits.

    Args:
        hits: in the columns of HITS_SCHEMA, rows in any order.
        gallery: the searched gallery.
        queries: the gallery of the queries.
        options: from `match_options`.
        top: number of hits of a query that are re-ranked; the others keep their rank.
        weight: weight of the structural similarity; the global one has weight 1.
        opened: context manager that yields a scorer of pairs: `scoring_here`, or actors.

    Returns:
        The hits in the columns of RERANKED_SCHEMA, by query and rank.

    Raises:
        InputError: a query has no tokens, or an item of the hits is not in the gallery.
    """
    hits = hits.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    head_H = hits["rank"].to_numpy() <= top
    with opened as scorer:
        global_H, struct_H = score_hits(hits, head_H, gallery, queries, scorer, options)
    return reordered(hits, head_H, global_H, struct_H, weight=weight)


def rescore_options(gallery: Gallery, queries: Gallery, weight: float | None = None) -> MatchOptions:
    """The options of `rescored_hits`.

    Args:
        gallery: the searched gallery.
        queries: the gallery of the queries.
        weight: weight of the cosine of the stored final CLS vectors, at least 0; codes have weight 1. Default RESCORE_WEIGHT if both
            galleries have such vectors, else 0.

    Raises:
        InputError: the galleries were encoded by different models, they lack the vectors that the weight needs, the weight is out of
            range, or there is nothing that could change the order: no vectors, and no real-valued hashes of the queries.
    """
    if weight is None:
        weight = RESCORE_WEIGHT if _have_embeddings(gallery, queries) else 0.0
    if not weight and not queries.manifest.has_hash:
        raise InputError(
            f"there is nothing to order hits again by: {queries.path} has no real-valued hashes, and no embeddings are used. Encode the "
            "queries with hash, or both galleries with embedding"
        )
    return match_options(gallery, queries, embedding_weight=weight, tokens=False)


def rescored_hits(hits: pa.Table, gallery: Gallery, queries: Gallery, *, top: int, weight: float | None = None) -> pa.Table:
    """Re-orders the first hits of every query by the similarity of codes + weight * the cosine of the stored final CLS vectors.

    The similarity of codes is that of the query's real-valued hash with the bits of the item, if the queries have hashes.

    Args:
        hits: in the columns of HITS_SCHEMA, rows in any order.
        gallery: the searched gallery.
        queries: the gallery of the queries.
        top: number of hits of a query that are re-ordered; the others keep their rank.
        weight: as of `rescore_options`.

    Returns:
        The hits in the columns of RERANKED_SCHEMA, score_struct null.

    Raises:
        InputError: as `rescore_options`.
    """
    options = rescore_options(gallery, queries, weight)
    return reranked_hits(hits, gallery, queries, options, top=top, weight=0.0, opened=scoring_here(gallery, options))


def score_hits(
    hits: pa.Table, head_H: np.ndarray, gallery: Gallery, queries: Gallery, scorer: Scorer, options: MatchOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Global and structural similarity of each hit (H,), float32; NaN where `head_H` is false or the item lacks what the options need.

    Queries are processed in blocks whose tokens fit in memory. The pairs of a block are grouped by the part that holds their item.
    InputError where an item is in no part; a ConvergenceWarning where a plan does not deliver what the options ask for.
    """
    global_H, struct_H, error_H = (np.full(len(hits), np.nan, np.float32) for _ in range(3))
    found_H = ~head_H
    width = int(np.prod(queries.manifest.token_shape or 0)) if options.tokens else queries.manifest.embedding_dim or 0
    at_once = max(1, QUERY_BYTES_AT_ONCE // (2 * (width + queries.manifest.num_bits)))
    query_ids = hits["query_id"].combine_chunks()
    for ids in _blocks(query_ids.filter(pa.array(head_H)).unique(), at_once):
        block = read_queries(queries, ids, options)
        query_H = pc.index_in(query_ids, value_set=ids)
        pair_P = np.flatnonzero(head_H & query_H.is_valid().to_numpy(zero_copy_only=False))
        query_P = query_H.take(pa.array(pair_P)).to_numpy().astype(np.int64)
        item_ids = hits["item_id"].combine_chunks().take(pa.array(pair_P))
        for scored in scorer(block, pairs_by_part(gallery, item_ids, pair_P, query_P)):
            global_H[scored.pair_P], struct_H[scored.pair_P], found_H[scored.pair_P] = scored.global_P, scored.struct_P, True
            error_H[scored.pair_P] = scored.error_P
    if not found_H.all():
        missing = hits["item_id"].filter(pa.array(~found_H)).unique()
        raise InputError(
            f"{len(missing)} items of the hits, such as {missing[0].as_py()!r}, are not in {gallery.path}: are they hits of that gallery?"
        )
    _warn_unless_converged(hits, error_H)
    return global_H, struct_H


def _warn_unless_converged(hits: pa.Table, error_H: np.ndarray) -> None:
    missed = np.flatnonzero(error_H > CONVERGED)
    if not len(missed):
        return
    worst = int(missed[error_H[missed].argmax()])
    query, item = (hits[name][worst].as_py() for name in ("query_id", "item_id"))
    matched = int(np.isfinite(error_H).sum())
    warnings.warn(
        f"{len(missed)} of {matched} matchings did not converge: their plans miss the transported share or a marginal by more than "
        f"{CONVERGED:g} of the share, that of query {query!r} and item {item!r} by {error_H[worst]:.2g}. "
        "Choose a larger epsilon or transported share.",
        ConvergenceWarning,
        stacklevel=4,
    )


def _blocks(ids: pa.Array, size: int) -> Iterator[pa.Array]:
    for start in range(0, len(ids), size):
        yield ids.slice(start, size)


def read_queries(queries: Gallery, ids: pa.Array, options: MatchOptions) -> Queries:
    """The queries with these ids, in this order. InputError where one is not in the gallery or could not be encoded."""
    rows = queries.rows(ids, query_columns(options))
    whole = complete(rows)
    if not whole.all():
        bad = rows["item_id"].filter(pa.array(~whole))
        what = "tokens" if options.tokens else "embedding"
        raise InputError(f"{len(bad)} queries, such as {bad[0].as_py()!r}, have no {what} in {queries.path}")
    return queries_of_rows(rows, queries.manifest, options)


def query_columns(options: MatchOptions) -> list[str]:
    """The columns that `queries_of_rows` reads."""
    hashed = options.global_similarity == "asymmetric"
    return [*needed_columns(embeddings=options.embeddings, tokens=options.tokens), *(["hash"] if hashed else [])]


def queries_of_rows(rows: pa.Table, manifest: Manifest, options: MatchOptions) -> Queries:
    """Queries from rows with the columns of `query_columns`, none of them null. manifest: of the rows' gallery."""
    tokens = token_set(rows, manifest, rotated=options.rotated) if options.tokens else None
    embedding_QD = vectors_of(rows, "embedding", manifest, rotated=options.rotated) if options.embeddings else None
    hashed = options.global_similarity == "asymmetric"
    hash_Qb = fixed_binary_to_numpy(rows["hash"], "<f2", (manifest.num_bits,)).astype(np.float32) if hashed else None
    codes_QB = fixed_binary_to_numpy(rows["code"], np.uint8, (-(-manifest.num_bits // 8),))
    return Queries(tokens, codes_QB, hash_Qb, embedding_QD)


def reordered(hits: pa.Table, head_H: np.ndarray, global_H: np.ndarray, struct_H: np.ndarray, *, weight: float) -> pa.Table:
    """Sorts scored hits into their new order (RERANKED_SCHEMA, and METRES_FIELD where they have it).

    `hits` must be sorted by query and rank. Hits with a global similarity are sorted by global + weight * struct (NaN counts as 0) within
    the ranks that they had, ties in the old order; all others keep their rank. Those get scores interpolated from their neighbours, so
    that scores never rise with the rank.
    """
    ids = hits["query_id"].combine_chunks()
    query_H = ids.dictionary_encode().indices.to_numpy().astype(np.int64)
    moved = np.flatnonzero(head_H & ~np.isnan(global_H))
    total_H = global_H + np.float32(weight) * np.nan_to_num(struct_H)
    order = np.arange(len(hits))
    # Rows ascend by query, so the hits of each query are put into the ranks that they had before.
    order[moved] = moved[np.lexsort((moved, -total_H[moved], query_H[moved]))]
    score_H = _continued(total_H[order], hits["score"].to_numpy(), query_H)
    table = hits.take(pa.array(order))
    columns = {name: table[name] for name in hits.column_names}
    columns["rank"] = hits["rank"]
    columns["score"] = pa.array(score_H, pa.float32())
    for name, values in (("score_global", global_H[order]), ("score_struct", struct_H[order])):
        columns[name] = pa.array(values, pa.float32(), mask=np.isnan(values))
    schema = RERANKED_SCHEMA.append(METRES_FIELD) if METRES_FIELD.name in columns else RERANKED_SCHEMA
    return pa.table(columns).select(schema.names).cast(schema)


def _continued(score_H: np.ndarray, before_H: np.ndarray, query_H: np.ndarray) -> np.ndarray:
    """Fills missing scores (NaN) within each query's list.

    A missing score is the next known score above, minus the difference of the two old scores, but at least the next known score below. If
    none is known above, it is the next one below; if none is known at all, the old score.
    """
    places = np.arange(len(score_H))
    known = ~np.isnan(score_H)
    above = np.maximum.accumulate(np.where(known, places, -1))
    below = np.minimum.accumulate(np.where(known, places, len(places))[::-1])[::-1]
    has_above = known[above] & (above >= 0) & (query_H[above] == query_H)
    has_below = below < len(places)
    has_below[has_below] = query_H[below[has_below]] == query_H[has_below]
    next_below = np.where(has_below, score_H[np.minimum(below, len(places) - 1)], -np.inf)
    continued = np.maximum(score_H[above] - np.maximum(before_H[above] - before_H, 0), next_below)
    alone = np.where(has_below, next_below, before_H)
    return np.where(known, score_H, np.where(has_above, continued, alone))
