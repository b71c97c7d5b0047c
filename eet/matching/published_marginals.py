"""The published marginals, and the uniform one. Each is float32, not negative, and sums to 1 over the last axis.

The definitions are those of the published code of DIML (Zhao et al., ICCV 2021) and of vit-reranking, except that they divide by the
sum, not by the sum plus 1e-5.
"""

import torch

_TEMPERATURE = 0.1  # published


def uniform(mass: torch.Tensor) -> torch.Tensor:
    """1 / K for each of K tokens; the mass is ignored."""
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
    """relu(correlation): tokens that resemble the other image send more (DIML). Uniform where none does."""
    return importance(correlation.clamp(min=0))


def inverse(correlation: torch.Tensor) -> torch.Tensor:
    """1 - relu(correlation), `use_minus` in the published code: tokens that the other image's global vector does not explain send more."""
    return importance(1 - correlation.clamp(min=0))


def exponential(correlation: torch.Tensor) -> torch.Tensor:
    """exp(-relu(correlation) / 0.1), `use_inverse` in the published code: a sharper `inverse`."""
    return importance(torch.exp(correlation.clamp(min=0) / -_TEMPERATURE))


def softmax(correlation: torch.Tensor) -> torch.Tensor:
    """The softmax of the correlation at temperature 1: nearly uniform, as correlations lie between -1 and 1."""
    return importance(torch.softmax(correlation, dim=-1))
