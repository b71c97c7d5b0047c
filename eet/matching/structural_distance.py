"""Structural distance: how far the regions of one image have to move onto those of another, as a term of training.

Shape suffixes: N images, K tokens (Kq of the first image, Kg of the second), D dimensions, P pairs.
"""

import torch

from eet.errors import InputError
from eet.matching.marginals import MARGINALS
from eet.matching.sinkhorn import check_transport, sinkhorn
from eet.matching.token_set import TokenSet, checked
from eet.matching.unit_side import pair_marginals, unit_side

PUBLISHED_EPSILON = 0.05


def structural_distance(
    first: TokenSet, second: TokenSet, pairs_P2: torch.Tensor, *, marginal: str = "uniform", epsilon: float = PUBLISHED_EPSILON
) -> torch.Tensor:
    """Mean Euclidean distance of the tokens that optimal transport matches: sum over i, j of T_ij ||x_i - y_j||.

    x and y are the tokens of the two images at unit length, and T is the entropic plan for the cost 1 - cosine. T is held fixed: the
    gradient reaches the tokens through the distances alone. So training draws matched regions together without changing what is matched.

    Source: the training loss of DIML (Zhao et al., ICCV 2021), as its published code computes it. That stops Sinkhorn early; here every
    problem converges.

    Args:
        first: tokens of N images, tensors; see `TokenSet` for the masses and centres that the marginal reads.
        second: the same for the other side; it may be `first`.
        pairs_P2: int64 on the tokens' device, (row of first, row of second) for each pair.
        marginal: one of `eet.matching.MARGINALS`.
        epsilon: strength of the entropy, at least 1e-4. Published: 0.05.

    Returns:
        float32 (P,) on the tokens' device, in [0, 2]; differentiable in the tokens of both sides.

    Raises:
        InputError: shapes do not fit, the masses are missing, the marginal is unknown, or epsilon is out of range.
    """
    check_transport(epsilon, transported=1.0)
    if marginal not in MARGINALS:
        raise InputError(f"marginal {marginal!r} is unknown; choose one of {', '.join(MARGINALS)}.")
    weigh, reads = MARGINALS[marginal]
    device = pairs_P2.device
    sides = [unit_side(checked(tokens, name, reads), weigh, device) for tokens, name in ((first, "first"), (second, "second"))]
    x_PKD, y_PKD = (side.tokens_NKD[pairs_P2[:, place]] for place, side in enumerate(sides))
    if x_PKD.shape[2] != y_PKD.shape[2]:
        raise InputError(f"tokens have {x_PKD.shape[2]} and {y_PKD.shape[2]} dimensions; give tokens of one model.")
    with torch.no_grad():
        marginals = pair_marginals(sides[0], sides[1], pairs_P2, weigh)
        plan_PKK = sinkhorn(1 - x_PKD @ y_PKD.mT, *marginals, epsilon=epsilon).plan
    return (plan_PKK * torch.cdist(x_PKD, y_PKD)).sum(dim=(1, 2))
