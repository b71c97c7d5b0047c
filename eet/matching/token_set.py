"""The tokens of some images, with their masses and global vectors.

Shape suffixes: N images, K tokens of each, D dimensions.
"""

import warnings
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from eet.errors import InputError

Array: TypeAlias = torch.Tensor | np.ndarray


class TokenSet(NamedTuple):
    """Tokens of N images, arrays or tensors.

    Attributes:
        tokens_NKD: float16 (as stored in galleries) or float32, of any length; they are scaled to length 1.
        mass_NK: importance of the tokens on any scale, or a relevancy map; None where the marginal does not read it.
        center_ND: global vectors in the space of the tokens (the final CLS); None for the mean of the unit-length tokens, as published
            for models without CLS.
    """

    tokens_NKD: Array
    mass_NK: Array | None = None
    center_ND: Array | None = None


class Side(NamedTuple):
    """A checked `TokenSet`, with only the mass or centres that the marginal reads. float16 tokens stay float16."""

    tokens_NKD: torch.Tensor
    mass_NK: torch.Tensor | None = None
    center_ND: torch.Tensor | None = None


def unit_length(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (..., D) as float32 of length 1; tokens with NaN or infinite entries become zeros, with cosine 0 to all others.

    Tokens that are or become zeros get a gradient of 0.
    """
    tokens = tokens.float()
    broken = ~torch.isfinite(tokens).all(dim=-1, keepdim=True)
    tokens = tokens.masked_fill(broken, 0.0)
    # Dividing by the largest entry first keeps the norm of very large or small tokens within float32.
    largest = tokens.detach().abs().amax(dim=-1, keepdim=True)
    tokens = (tokens / largest.clamp(min=torch.finfo(torch.float32).tiny)).masked_fill(largest == 0, 0.0)
    return torch.nn.functional.normalize(tokens, dim=-1)


def _tensor(values: Array) -> torch.Tensor:
    """As a tensor, without a copy. torch warns about read-only arrays, such as those of Arrow; nothing is written here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.as_tensor(values)


def checked(tokens: TokenSet, name: str, reads: str) -> Side:
    """`tokens` as tensors, with the input of a marginal.

    Args:
        tokens: of the images.
        name: what error messages call them.
        reads: "mass", "correlation" (centres) or "shape".

    Raises:
        InputError: shapes do not fit, or the masses are missing.
    """
    tokens_NKD = _tensor(tokens.tokens_NKD)
    if tokens_NKD.ndim != 3 or 0 in tokens_NKD.shape[1:]:
        raise InputError(f"{name} tokens have shape {tuple(tokens_NKD.shape)}; give (N, K, D) with at least one token: encode with tokens.")
    if tokens_NKD.dtype != torch.float16:
        tokens_NKD = tokens_NKD.float()
    num_images, num_tokens, dims = tokens_NKD.shape
    if reads == "correlation":
        center_ND = unit_length(tokens_NKD).mean(dim=1) if tokens.center_ND is None else _tensor(tokens.center_ND).float()
        if center_ND.shape != (num_images, dims):
            raise InputError(
                f"{name} centers are {tuple(center_ND.shape)}; give one for each image, as wide as its tokens: {(num_images, dims)}."
            )
        return Side(tokens_NKD.contiguous(), center_ND=center_ND.contiguous())
    if reads == "shape":
        return Side(tokens_NKD.contiguous(), mass_NK=torch.ones(num_images, num_tokens))
    if tokens.mass_NK is None:
        raise InputError(f"{name} have no token mass; give mass_NK, or choose a marginal that does not read it (such as uniform).")
    mass_NK = _tensor(tokens.mass_NK)
    if mass_NK.shape != (num_images, num_tokens):
        raise InputError(f"{name} masses are {tuple(mass_NK.shape)}; give one for each token: {(num_images, num_tokens)}.")
    return Side(tokens_NKD.contiguous(), mass_NK=mass_NK)
