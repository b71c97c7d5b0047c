"""Entropic optimal transport for a batch of small problems (Cuturi 2013), full or partial.

Shape suffixes: P problems, K rows, L columns.
"""

from typing import NamedTuple

import torch

from eet.errors import InputError
from eet.matching.newton_sinkhorn import NEWTON_STEPS, NEWTON_TOLERANCE, newton_sinkhorn

# Scaling vectors stay inside float32 while exp(-cost / epsilon) spans no more than this many e-folds (1e-26); beyond,
# Newton's method solves the problem on logarithms.
MAX_KERNEL_SPAN = 60.0

LEAST_SCALED_SHARE = 0.05
"""Down to this share of the mass, scaling in float32 can reach a tolerance relative to the share; a smaller one goes to Newton's method."""

CONVERGED = 1e-3
"""Relative error above which a plan is reported as not converged."""

# Below this, float32 cannot distinguish costs of order 1 after division by epsilon.
_SMALLEST_EPSILON = 1e-4


class Transport(NamedTuple):
    """Solved transport problems.

    Attributes:
        plan: float32 (P, K, L), non-negative; how much row k sends to column l.
        error: float32 (P,), L1 distance of the plan's row sums from the row marginal (the mass that stays counts too) relative
            to the share; columns hold up to rounding. So the mass that the plan moves is within this error of the share, relative
            to it. Above the tolerance where all iterations and steps ended first.
    """

    plan: torch.Tensor
    error: torch.Tensor


@torch.no_grad()
def sinkhorn(
    cost_PKL: torch.Tensor,
    row_marginal_PK: torch.Tensor,
    column_marginal_PL: torch.Tensor,
    *,
    epsilon: float = 0.05,
    transported: float = 1.0,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    check_every: int = 10,
    newton_steps: int = NEWTON_STEPS,
) -> Transport:
    """Plans T that minimise <T, cost> - epsilon * entropy(T) under the marginals.

    Partial transport moves only the share `transported` of the mass. It adds one dummy point to each side, which takes
    the other 1 - transported at no cost and may not send to the other dummy: marginals [u, 1 - s] and [v, 1 - s],
    corner forbidden. (The slack of the dummies carries entropy, which POT's entropic_partial_wasserstein leaves out, so
    its plans differ.) The returned plan is the block without the dummies, and sums to s.

    Each problem stops on its own error, so its result does not depend on the rest of the batch. The published loop
    stops on the mean of the batch, before partial transport has moved its mass.

    Scaling iterations in float32 solve most problems. Those that they cannot (a small epsilon, a small share) or did not
    finish are solved by Newton's method in float64, see `eet.matching.newton_sinkhorn`.

    Args:
        cost_PKL: finite, any float dtype; the computation is in float32.
        row_marginal_PK: non-negative, each row summing to 1 (see `eet.matching.marginals`). Zeros are allowed.
        column_marginal_PL: the same for the columns.
        epsilon: strength of the entropy, in the unit of cost; at least 1e-4.
        transported: share s of the mass to move, in (0, 1].
        tolerance: error at which a problem is done, relative to the share, above 0.
        max_iterations: most scaling iterations of a problem, at least 1.
        check_every: iterations between checks of the errors, at least 1 (each check waits for the device).
        newton_steps: most Newton steps of a problem that scaling does not solve; 0 leaves it as it is.

    Returns:
        Transport: plan and error. Not differentiable.

    Raises:
        InputError: shapes do not fit, or a parameter is out of range.
    """
    check_transport(epsilon, transported)
    shape = tuple(cost_PKL.shape)
    if cost_PKL.ndim != 3 or 0 in shape[1:]:
        raise InputError(f"cost has shape {shape}; give (problems, rows, columns) with at least one row and column.")
    if row_marginal_PK.shape != shape[:2] or column_marginal_PL.shape != (shape[0], shape[2]):
        raise InputError(
            f"marginals {tuple(row_marginal_PK.shape)} and {tuple(column_marginal_PL.shape)} do not fit cost {shape}; "
            f"give {shape[:2]} and {(shape[0], shape[2])}."
        )
    if tolerance <= 0 or max_iterations < 1 or check_every < 1 or newton_steps < 0:
        raise InputError(
            f"tolerance={tolerance}, max_iterations={max_iterations}, check_every={check_every}, newton_steps={newton_steps}; "
            "give a positive tolerance, counts from 1, and Newton steps from 0."
        )
    if shape[0] == 0:
        return Transport(cost_PKL.new_zeros(shape, dtype=torch.float32), cost_PKL.new_zeros(0, dtype=torch.float32))

    rows_PK, columns_PL = row_marginal_PK.float(), column_marginal_PL.float()
    log_kernel = cost_PKL.float() / -epsilon
    # A constant on the cost changes no plan; the largest kernel entry becomes 1.
    log_kernel = log_kernel - log_kernel.amax(dim=(1, 2), keepdim=True)
    if transported < 1:
        log_kernel, rows_PK, columns_PL = _with_dummies(log_kernel, rows_PK, columns_PL, transported)
        span = -log_kernel[:, :-1, :-1].min()
    else:
        span = -log_kernel.min()
    if (transported < LEAST_SCALED_SHARE or float(span) > MAX_KERNEL_SPAN) and newton_steps:
        plan, error = torch.empty(shape, dtype=torch.float32, device=cost_PKL.device), torch.full_like(rows_PK[:, 0], torch.inf)
    else:
        plan, error = _solve_by_scaling(log_kernel, rows_PK, columns_PL, tolerance * transported, max_iterations, check_every)
        plan, error = plan[:, : shape[1], : shape[2]], error / transported
    # Written so that NaN, of scaling vectors that overflowed, counts too.
    unsolved = torch.nonzero(~(error <= tolerance))[:, 0]
    if newton_steps and len(unsolved):
        plan[unsolved], error[unsolved] = newton_sinkhorn(
            cost_PKL[unsolved], row_marginal_PK[unsolved], column_marginal_PL[unsolved],
            epsilon=epsilon, transported=transported, tolerance=max(tolerance, NEWTON_TOLERANCE), max_steps=newton_steps,
        )  # fmt: skip
    return Transport(plan, error)


def check_transport(epsilon: float, transported: float) -> None:
    """Raise InputError unless epsilon is finite and at least 1e-4, and 0 < transported <= 1."""
    if not _SMALLEST_EPSILON <= epsilon < float("inf"):
        raise InputError(f"epsilon={epsilon}; give a finite number from {_SMALLEST_EPSILON} (published: 0.05).")
    if not 0 < transported <= 1:
        raise InputError(f"transported={transported}; give the share of mass to move, above 0 and up to 1.")


def _with_dummies(
    log_kernel: torch.Tensor, rows_PK: torch.Tensor, columns_PL: torch.Tensor, transported: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adds one dummy point to each side. Its kernel entries do not affect the plan; only the corner must be zero."""
    extended = torch.nn.functional.pad(log_kernel, (0, 1, 0, 1))
    extended[:, -1, -1] = -torch.inf
    slack = rows_PK.new_full((len(rows_PK), 1), 1 - transported)
    return extended, torch.cat([rows_PK, slack], dim=1), torch.cat([columns_PL, slack], dim=1)


def _solve_by_scaling(
    log_kernel: torch.Tensor,
    rows_PK: torch.Tensor,
    columns_PL: torch.Tensor,
    tolerance: float,
    max_iterations: int,
    check_every: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = log_kernel.exp()
    plan = torch.empty_like(kernel)
    error = torch.empty_like(rows_PK[:, 0])
    active = torch.arange(len(kernel), device=kernel.device)
    scale_columns = torch.ones_like(columns_PL)[:, :, None]
    rows, columns = rows_PK[:, :, None], columns_PL[:, :, None]
    received = kernel @ scale_columns
    iteration = 0
    while len(active):
        for _ in range(min(check_every, max_iterations - iteration)):
            scale_rows = rows / received
            scale_columns = columns / (kernel.mT @ scale_rows)
            received = kernel @ scale_columns
        iteration += check_every
        errors = (scale_rows * received - rows).abs().sum(dim=(1, 2))
        # An overflow ends its problem too: it cannot recover, and Newton's method then solves it.
        done = (errors <= tolerance) | ~errors.isfinite() | (iteration >= max_iterations)
        if bool(done.any()):
            plan[active[done]] = scale_rows[done] * kernel[done] * scale_columns[done].mT
            error[active[done]] = errors[done]
            going = ~done
            active, kernel, rows, columns = active[going], kernel[going], rows[going], columns[going]
            scale_columns, received = scale_columns[going], received[going]
    return plan, error
