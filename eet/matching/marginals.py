"""Marginals: how much each token of an image has to send or receive. Each is float32, positive or zero, and sums to 1.

Every marginal takes the tokens' masses (..., K) and returns the same shape.
"""

from collections.abc import Callable

import torch


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


MARGINALS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"uniform": uniform, "importance": importance}
