"""One side of pairs as torch computes with it: tokens of unit length on a device, and the marginals of pairs.

Shape suffixes: N images, K tokens (Kq of the first side, Kg of the second), D dimensions, P pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from eet.matching.token_set import Side, unit_length

Weigh = Callable[[torch.Tensor], torch.Tensor]


class UnitSide(NamedTuple):
    """Tokens of unit length; and either their marginal, where it depends on the image alone, or the images' centres of unit length."""

    tokens_NKD: torch.Tensor
    marginal_NK: torch.Tensor | None
    center_ND: torch.Tensor | None


def unit_side(side: Side, weigh: Weigh, device: torch.device | str) -> UnitSide:
    """A checked side on a device. weigh: of the marginal."""
    return UnitSide(
        unit_length(side.tokens_NKD.to(device)),
        None if side.mass_NK is None else weigh(side.mass_NK.to(device)),
        None if side.center_ND is None else unit_length(side.center_ND.to(device)),
    )


def pair_marginals(first: UnitSide, second: UnitSide, pairs_P2: torch.Tensor, weigh: Weigh) -> tuple[torch.Tensor, torch.Tensor]:
    """The marginals of both images of each pair, (P, Kq) and (P, Kg). weigh: that of `unit_side`."""
    rows_P, columns_P = pairs_P2[:, 0], pairs_P2[:, 1]
    return _marginal(first, rows_P, second, columns_P, weigh), _marginal(second, columns_P, first, rows_P, weigh)


def _marginal(own: UnitSide, own_P: torch.Tensor, other: UnitSide, other_P: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    if own.marginal_NK is not None:
        return own.marginal_NK[own_P]
    assert other.center_ND is not None
    return weigh((own.tokens_NKD[own_P] @ other.center_ND[other_P, :, None])[..., 0])
