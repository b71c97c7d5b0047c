"""The ways to solve a batch of transport problems, by name.

Shape suffixes: P problems, K rows, L columns.
"""

from collections.abc import Callable

import numpy as np
import torch

from eet.matching.sinkhorn import sinkhorn

_FORBIDDEN = 1e3  # cost of sending from dummy to dummy


def entropic(
    cost_PKL: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, *, epsilon: float, transported: float
) -> torch.Tensor:
    """The solver of this package, see `eet.matching.sinkhorn`."""
    return sinkhorn(cost_PKL, rows_PK, columns_PL, epsilon=epsilon, transported=transported).plan


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


SOLVERS: dict[str, Callable[..., torch.Tensor]] = {"sinkhorn": entropic, "exact": exact, "pot": pot}
"""Each takes cost (P, K, L), marginals (P, K) and (P, L), epsilon and transported, and returns plans, float32 (P, K, L)."""
