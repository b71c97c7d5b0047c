"""Scores of many pairs of images, for re-ranking.

Shape suffixes: N images, K tokens (Kq of a query, Kg of a gallery image), D dimensions, P pairs.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from eet.errors import InputError
from eet.matching.fused_sinkhorn import LEAST_EPSILON, MOST_TOKENS, fused_scores
from eet.matching.marginals import MARGINALS
from eet.matching.sinkhorn import check_transport
from eet.matching.solvers import SOLVERS
from eet.matching.token_set import Array, Side, TokenSet, checked
from eet.matching.unit_side import pair_marginals, unit_side

COMPILED_SOLVERS = ("sinkhorn", "maxsim")
"""The solvers that have a compiled loop for CPUs."""

TOLERANCE = 2e-4
"""L1 error of the row sums below which the compiled loop updates once more and ends: scores are then within 5e-5 of converged ones."""

MAX_ITERATIONS = 2000

_PRODUCTS_AT_ONCE = 400_000  # entries of cosine matrices in a chunk: milliseconds of work
_BYTES_AT_ONCE = 1 << 28  # of a chunk on a torch device


def match_pairs(
    queries: TokenSet,
    gallery: TokenSet,
    pairs_P2: Array,
    *,
    marginal: str = "importance",
    epsilon: float = 0.05,
    transported: float = 1.0,
    solver: str = "sinkhorn",
    threads: int | None = None,
    device: str = "cpu",
) -> torch.Tensor:
    """Structural similarity of pairs of images: <plan, cosine> of the optimal transport between their tokens, or of another solver's plan.

    See `structural_similarity` for the definition. On a CPU, 'sinkhorn' and 'maxsim' run as compiled loops; the score of a pair then does
    not depend on the other pairs, their order or the threads, to the last bit.

    Args:
        queries: tokens of the queries, any number for each; see `TokenSet`.
        gallery: tokens of the gallery images.
        pairs_P2: int64, (row of queries, row of gallery) for each pair.
        marginal: one of `eet.matching.MARGINALS`. Those that read the mass need mass_NK, those that read correlations use the centres.
        epsilon: strength of the entropy, at least 1e-4. Published: 0.05.
        transported: share of the mass to move, in (0, 1]; scores are sums over that share, not divided by it.
        solver: one of `eet.matching.SOLVERS`: sinkhorn, exact (no entropy, epsilon is not read), pot, or maxsim: the mean over the query's
            tokens, weighted by its marginal, of the greatest cosine with a token of the gallery image (neither epsilon nor transported is
            read).
        threads: CPU threads of the compiled loops, at least 1; default all.
        device: torch device on which pairs are matched, such as "cpu" or "cuda".

    Returns:
        scores, float32 (P,) on the CPU, never NaN.

    Raises:
        InputError: shapes do not fit, a pair names a row that does not exist, masses are missing, a name is unknown, or a parameter is out
            of range.
    """
    check_transport(epsilon, transported)
    for kind, name, known in (("marginal", marginal, MARGINALS), ("solver", solver, SOLVERS)):
        if name not in known:
            raise InputError(f"{kind} {name!r} is unknown; choose one of {', '.join(known)}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads}; give at least 1.")
    weigh, reads = MARGINALS[marginal]
    query_side, gallery_side = checked(queries, "queries", reads), checked(gallery, "gallery items", reads)
    (num_queries, _, query_dims), (num_items, _, gallery_dims) = query_side.tokens_NKD.shape, gallery_side.tokens_NKD.shape
    if query_dims != gallery_dims:
        raise InputError(f"query tokens have {query_dims} dimensions, gallery tokens {gallery_dims}; encode both with one model.")
    pairs_P2 = np.ascontiguousarray(pairs_P2, dtype=np.int64)
    if pairs_P2.ndim != 2 or pairs_P2.shape[1] != 2:
        raise InputError(f"pairs have shape {pairs_P2.shape}; give (P, 2): query row, gallery row.")
    if len(pairs_P2) and (pairs_P2.min() < 0 or (pairs_P2.max(axis=0) >= (num_queries, num_items)).any()):
        raise InputError(
            f"pairs reach from {pairs_P2.min(axis=0)} to {pairs_P2.max(axis=0)}; there are {num_queries} queries and {num_items} items."
        )
    if solver in COMPILED_SOLVERS and torch.device(device).type == "cpu":
        return match_compiled(
            query_side, gallery_side, pairs_P2, weigh,
            epsilon=epsilon, transported=transported, threads=threads, solver=solver,
        ).scores_P  # fmt: skip
    return _match_in_batches(query_side, gallery_side, pairs_P2, weigh, solver, device, epsilon=epsilon, transported=transported)


class Matches(NamedTuple):
    """scores_P: float32. delivered_P: float32, the mass that the plans actually move, within 1e-3 of the requested share."""

    scores_P: torch.Tensor
    delivered_P: torch.Tensor


def match_compiled(
    queries: Side,
    gallery: Side,
    pairs_P2: np.ndarray,
    weigh: Callable[[torch.Tensor], torch.Tensor],
    *,
    epsilon: float,
    transported: float,
    threads: int | None,
    solver: str = "sinkhorn",
) -> Matches:
    """`match_pairs` by compiled loops, of checked sides: `weigh` reads centres where these hold them, else masses."""
    from eet.matching import compiled_maxsim, compiled_sinkhorn
    from eet.matching.compiled_sinkhorn import Answers, Settings, Tokens, WeightedTokens, correlate

    score = {"sinkhorn": compiled_sinkhorn.score, "maxsim": compiled_maxsim.score}[solver]
    num_pairs, num_query, num_gallery = len(pairs_P2), queries.tokens_NKD.shape[1], gallery.tokens_NKD.shape[1]
    sides = [
        Tokens(_raw(side.tokens_NKD), side.tokens_NKD.dtype == torch.float16, *side.tokens_NKD.shape[1:]) for side in (queries, gallery)
    ]
    masses: list[Any] = [None if side.mass_NK is None else weigh(side.mass_NK).cpu().numpy() for side in (queries, gallery)]
    centers = [None if side.center_ND is None else _raw(side.center_ND) for side in (queries, gallery)]
    settings = Settings(float(epsilon), float(transported), TOLERANCE, MAX_ITERATIONS)
    # Pairs of one query are adjacent, so that its tokens are laid out once.
    order = np.argsort(pairs_P2[:, 0], kind="stable")
    scores, delivered = np.empty(num_pairs, np.float32), np.empty(num_pairs, np.float32)

    def match(part: np.ndarray) -> None:
        pairs = pairs_P2[part]
        marginals = masses
        if queries.mass_NK is None:
            of_query, of_gallery = np.empty((len(pairs), num_query), np.float32), np.empty((len(pairs), num_gallery), np.float32)
            correlate(centers[1], sides[0], np.ascontiguousarray(pairs[:, ::-1]), of_query)
            correlate(centers[0], sides[1], pairs, of_gallery)
            marginals = [weigh(torch.from_numpy(correlation)).numpy() for correlation in (of_query, of_gallery)]
            rows = np.arange(len(pairs)), np.arange(len(pairs))
        else:
            rows = pairs[:, 0].copy(), pairs[:, 1].copy()
        found = Answers(np.empty(len(pairs), np.float32), np.empty(len(pairs), np.float32))
        query_side, gallery_side = (WeightedTokens(sides[k], marginals[k], rows[k]) for k in (0, 1))
        score(query_side, gallery_side, pairs, settings, found)
        scores[part], delivered[part] = found

    threads = threads or os.cpu_count() or 1
    step = max(1, min(_PRODUCTS_AT_ONCE // (num_query * num_gallery), -(-num_pairs // threads)))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(match, order[start : start + step]) for start in range(0, num_pairs, step)]:
            done.result()
    return Matches(torch.from_numpy(scores), torch.from_numpy(delivered))


def _raw(tokens: torch.Tensor) -> np.ndarray:
    """The numbers as a flat array of uint16 for any dtype, so that numba compiles for one kind of argument."""
    return tokens.cpu().numpy().reshape(-1).view(np.uint16)


def _match_in_batches(
    queries: Side,
    gallery: Side,
    pairs_P2: np.ndarray,
    weigh: Callable[[torch.Tensor], torch.Tensor],
    solver: str,
    device: str,
    *,
    epsilon: float,
    transported: float,
) -> torch.Tensor:
    """`match_pairs` by torch, a batch of pairs at once, for any solver and device; few tokens on CUDA go to a program for each pair."""
    query_side, gallery_side = unit_side(queries, weigh, device), unit_side(gallery, weigh, device)
    units = query_side.tokens_NKD, gallery_side.tokens_NKD
    (num_query, dims), num_gallery = units[0].shape[1:], units[1].shape[1]
    few = max(num_query, num_gallery) <= MOST_TOKENS and epsilon >= LEAST_EPSILON
    fused = solver == "sinkhorn" and units[0].is_cuda and few
    step = max(1, _BYTES_AT_ONCE // (4 * ((num_query + num_gallery) * dims + 4 * num_query * num_gallery)))
    scores = [torch.empty(0)]
    for pairs in torch.from_numpy(pairs_P2).to(device).split(step):
        marginals = pair_marginals(query_side, gallery_side, pairs, weigh)
        if fused:
            scores.append(
                fused_scores(
                    units[0], units[1], pairs, marginals[0], marginals[1],
                    epsilon=epsilon, transported=transported, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS,
                ).cpu()
            )  # fmt: skip
        else:
            cosine_PKL = units[0][pairs[:, 0]] @ units[1][pairs[:, 1]].mT
            plan_PKL = SOLVERS[solver](1 - cosine_PKL, *marginals, epsilon=epsilon, transported=transported)
            scores.append((plan_PKL * cosine_PKL).sum(dim=(1, 2)).cpu())
    return torch.cat(scores)
