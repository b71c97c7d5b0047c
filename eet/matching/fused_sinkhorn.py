"""Matching on a GPU: one Triton program for each pair, from tokens to score in registers.

Shape suffixes: N images, K query tokens, L gallery tokens, D dimensions, P pairs.
"""

import functools
from typing import Any

from torch import Tensor

MOST_TOKENS = 64
"""A kernel matrix of 64 x 64 fills the registers of a program; more tokens go to `eet.matching.sinkhorn`."""

LEAST_EPSILON = 1 / 30
"""Down to this, exp(-2 / epsilon), the widest range of cosines, stays within float32; a smaller epsilon goes to `eet.matching.sinkhorn`."""

LEAST_SIDE, DIMS_AT_ONCE = 16, 32

_FLOOR = 1e-30  # of what is divided by, as on the CPU


def fused_scores(
    query_NKD: Tensor,
    gallery_NLD: Tensor,
    pairs_P2: Tensor,
    query_marginal_PK: Tensor,
    gallery_marginal_PL: Tensor,
    *,
    epsilon: float,
    transported: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropic transport, each pair with its own stop.

    All tensors are on one CUDA device.

    Args:
        query_NKD: float32, contiguous, tokens of unit length (see `unit_length`), at most MOST_TOKENS for each image.
        gallery_NLD: the same for the gallery.
        pairs_P2: int64, (row of query_NKD, row of gallery_NLD) of each pair.
        query_marginal_PK: float32, contiguous, marginal of each pair's query.
        gallery_marginal_PL: the same for the gallery image.
        epsilon: strength of the entropy, at least LEAST_EPSILON.
        transported: share of the mass to move, in (0, 1].
        tolerance: L1 error of the row sums below which a pair is updated once more and ends.
        max_iterations: most updates of a pair.

    Returns:
        scores: <plan, cosine>; delivered: the mass that the plan moves; errors: L1 error of the row sums before their last update, above
        the tolerance where the iterations ended first. Each float32 (P,).
    """
    from triton import next_power_of_2

    num_query, num_gallery, dims = query_NKD.shape[1], gallery_NLD.shape[1], query_NKD.shape[2]
    assert max(num_query, num_gallery) <= MOST_TOKENS and epsilon >= LEAST_EPSILON
    scores_P, delivered_P, errors_P = query_marginal_PK.new_empty(3, len(pairs_P2))
    # tl.dot wants 16 or more a side.
    sides = [max(LEAST_SIDE, next_power_of_2(number)) for number in (num_query, num_gallery)]
    if len(pairs_P2):
        triton_program()[(len(pairs_P2),)](
            query_NKD, gallery_NLD, pairs_P2, query_marginal_PK, gallery_marginal_PL, scores_P, delivered_P, errors_P,
            num_query, num_gallery, dims, 1 / epsilon, 1 - transported, tolerance, max_iterations, _FLOOR,
            sides[0], sides[1], DIMS_AT_ONCE, num_warps=warps_for(*sides),
        )  # fmt: skip
    return scores_P, delivered_P, errors_P


def warps_for(query_side: int, gallery_side: int) -> int:
    """Warps of a program: one for the smallest matrix, whose sums then stay within the warp; otherwise four, or registers would spill."""
    return 1 if query_side * gallery_side <= LEAST_SIDE**2 else 4


@functools.cache
def triton_program() -> Any:
    """The program that the GPU runs; triton compiles it at its first call."""
    import triton
    import triton.language as tl

    @triton.jit
    def program(  # type: ignore[no-untyped-def]
        query, gallery, pairs, query_marginal, gallery_marginal, scores, delivered, errors, num_query, num_gallery, dims,
        sharpness, slack, tolerance, max_iterations, floor, K: tl.constexpr, L: tl.constexpr, D: tl.constexpr,
    ):  # fmt: skip
        pair = tl.program_id(0).to(tl.int64)
        query_row, gallery_row = tl.load(pairs + 2 * pair), tl.load(pairs + 2 * pair + 1)
        k, l, d = tl.arange(0, K), tl.arange(0, L), tl.arange(0, D)  # noqa: E741
        cosine = tl.zeros((K, L), tl.float32)
        for start in range(0, dims, D):
            here = start + d
            q = tl.load(
                query + (query_row * num_query + k[:, None]) * dims + here[None, :],
                mask=(k[:, None] < num_query) & (here[None, :] < dims),
                other=0.0,
            )
            g = tl.load(
                gallery + (gallery_row * num_gallery + l[None, :]) * dims + here[:, None],
                mask=(l[None, :] < num_gallery) & (here[:, None] < dims),
                other=0.0,
            )
            cosine = tl.dot(q, g, cosine, input_precision="ieee")
        real = (k[:, None] < num_query) & (l[None, :] < num_gallery)
        highest = tl.max(tl.max(tl.where(real, cosine, -2.0), 1), 0)
        kernel = tl.where(real, tl.exp((cosine - highest) * sharpness), 0.0)
        rows = tl.load(query_marginal + pair * num_query + k, mask=k < num_query, other=0.0)
        columns = tl.load(gallery_marginal + pair * num_gallery + l, mask=l < num_gallery, other=0.0)
        # One dummy point a side, its kernel entries 1, the corner 0; without slack it has no mass and no part in anything.
        scale_rows, scale_columns = rows * 0.0, tl.where(l < num_gallery, 1.0, 0.0)
        dummy_row, dummy_column = slack * 0.0, tl.where(slack > 0.0, 1.0, 0.0)
        error, iteration = tolerance + 1.0, 0
        while (error > tolerance) & (iteration < max_iterations):
            received = tl.sum(kernel * scale_columns[None, :], 1) + dummy_column
            received_by_dummy = tl.sum(scale_columns, 0)
            error = tl.sum(tl.abs(scale_rows * received - rows), 0) + tl.abs(dummy_row * received_by_dummy - slack)
            scale_rows = rows / tl.maximum(received, floor)
            dummy_row = slack / tl.maximum(received_by_dummy, floor)
            sent = tl.sum(kernel * scale_rows[:, None], 0) + dummy_row
            dummy_column = slack / tl.maximum(tl.sum(scale_rows, 0), floor)
            scale_columns = columns / tl.maximum(sent, floor)
            iteration += 1
        plan = scale_rows[:, None] * kernel * scale_columns[None, :]
        tl.store(scores + pair, tl.sum(tl.sum(plan * cosine, 1), 0))
        tl.store(delivered + pair, tl.sum(tl.sum(plan, 1), 0))
        tl.store(errors + pair, error)

    return program
