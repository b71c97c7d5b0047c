"""Marginals: how much each token of an image has to send or receive. Each is float32, positive or zero, and sums to 1 over the last axis.

Every marginal takes numbers of any shape (..., K) and returns the same shape. What they are is in `MARGINALS`: masses of the tokens, of the
image alone, or correlations, the cosines of its tokens with the global vector ("centre") of the other image, so that they are of the pair.
As in the published code of DIML (Zhao et al., ICCV 2021) and of vit-reranking, divided by their sum and not by 1e-5 more.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

_TEMPERATURE = 0.1  # published


def uniform(mass: torch.Tensor) -> torch.Tensor:
    """1 / K for each of K tokens, whatever their mass."""
    return torch.full(mass.shape, 1 / mass.shape[-1], dtype=torch.float32, device=mass.device)


def importance(mass: torch.Tensor) -> torch.Tensor:
    """The tokens' mass, scaled to sum to 1. Negative entries count as 0.

    A row that cannot be scaled (NaN or infinite entries, or a sum that is not positive) becomes uniform: the published
    code divides there, and the NaN that follows sorts to rank 1.
    """
    mass = mass.float()
    sums = mass.sum(dim=-1, keepdim=True)
    usable = torch.isfinite(mass).all(dim=-1, keepdim=True) & torch.isfinite(sums) & (sums > 0)
    positive = mass.clamp(min=0)
    # The largest entry is divided out first, so that sums of very small masses keep their digits.
    positive = positive / positive.amax(dim=-1, keepdim=True)
    return torch.where(usable, positive / positive.sum(dim=-1, keepdim=True), uniform(mass))


def cross_correlation(correlation: torch.Tensor) -> torch.Tensor:
    """relu(correlation): what looks like the other image sends more (DIML). Uniform where nothing does."""
    return importance(correlation.clamp(min=0))


def inverse(correlation: torch.Tensor) -> torch.Tensor:
    """1 - relu(correlation), `use_minus` in the published code: what the global vector does not tell sends more."""
    return importance(1 - correlation.clamp(min=0))


def exponential(correlation: torch.Tensor) -> torch.Tensor:
    """exp(-relu(correlation) / 0.1), `use_inverse` in the published code: a sharper `inverse`."""
    return importance(torch.exp(correlation.clamp(min=0) / -_TEMPERATURE))


def softmax(correlation: torch.Tensor) -> torch.Tensor:
    """softmax(correlation) at temperature 1: nearly uniform, as correlations lie between -1 and 1."""
    return importance(torch.softmax(correlation, dim=-1))


class Marginal(NamedTuple):
    """weigh: the function. reads: what it is given: mass (of an image), correlation (of a pair), or anything, for its shape alone."""

    weigh: Callable[[torch.Tensor], torch.Tensor]
    reads: Literal["shape", "mass", "correlation"]


MARGINALS: dict[str, Marginal] = {
    "uniform": Marginal(uniform, "shape"),
    "importance": Marginal(importance, "mass"),
    "cross_correlation": Marginal(cross_correlation, "correlation"),
    "inverse": Marginal(inverse, "correlation"),
    "exponential": Marginal(exponential, "correlation"),
    "softmax": Marginal(softmax, "correlation"),
}
