"""A warning where transport did not converge.

Shape suffix: P problems.
"""

import warnings

from torch import Tensor

from eet.matching.sinkhorn import CONVERGED


class ConvergenceWarning(UserWarning):
    """Some plans do not move the requested share of the mass, or break a marginal. The message says which, and how far."""


def warn_unless_converged(error_P: Tensor, noun: str) -> None:
    """Issues a ConvergenceWarning if a relative error is above CONVERGED (NaN counts as above). noun: what a problem is called."""
    missed_P = ~(error_P <= CONVERGED)
    count = int(missed_P.sum())
    if count:
        worst = int(error_P.nan_to_num(nan=float("inf")).argmax())
        warnings.warn(
            f"{count} of {len(error_P)} {noun}s did not converge: their plans miss the requested share or a marginal by more than "
            f"{CONVERGED:g} of the share, {noun} {worst} by {float(error_P[worst]):.2g}. Choose a larger epsilon or transported share.",
            ConvergenceWarning,
            stacklevel=3,
        )
