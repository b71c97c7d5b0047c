"""Marginals by name: how much mass each token of an image sends or receives. Each is float32, not negative, and sums to 1 (last axis).

A marginal takes numbers of shape (..., K) and returns the same shape. `MARGINALS` lists what it reads: masses of the tokens, which depend
on the image alone; or correlations, the cosines of the tokens with the global vector ("centre") of the other image, which depend on the
pair.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from eet.matching.published_marginals import cross_correlation, exponential, importance, inverse, softmax, uniform


class Marginal(NamedTuple):
    """A marginal and its input.

    Attributes:
        weigh: the function.
        reads: its input: "mass" (of an image), "correlation" (of a pair), or "shape" (only the shape matters).
    """

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
