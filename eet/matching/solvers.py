"""The ways to match the tokens of a batch of pairs, by name: each makes a plan, how much of which token goes to which other.

Shape suffixes: P problems, K rows, L columns.
"""

from collections.abc import Callable

import numpy as np
import torch

from eet.matching.convergence import warn_unless_converged
from eet.matching.sinkhorn import sinkhorn

_FORBIDDEN = 1e3  # cost of sending from dummy to dummy


def entropic(
    cost_PKL: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, *, epsilon: float, transported: float
) -> torch.Tensor:
    """The solver of this package, see `eet.matching.sinkhorn`. A ConvergenceWarning names problems that did not converge."""
    solved = sinkhorn(cost_PKL, rows_PK, columns_PL, epsilon=epsilon, transported=transported)
    warn_unless_converged(solved.error, "problem")
    return solved.plan


def exact(cost_PKL: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, *, epsilon: float, transported: float) -> torch.Tensor:
    """No entropy: POT's network simplex, one problem after another in float64 on the CPU. epsilon is ignored."""
    import ot

    cost, rows, columns = (values.double().cpu().numpy() for values in (cost_PKL, rows_PK, columns_PL))
    plans = np.zeros_like(cost)
    for p in range(len(cost)):
        # Sums that differ in the last digits of float32 are refused.
        row, column = rows[p] / rows[p].sum(), columns[p] / columns[p].sum()
        if transported < 1:
            plans[p] = ot.partial.partial_wasserstein(row, column, cost[p], m=transported)
        else:
            plans[p] = ot.emd(row, column, cost[p])
    return torch.from_numpy(plans).to(cost_PKL.device, torch.float32)


def pot(cost_PKL: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, *, epsilon: float, transported: float) -> torch.Tensor:
    """The problem of `entropic`, by `ot.batch` in log domain; it stops on the worst problem of the batch."""
    from ot.batch import solve_batch

    cost, rows, columns = cost_PKL.float(), rows_PK, columns_PL
    if transported < 1:
        cost = torch.nn.functional.pad(cost, (0, 1, 0, 1))
        cost[:, -1, -1] = _FORBIDDEN
        slack = rows.new_full((len(rows), 1), 1 - transported)
        rows, columns = torch.cat([rows, slack], dim=1), torch.cat([columns, slack], dim=1)
    # Its loop takes logarithms of the marginals, so tokens without mass get a negligible mass.
    rows, columns = rows.clamp(min=1e-30), columns.clamp(min=1e-30)
    if len(cost) == 0:
        return cost_PKL.new_zeros(cost_PKL.shape, dtype=torch.float32)
    solved = solve_batch(cost, epsilon, rows, columns, max_iter=2000, tol=1e-6, method="log_sinkhorn", grad="detach")
    return solved.plan[:, : cost_PKL.shape[1], : cost_PKL.shape[2]]


def maxsim(cost_PKL: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, *, epsilon: float, transported: float) -> torch.Tensor:
    """Late interaction: each row sends all of its mass to its cheapest column, however much that column gets from others.

    With the cost 1 - cosine, <plan, cosine> is the mean over the query's tokens (the rows) of their greatest cosine with a token of the
    item, weighted by the query's marginal: the plain mean where that is uniform. It is transport without the constraint on the columns, so
    it is never below the score of `exact` at transported = 1, and swapping query and item changes it.

    Columns without mass get nothing; how much mass the others have does not matter. epsilon and transported are ignored: the whole mass of
    the query is matched. Of equally cheap columns the first is taken.

    Source: Khattab and Zaharia, ColBERT, SIGIR 2020, section 3.3 (there the sum over the query's tokens, not the mean).
    """
    best_PK1 = cost_PKL.masked_fill((columns_PL == 0)[:, None], torch.inf).argmin(dim=2, keepdim=True)
    return torch.zeros_like(cost_PKL, dtype=torch.float32).scatter_(2, best_PK1, rows_PK.float()[:, :, None])


SOLVERS: dict[str, Callable[..., torch.Tensor]] = {"sinkhorn": entropic, "exact": exact, "pot": pot, "maxsim": maxsim}
"""Each takes cost (P, K, L), marginals (P, K) and (P, L), epsilon and transported, and returns plans, float32 (P, K, L)."""
