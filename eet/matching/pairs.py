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
from eet.matching.convergence import warn_unless_converged
from eet.matching.fused_sinkhorn import LEAST_EPSILON, MOST_TOKENS, fused_scores
from eet.matching.marginals import MARGINALS
from eet.matching.newton_sinkhorn import newton_sinkhorn
from eet.matching.sinkhorn import LEAST_SCALED_SHARE, check_transport, sinkhorn
from eet.matching.solvers import SOLVERS
from eet.matching.token_set import Array, Side, TokenSet, checked
from eet.matching.unit_side import pair_marginals, unit_side

COMPILED_SOLVERS = ("sinkhorn", "maxsim")
"""The solvers that have a compiled loop for CPUs."""

TOLERANCE = 2e-4
"""L1 error of the row sums below which the compiled loop updates once more and ends: scores are then within 5e-5 of converged ones.

If less than half of the mass is moved, the error relative to the share may be 4e-4.
"""

_NEWTON_TOLERANCE = 1e-4  # relative to the share, of the pairs that the loops do not finish

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

    Warns:
        ConvergenceWarning: some plans do not move the requested share, or break a marginal; see `matches_of_pairs` for which.
    """
    matches = matches_of_pairs(
        queries, gallery, pairs_P2,
        marginal=marginal, epsilon=epsilon, transported=transported, solver=solver, threads=threads, device=device,
    )  # fmt: skip
    warn_unless_converged(matches.error_P, "pair")
    return matches.scores_P


class Matches(NamedTuple):
    """scores_P: float32, never NaN. delivered_P: float32, the mass that the plans actually move.

    error_P: float32, the L1 error of the marginals, or the error of the delivered mass if that is greater, relative to the share. Above
    `eet.matching.sinkhorn.CONVERGED` the plan counts as not converged.
    """

    scores_P: torch.Tensor
    delivered_P: torch.Tensor
    error_P: torch.Tensor


def matches_of_pairs(
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
) -> Matches:
    """As `match_pairs`, with what each plan delivers and how far it is from converged, and without a warning."""
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
        )  # fmt: skip
    return _match_in_batches(query_side, gallery_side, pairs_P2, weigh, solver, device, epsilon=epsilon, transported=transported)


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
    """`matches_of_pairs` by compiled loops, of checked sides: `weigh` reads centres where these hold them, else masses.

    Pairs that the loop of transport cannot solve in float32, or did not finish, are solved by Newton's method.
    """
    from eet.matching import compiled_maxsim, compiled_sinkhorn
    from eet.matching.compiled_sinkhorn import Answers, Settings, Tokens, WeightedTokens, correlate

    score = {"sinkhorn": compiled_sinkhorn.score, "maxsim": compiled_maxsim.score}[solver]
    num_pairs, num_query, num_gallery = len(pairs_P2), queries.tokens_NKD.shape[1], gallery.tokens_NKD.shape[1]
    sides = [
        Tokens(_raw(side.tokens_NKD), side.tokens_NKD.dtype == torch.float16, *side.tokens_NKD.shape[1:]) for side in (queries, gallery)
    ]
    masses: list[Any] = [None if side.mass_NK is None else weigh(side.mass_NK).cpu().numpy() for side in (queries, gallery)]
    centers = [None if side.center_ND is None else _raw(side.center_ND) for side in (queries, gallery)]
    transports = solver == "sinkhorn"
    tolerance = _loop_tolerance(transported)
    settings = Settings(float(epsilon), float(transported), tolerance, MAX_ITERATIONS)
    # Pairs of one query are adjacent, so that its tokens are laid out once.
    order = np.argsort(pairs_P2[:, 0], kind="stable")
    scores, delivered, errors = np.zeros((3, num_pairs), np.float32)
    if transports and transported < LEAST_SCALED_SHARE:
        order, errors[:] = order[:0], np.inf

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
        found = Answers(*np.empty((3, len(pairs)), np.float32))
        query_side, gallery_side = (WeightedTokens(sides[k], marginals[k], rows[k]) for k in (0, 1))
        score(query_side, gallery_side, pairs, settings, found)
        scores[part], delivered[part], errors[part] = found

    threads = threads or os.cpu_count() or 1
    step = max(1, min(_PRODUCTS_AT_ONCE // (num_query * num_gallery), -(-num_pairs // threads)))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(match, order[start : start + step]) for start in range(0, len(order), step)]:
            done.result()
    unsolved = np.flatnonzero(~(errors <= tolerance))
    errors /= transported if transports else 1
    if len(unsolved):
        # Sides of the images in question alone, as all tokens of a side are scaled to unit length.
        images, places = zip(*(np.unique(side, return_inverse=True) for side in pairs_P2[unsolved].T), strict=True)
        few = [_of_images(side, torch.from_numpy(rows)) for side, rows in zip((queries, gallery), images, strict=True)]
        solved = _match_in_batches(
            few[0], few[1], np.stack(places, axis=1), weigh, solver, "cpu", epsilon=epsilon, transported=transported, newton=True
        )
        for whole, part in zip((scores, delivered, errors), solved, strict=True):
            whole[unsolved] = part.numpy()
    return Matches(*map(torch.from_numpy, (scores, delivered, errors)))


def _of_images(side: Side, rows: torch.Tensor) -> Side:
    mass, center = side.mass_NK, side.center_ND
    return Side(side.tokens_NKD[rows], None if mass is None else mass[rows], None if center is None else center[rows])


def _loop_tolerance(transported: float) -> float:
    """L1 error at which the loops end: relative to the share where that is small."""
    return TOLERANCE * min(1.0, 2 * transported)


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
    newton: bool = False,
) -> Matches:
    """`matches_of_pairs` by torch, a batch of pairs at once, for any solver and device; few tokens on CUDA go to a program for each pair.

    newton: solve by Newton's method alone, without scaling iterations.
    """
    query_side, gallery_side = unit_side(queries, weigh, device), unit_side(gallery, weigh, device)
    query_NKD, gallery_NLD = query_side.tokens_NKD, gallery_side.tokens_NKD
    (num_query, dims), num_gallery = query_NKD.shape[1:], gallery_NLD.shape[1]
    few = max(num_query, num_gallery) <= MOST_TOKENS and epsilon >= LEAST_EPSILON
    fused = solver == "sinkhorn" and query_NKD.is_cuda and few and transported >= LEAST_SCALED_SHARE
    step = max(1, _BYTES_AT_ONCE // (4 * ((num_query + num_gallery) * dims + 4 * num_query * num_gallery)))

    def by_newton(cosine_PKL: torch.Tensor, marginals: tuple[torch.Tensor, torch.Tensor]) -> Matches:
        solved = newton_sinkhorn(1 - cosine_PKL, *marginals, epsilon=epsilon, transported=transported, tolerance=_NEWTON_TOLERANCE)
        return _of_plan(*solved, cosine_PKL)

    def match(pairs: torch.Tensor) -> Matches:
        marginals = pair_marginals(query_side, gallery_side, pairs, weigh)
        if fused:
            tolerance = _loop_tolerance(transported)
            scores, delivered, errors = fused_scores(
                query_NKD, gallery_NLD, pairs, marginals[0], marginals[1],
                epsilon=epsilon, transported=transported, tolerance=tolerance, max_iterations=MAX_ITERATIONS,
            )  # fmt: skip
            found = Matches(scores, delivered, errors / transported)
            unsolved = torch.nonzero(~(errors <= tolerance))[:, 0]
            if len(unsolved):
                some = pairs[unsolved]
                cosine_PKL = query_NKD[some[:, 0]] @ gallery_NLD[some[:, 1]].mT
                solved = by_newton(cosine_PKL, (marginals[0][unsolved], marginals[1][unsolved]))
                for whole, part in zip(found, solved, strict=True):
                    whole[unsolved] = part
            return found
        cosine_PKL = query_NKD[pairs[:, 0]] @ gallery_NLD[pairs[:, 1]].mT
        if newton:
            return by_newton(cosine_PKL, marginals)
        if solver == "sinkhorn":
            return _of_plan(*sinkhorn(1 - cosine_PKL, *marginals, epsilon=epsilon, transported=transported), cosine_PKL)
        plan_PKL = SOLVERS[solver](1 - cosine_PKL, *marginals, epsilon=epsilon, transported=transported)
        share = 1.0 if solver == "maxsim" else transported
        return _of_plan(plan_PKL, (plan_PKL.sum(dim=(1, 2)) / share - 1).abs(), cosine_PKL)

    none = torch.empty(0)
    found = [Matches(none, none, none), *(match(pairs) for pairs in torch.from_numpy(pairs_P2).to(device).split(step))]
    return Matches(*(torch.cat([values.cpu() for values in parts]) for parts in zip(*found, strict=True)))


def _of_plan(plan_PKL: torch.Tensor, error_P: torch.Tensor, cosine_PKL: torch.Tensor) -> Matches:
    return Matches((plan_PKL * cosine_PKL).sum(dim=(1, 2)), plan_PKL.sum(dim=(1, 2)), error_P)
