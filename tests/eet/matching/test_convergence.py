import warnings

import pytest
import torch

from eet.matching import ConvergenceWarning
from eet.matching.convergence import warn_unless_converged


def test_a_warning_says_how_many_did_not_converge_and_how_far_the_worst_is() -> None:
    with pytest.warns(ConvergenceWarning, match=r"2 of 3 pairs did not converge: .*, pair 2 by 0\.3\. Choose a larger epsilon"):
        warn_unless_converged(torch.tensor([1e-5, 0.02, 0.3]), "pair")
    with pytest.warns(ConvergenceWarning, match="1 of 2 pairs .* pair 1 by nan"):
        warn_unless_converged(torch.tensor([0.0, float("nan")]), "pair")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unless_converged(torch.tensor([0.0, 1e-4]), "pair")
