"""Scoring pairs of query and hit, gallery part by gallery part, in this process.

Shape suffixes: P pairs, Q queries, B bytes of a code, D dimension.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.gallery import Gallery, Manifest, fixed_binary_to_numpy, vectors_of
from eet.matching import TokenSet, asymmetric_similarity, cosine_similarity, hamming_similarity, matches_of_pairs
from eet.options.choices import GlobalSimilarity

PAIRS_AT_ONCE = 1 << 14
"""Pairs whose codes or embeddings are compared at once."""
PAIRS_TOGETHER = 1024
"""Parts with few pairs are read in parallel and scored together, until so many pairs are reached."""
PARTS_IN_PARALLEL = 8


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """How a pair of query and hit is scored.

    Attributes:
        marginal: a name in `eet.matching.MARGINALS`.
        epsilon: strength of the entropy, in units of 1 - cosine.
        transported: share of the mass to move, in (0, 1].
        solver: a name in `eet.matching.SOLVERS`.
        global_similarity: "hamming" or "asymmetric" (of codes), or "embedding" (of final CLS vectors).
        embedding_weight: weight of the cosine of the final CLS vectors, which is added to the similarity of codes.
        embeddings: whether to read the stored final CLS vectors.
        tokens: whether to match tokens; without them the structural similarity is NaN.
        rotated: whether tokens and embeddings are compared in rotated coordinates (see `eet.gallery.vectors_of`).
        device: "cpu" or "cuda".
        threads: CPU threads; default all.
    """

    marginal: str
    epsilon: float
    transported: float
    solver: str
    global_similarity: GlobalSimilarity
    embeddings: bool
    embedding_weight: float = 0.0
    tokens: bool = True
    rotated: bool = False
    device: str = "cpu"
    threads: int | None = None


class Queries(NamedTuple):
    """Some queries, with all data needed to score them.

    Attributes:
        tokens: their tokens, or None where the options do not need them.
        codes_QB: packed codes.
        hash_Qb: real-valued hashes (Q, bits), or None where the options do not need them.
        embedding_QD: final CLS vectors, or None where the options do not need them.
    """

    tokens: TokenSet | None
    codes_QB: np.ndarray
    hash_Qb: np.ndarray | None
    embedding_QD: np.ndarray | None


class PartPairs(NamedTuple):
    """Pairs whose item may lie in one part. pair_P: the pair's number. query_P: row of its query in `Queries`. item_ids: (P,)."""

    part: int
    pair_P: np.ndarray
    query_P: np.ndarray
    item_ids: pa.Array


class ScoredPairs(NamedTuple):
    """The scores of the pairs whose item is in one part.

    global_P is NaN where the item lacks what the options need; struct_P is NaN there, and if no tokens are matched. error_P: how far each
    plan is from converged, as in `eet.matching.Matches`; NaN where struct_P is NaN.
    """

    pair_P: np.ndarray
    global_P: np.ndarray
    struct_P: np.ndarray
    error_P: np.ndarray


def pairs_by_part(gallery: Gallery, item_ids: pa.Array, pair_P: np.ndarray, query_P: np.ndarray) -> list[PartPairs]:
    """Pairs of query and item, grouped by the parts that may hold the item.

    Args:
        gallery: holds the items.
        item_ids: of each pair (P,).
        pair_P, query_P: as in `PartPairs`.
    """
    return [
        PartPairs(part, pair_P[places], query_P[places], item_ids.take(pa.array(places)))
        for part, places in gallery.parts_holding(item_ids).items()
    ]


def needed_columns(*, embeddings: bool, tokens: bool = True) -> list[str]:
    """The columns of a gallery that scoring reads."""
    return ["item_id", "code", *(["tokens", "token_mass"] if tokens else []), *(["embedding"] if embeddings else [])]


def token_set(rows: pa.Table, manifest: Manifest, *, rotated: bool = False) -> TokenSet:
    """The tokens of rows of a gallery, which all must have tokens; and the embeddings as their centres, if they were read.

    An embedding of another width, such as that of VLAD, is not in the space of the tokens and no centre.
    """
    assert manifest.token_shape is not None
    centred = "embedding" in rows.column_names and manifest.embedding_dim == manifest.token_shape[1]
    embedding = vectors_of(rows, "embedding", manifest, rotated=rotated) if centred else None
    mass = fixed_binary_to_numpy(rows["token_mass"], "<f2", manifest.token_shape[:1])
    return TokenSet(vectors_of(rows, "tokens", manifest, rotated=rotated), mass, embedding)


def complete(rows: pa.Table) -> np.ndarray:
    """Which rows have a value in each of the columns that were read, bool (N,)."""
    return np.logical_and.reduce([rows[name].is_valid().to_numpy() for name in rows.column_names])


def score_part(gallery: Gallery, pairs: PartPairs, queries: Queries, options: MatchOptions) -> ScoredPairs:
    """Scores of those pairs whose item the part holds. The score of a pair does not depend on how pairs are grouped."""
    return score_rows(rows_of(gallery, pairs, options), gallery.manifest, pairs, queries, options)


def rows_of(gallery: Gallery, pairs: PartPairs, options: MatchOptions) -> pa.Table:
    """The rows of the part for the pairs' items, each once, with the columns needed to score them."""
    return gallery.part_rows(pairs.part, pairs.item_ids.unique(), needed_columns(embeddings=options.embeddings, tokens=options.tokens))


def score_rows(rows: pa.Table, manifest: Manifest, pairs: PartPairs, queries: Queries, options: MatchOptions) -> ScoredPairs:
    """`score_part` for rows that are already read. manifest: of their gallery."""
    row_P = pc.index_in(pairs.item_ids, value_set=rows["item_id"].combine_chunks())
    here = row_P.is_valid().to_numpy(zero_copy_only=False)
    row_P = row_P.drop_null().to_numpy().astype(np.int64)
    pair_P, query_P = pairs.pair_P[here], pairs.query_P[here]
    global_P, struct_P, error_P = (np.full(len(pair_P), np.nan, np.float32) for _ in range(3))
    whole = complete(rows)
    scored_P = whole[row_P]
    if scored_P.any():
        place = np.cumsum(whole) - 1
        rows = rows.filter(pa.array(whole))
        item_P, query_P = place[row_P[scored_P]], query_P[scored_P]
        global_P[scored_P] = _global(rows, item_P, query_P, queries, manifest, options)
        if queries.tokens is not None:
            matches = matches_of_pairs(
                queries.tokens, token_set(rows, manifest, rotated=options.rotated), np.stack([query_P, item_P], axis=1),
                marginal=options.marginal, epsilon=options.epsilon, transported=options.transported, solver=options.solver,
                threads=options.threads, device=options.device,
            )  # fmt: skip
            struct_P[scored_P], error_P[scored_P] = matches.scores_P.numpy(), matches.error_P.numpy()
    return ScoredPairs(pair_P, global_P, struct_P, error_P)


def _global(
    rows: pa.Table, item_P: np.ndarray, query_P: np.ndarray, queries: Queries, manifest: Manifest, options: MatchOptions
) -> np.ndarray:
    """Global similarities (P,), float32; computed in blocks, because the vectors of all pairs would not fit in memory."""
    codes = fixed_binary_to_numpy(rows["code"], np.uint8, (-(-manifest.num_bits // 8),))
    alone = options.global_similarity == "embedding"
    weight = 1.0 if alone else options.embedding_weight
    embeddings = vectors_of(rows, "embedding", manifest, rotated=options.rotated) if weight else None
    similar_P = np.zeros(len(item_P), np.float32)
    for start in range(0, len(item_P), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        item, query = item_P[block], query_P[block]
        if options.global_similarity == "asymmetric":
            assert queries.hash_Qb is not None
            used, of_pair = np.unique(query, return_inverse=True)  # tables are made once for each query
            similar_P[block] = asymmetric_similarity(queries.hash_Qb[used], of_pair, codes[item])
        elif not alone:
            similar_P[block] = hamming_similarity(queries.codes_QB[query], codes[item], num_bits=manifest.num_bits)
        if embeddings is not None:
            assert queries.embedding_QD is not None
            similar_P[block] += np.float32(weight) * cosine_similarity(queries.embedding_QD[query], embeddings[item])
    return similar_P


Scorer = Callable[[Queries, list[PartPairs]], Iterator[ScoredPairs]]
"""Scores pairs, part by part, in any order of parts."""


OpenedScorer = AbstractContextManager[Scorer]


@contextmanager
def scoring_here(gallery: Gallery, options: MatchOptions) -> Iterator[Scorer]:
    """Scores pairs in this process."""
    with ThreadPoolExecutor(PARTS_IN_PARALLEL) as pool:

        def score(queries: Queries, pairs: list[PartPairs]) -> Iterator[ScoredPairs]:
            for together in _together(pairs):
                rows = pa.concat_tables(pool.map(lambda part: rows_of(gallery, part, options), together))
                yield score_rows(rows, gallery.manifest, _merged(together), queries, options)

        yield score


def _together(pairs: list[PartPairs]) -> Iterator[list[PartPairs]]:
    """Consecutive parts, in groups that have just reached PAIRS_TOGETHER pairs."""
    group: list[PartPairs] = []
    number = 0
    for part in pairs:
        group.append(part)
        number += len(part.pair_P)
        if number >= PAIRS_TOGETHER:
            yield group
            group, number = [], 0
    if group:
        yield group


def _merged(group: list[PartPairs]) -> PartPairs:
    """The pairs of several parts, each pair once: after an append, two parts may hold its item by their range of ids."""
    pair_P, first = np.unique(np.concatenate([part.pair_P for part in group]), return_index=True)
    query_P = np.concatenate([part.query_P for part in group])[first]
    return PartPairs(group[0].part, pair_P, query_P, pa.concat_arrays([part.item_ids for part in group]).take(pa.array(first)))
