"""Entropic transport by Newton's method in float64, for the problems that scaling iterations do not finish.

Scaling converges linearly: thousands of iterations at a small epsilon, or at a small share of the mass. Newton's method needs tens of
steps, each of which solves a linear system of K + L + 1 unknowns.

Shape suffixes: P problems, K rows, L columns, M = K + L + 1 potentials.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NEWTON_STEPS = 400
"""Most steps of a problem. Nearly equal images with equal masses, share 0.999 and epsilon 1e-4 need more."""

NEWTON_TOLERANCE = 1e-9
"""Below this, rounding of exponents of cost / epsilon = 20,000 in float64 may keep a problem from its tolerance."""

_BYTES_AT_ONCE = 1 << 28  # of the systems that are solved at once
_WIDEST_START = 20.0  # e-folds that exp(-cost / epsilon) spans in the first stage
_EPSILON_STEP = 4.0  # between stages
_STAGE_STEPS = 20  # at most, in each stage before the last
_STAGE_TOLERANCE = 1e-2  # relative error at which a stage before the last ends
_RIDGE = 1e-10  # relative; some directions change no plan, such as a constant moved from the rows' potentials to the columns'


class Problem(NamedTuple):
    """Float64. log_rows, log_columns: logarithms of the marginals, -inf for tokens without mass."""

    cost: Tensor
    log_rows: Tensor
    log_columns: Tensor
    transported: float

    def at(self, which: Tensor) -> "Problem":
        return Problem(self.cost[which], self.log_rows[which], self.log_columns[which], self.transported)


class Potentials(NamedTuple):
    """In units of cost. rows (P, K), columns (P, L); share (P,), of the share that is moved, 0 where all is moved."""

    rows: Tensor
    columns: Tensor
    share: Tensor

    def at(self, which: Tensor) -> "Potentials":
        return Potentials(self.rows[which], self.columns[which], self.share[which])


@torch.no_grad()
def newton_sinkhorn(
    cost_PKL: Tensor,
    row_marginal_PK: Tensor,
    column_marginal_PL: Tensor,
    *,
    epsilon: float,
    transported: float,
    tolerance: float,
    max_steps: int = NEWTON_STEPS,
) -> tuple[Tensor, Tensor]:
    """The problems of `eet.matching.sinkhorn`, to a tolerance relative to the share.

    With p and q the masses that stay on the rows and the columns, the plan is T = exp((f + g + h - cost) / epsilon), p = exp(f / epsilon)
    and q = exp(g / epsilon). The potentials f, g and h maximise a concave function, whose gradient is what the marginals and the share
    miss: u - T1 - p, v - T'1 - q, s - sum(T). (With all mass moved, p, q and h do not exist.) epsilon falls in stages from a value at
    which the problem is easy. A step is one update of all rows, of all columns and of the share, then one Newton step, shortened to
    log(1 + d) / d of itself where it would change an exponent by d: that never lowers the function, so no line search is needed.

    Source: step length of Sun and Tran-Dinh, Generalized self-concordant functions, Mathematical Programming 2019, section 4.

    Args:
        cost_PKL, row_marginal_PK, column_marginal_PL, epsilon, transported: as `sinkhorn` takes them, checked.
        tolerance: L1 error of rows and columns and error of the share, all relative to the share, at which a problem is done.
        max_steps: limit of the steps in the last stage.

    Returns:
        plan, float32 (P, K, L), scaled to the share exactly where the problem is done; and its relative error, float32 (P,).
    """
    plan = torch.empty(cost_PKL.shape, dtype=torch.float32, device=cost_PKL.device)
    error = torch.empty(len(cost_PKL), dtype=torch.float32, device=cost_PKL.device)
    unknowns = cost_PKL.shape[1] + cost_PKL.shape[2] + 1
    for block in torch.arange(len(cost_PKL), device=cost_PKL.device).split(max(1, _BYTES_AT_ONCE // (8 * 4 * unknowns**2))):
        rows, columns = (marginal[block].double() for marginal in (row_marginal_PK, column_marginal_PL))
        # float32 sums differ in the last digits: by more than the tolerance where the share is small.
        rows, columns = rows / rows.sum(dim=1, keepdim=True), columns / columns.sum(dim=1, keepdim=True)
        problem = Problem(cost_PKL[block].double(), rows.log(), columns.log(), transported)
        plan[block], error[block] = _solve(problem, epsilon, tolerance, max_steps)
    return plan, error


def _solve(problem: Problem, epsilon: float, tolerance: float, max_steps: int) -> tuple[Tensor, Tensor]:
    cost = problem.cost
    lowest = cost.amin(dim=(1, 2))
    potentials = Potentials(torch.zeros_like(problem.log_rows), torch.zeros_like(problem.log_columns), lowest.clone())
    # Each problem has stages of its own: its plan does not depend on the rest of the batch.
    stage = (cost.amax(dim=(1, 2)) - lowest) / _WIDEST_START
    while bool((stage > epsilon).any()):
        early = torch.nonzero(stage > epsilon)[:, 0]
        moved, _ = _ascend(problem.at(early), potentials.at(early), stage[early], _STAGE_TOLERANCE, _STAGE_STEPS)
        for whole, part in zip(potentials, moved, strict=True):
            whole[early] = part
        stage = stage / _EPSILON_STEP
    last = torch.full_like(stage, epsilon)
    potentials, error = _ascend(problem, potentials, last, tolerance, max_steps)
    plan = _log_plan(problem, potentials, last).exp()
    # What is left of the error of the share, below the tolerance, is taken away.
    total = plan.sum(dim=(1, 2), keepdim=True)
    done = (error <= tolerance)[:, None, None]
    return torch.where(done, plan * (problem.transported / total), plan).float(), error.float()


def _ascend(problem: Problem, potentials: Potentials, epsilon_P: Tensor, tolerance: float, max_steps: int) -> tuple[Potentials, Tensor]:
    """Steps at an epsilon for each problem, until it is within the tolerance or `max_steps` are done. Returns the relative errors too."""
    error = torch.full_like(potentials.share, torch.inf)
    active = torch.arange(len(error), device=error.device)
    for step in range(max_steps + 1):
        current, epsilon_A = problem.at(active), epsilon_P[active]
        here = _update(current, potentials.at(active), epsilon_A)
        moved, error[active] = _newton_step(current, here, epsilon_A)
        going = error[active] > tolerance
        if step == max_steps:
            going = torch.zeros_like(going)
        for kept, updated, stepped in zip(potentials, here, moved, strict=True):
            shape = (-1, *[1] * (kept.ndim - 1))
            kept[active] = torch.where(going.reshape(shape), stepped, updated)
        active = active[going]
        if not len(active):
            break
    return potentials, error


def _log_plan(problem: Problem, potentials: Potentials, epsilon_P: Tensor) -> Tensor:
    exponent = potentials.rows[:, :, None] + potentials.columns[:, None] + potentials.share[:, None, None] - problem.cost
    return exponent / epsilon_P[:, None, None]


def _update(problem: Problem, potentials: Potentials, epsilon_P: Tensor) -> Potentials:
    """Rows, then columns, then the share get the potentials that fulfil them while the others stay."""
    rows, columns, share = potentials
    partial = problem.transported < 1
    epsilon_P1 = epsilon_P[:, None]

    def fulfil(log_marginal: Tensor, log_received: Tensor) -> Tensor:
        # What stays is another 1 in the sum that exp(potential / epsilon) multiplies.
        log_sum = torch.logaddexp(log_received, torch.zeros_like(log_received)) if partial else log_received
        return epsilon_P1 * (log_marginal - log_sum)

    kernel = (share[:, None, None] - problem.cost) / epsilon_P1[:, None]
    rows = fulfil(problem.log_rows, (kernel + (columns / epsilon_P1)[:, None]).logsumexp(dim=2))
    columns = fulfil(problem.log_columns, (kernel + (rows / epsilon_P1)[:, :, None]).logsumexp(dim=1))
    if partial:
        log_total = _log_plan(problem, Potentials(rows, columns, share), epsilon_P).logsumexp(dim=(1, 2))
        share = share + epsilon_P * (math.log(problem.transported) - log_total)
    return Potentials(rows, columns, share)


def _newton_step(problem: Problem, potentials: Potentials, epsilon_P: Tensor) -> tuple[Potentials, Tensor]:
    """The potentials after one shortened Newton step, and the relative error before it."""
    num_rows, num_columns, transported = *problem.cost.shape[1:], problem.transported
    plan = _log_plan(problem, potentials, epsilon_P).exp()
    row_sums, column_sums = plan.sum(dim=2), plan.sum(dim=1)
    rows, columns = row_sums, column_sums
    if transported < 1:
        rows = rows + (potentials.rows / epsilon_P[:, None]).exp()
        columns = columns + (potentials.columns / epsilon_P[:, None]).exp()
    gradient = torch.cat([problem.log_rows.exp() - rows, problem.log_columns.exp() - columns], dim=1)
    error = gradient.abs().sum(dim=1) / transported
    diagonal = torch.cat([rows, columns], dim=1)
    system = torch.diag_embed(diagonal)
    system[:, :num_rows, num_rows:] = plan
    system[:, num_rows:, :num_rows] = plan.mT
    if transported < 1:
        total = row_sums.sum(dim=1, keepdim=True)
        error = torch.maximum(error, (total[:, 0] / transported - 1).abs())
        border = torch.cat([row_sums, column_sums], dim=1)
        system = torch.cat([torch.cat([system, border[:, :, None]], dim=2), torch.cat([border, total], dim=1)[:, None]], dim=1)
        gradient, diagonal = torch.cat([gradient, transported - total], dim=1), torch.cat([diagonal, total], dim=1)
    # Scaled to ones on the diagonal; a token without mass has zeros there, and stays as it is.
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    system = system * scale[:, :, None] * scale[:, None]
    system.diagonal(dim1=1, dim2=2).fill_(1 + _RIDGE)
    factor, failed = torch.linalg.cholesky_ex(system)
    step = torch.cholesky_solve((gradient * scale)[:, :, None], factor)[:, :, 0] * scale
    step = torch.where((failed == 0)[:, None] & step.isfinite(), step, 0.0)
    for_rows, for_columns = step[:, :num_rows], step[:, num_rows : num_rows + num_columns]
    for_share = step[:, -1] if transported < 1 else torch.zeros_like(error)
    changes = (for_rows[:, :, None] + for_columns[:, None] + for_share[:, None, None]).abs().amax(dim=(1, 2))
    if transported < 1:
        changes = torch.maximum(changes, step[:, :-1].abs().amax(dim=1))
    length = torch.where(changes > 0, changes.log1p() / changes, 1.0) * epsilon_P
    stepped = Potentials(
        potentials.rows + length[:, None] * for_rows,
        potentials.columns + length[:, None] * for_columns,
        potentials.share + length * for_share,
    )
    return stepped, error
