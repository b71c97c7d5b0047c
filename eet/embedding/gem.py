"""Generalised-mean pooling (GeM)."""

import torch
from torch import Tensor, nn

from eet.embedding.aggregation import Aggregation
from eet.errors import InputError

LEAST = 1e-6


class GeMAggregation(Aggregation):
    """For each dimension (mean of max(x, 1e-6)^p over the patches)^(1/p). p = 1 is the mean, and a large p is near the maximum.

    Source: Radenovic et al., Fine-tuning CNN image retrieval with no human annotation, TPAMI 2019, section 3.2, with one p for all
    dimensions.

    Args:
        width: D.
        num_patches: N, not used.
        power: initial value of p, above 0; it is trained.

    Raises:
        InputError: power is 0 or below.
    """

    def __init__(self, width: int, num_patches: int, *, power: float = 3.0) -> None:
        super().__init__()
        if not 0 < power < float("inf"):
            raise InputError(f"power={power} of gem: use a number above 0 (published: 3)")
        self.width = width
        self.power = nn.Parameter(torch.tensor(float(power)))

    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        assert patches_BND is not None
        return patches_BND.float().clamp(min=LEAST).pow(self.power).mean(dim=1).pow(1 / self.power)
