import importlib

import numpy as np
import ot
import pytest
import torch

from eet.matching import sinkhorn

# The package exports the function under the module's name.
SINKHORN_MODULE = importlib.import_module("eet.matching.sinkhorn")


def slow_sinkhorn(cost, u, v, epsilon, transported=1.0, iterations=20_000):  # type: ignore[no-untyped-def]
    """The dummy-point form as a dense float64 loop."""
    kernel = np.exp(-cost / epsilon)
    if transported < 1:
        kernel = np.pad(kernel, ((0, 1), (0, 1)), constant_values=1 - transported)
        kernel[-1, -1] = 0
        u, v = np.append(u, 1 - transported), np.append(v, 1 - transported)
    c = np.ones(len(v))
    for _ in range(iterations):
        r = u / (kernel @ c)
        c = v / (kernel.T @ r)
    plan = r[:, None] * kernel * c[None]
    return plan[: cost.shape[0], : cost.shape[1]]


def make_problems(seed: int, problems: int = 5, rows: int = 12, columns: int = 9):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    cost = rng.random((problems, rows, columns)) * np.linspace(0.2, 2, problems)[:, None, None]
    u, v = rng.random((problems, rows)) ** 3, rng.random((problems, columns))
    return cost, u / u.sum(1, keepdims=True), v / v.sum(1, keepdims=True)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(a) for a in arrays]


@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.02])
def test_full_transport_equals_pot(epsilon: float) -> None:
    cost, u, v = make_problems(0)
    plan, error = sinkhorn(*tensors(cost, u, v), epsilon=epsilon, max_iterations=20_000)
    assert plan.dtype == torch.float32 and (error <= 1e-5).all()
    for p in range(len(cost)):
        expected = ot.sinkhorn(u[p], v[p], cost[p], epsilon, numItermax=100_000, stopThr=1e-12)
        np.testing.assert_allclose(plan[p].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("transported", [0.05, 0.3, 0.7, 0.95])
def test_partial_transport_equals_the_dummy_point_loop(transported: float) -> None:
    cost, u, v = make_problems(1)
    plan, error = sinkhorn(*tensors(cost, u, v), transported=transported)
    assert (error <= 1e-5).all()
    for p in range(len(cost)):
        np.testing.assert_allclose(plan[p].numpy(), slow_sinkhorn(cost[p], u[p], v[p], 0.05, transported), atol=2e-5)
        assert (plan[p].sum(1).numpy() <= u[p] + 2e-5).all() and (plan[p].sum(0).numpy() <= v[p] + 2e-5).all()
    np.testing.assert_allclose(plan.sum((1, 2)).numpy(), transported, atol=2e-5)


@pytest.mark.parametrize("rows", [12, 49])
@pytest.mark.parametrize("mean_cosine", [0.0, 0.6, 0.9])
def test_partial_transport_delivers_its_mass_where_the_published_stop_does_not(rows: int, mean_cosine: float) -> None:
    rng = np.random.default_rng(2)
    cost = 1 - np.clip(rng.normal(mean_cosine, 0.05, size=(6, rows, rows)), -1, 1)
    even = np.full((6, rows), 1 / rows)
    for transported in (0.1, 0.5, 0.9):
        plan, _ = sinkhorn(*tensors(cost, even, even), transported=transported)
        np.testing.assert_allclose(plan.sum((1, 2)).numpy(), transported, atol=1e-3)


def test_a_wide_kernel_is_solved_by_newton_steps() -> None:
    """At this epsilon every kernel entry of a row can underflow float32."""
    cost, u, v = make_problems(3, rows=5, columns=6)
    cost[:, 2] += 5
    plan, error = sinkhorn(*tensors(cost, u, v), epsilon=0.01, max_iterations=20_000)
    assert torch.isfinite(plan).all() and (error < 1e-4).all()
    for p in range(len(cost)):
        expected = ot.bregman.sinkhorn_log(u[p], v[p], cost[p], 0.01, numItermax=50_000, stopThr=1e-10)
        np.testing.assert_allclose(plan[p].numpy(), expected, atol=2e-4)


def test_both_ways_of_solving_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = tensors(*make_problems(4))
    problems[1][:, 3] = 0
    problems[1] /= problems[1].sum(1, keepdim=True)
    for transported in (1.0, 0.6):
        scaling = sinkhorn(*problems, transported=transported).plan
        with monkeypatch.context() as patch:
            patch.setattr(SINKHORN_MODULE, "MAX_KERNEL_SPAN", -1.0)
            newton = sinkhorn(*problems, transported=transported).plan
        torch.testing.assert_close(scaling, newton, atol=2e-6, rtol=1e-3)
        assert (scaling[:, 3] == 0).all()


@pytest.mark.parametrize("largest_span", [60.0, -1.0])
def test_a_problem_does_not_feel_its_neighbours(monkeypatch: pytest.MonkeyPatch, largest_span: float) -> None:
    monkeypatch.setattr(SINKHORN_MODULE, "MAX_KERNEL_SPAN", largest_span)
    cost, u, v = make_problems(5)
    cost[1:] *= 0.01  # quick neighbours
    together = sinkhorn(*tensors(cost, u, v))
    for p in range(len(cost)):
        alone = sinkhorn(*tensors(cost[p : p + 1], u[p : p + 1], v[p : p + 1]))
        torch.testing.assert_close(alone.plan[0], together.plan[p], atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(alone.error[0], together.error[p], atol=5e-7, rtol=0)


def test_the_error_tells_of_unfinished_problems() -> None:
    cost, u, v = make_problems(6)
    plan, error = sinkhorn(*tensors(cost, u, v), max_iterations=3, newton_steps=0)
    assert error.max() > 1e-3
    np.testing.assert_allclose(error.numpy(), np.abs(plan.sum(2).numpy() - u).sum(1), atol=1e-5)


def test_no_problems_give_no_plans() -> None:
    plan, error = sinkhorn(torch.zeros(0, 3, 4), torch.zeros(0, 3), torch.zeros(0, 4))
    assert plan.shape == (0, 3, 4) and error.shape == (0,)


def test_wrong_arguments_are_refused() -> None:
    good = torch.ones(2, 3, 4), torch.full((2, 3), 1 / 3), torch.full((2, 4), 1 / 4)
    for options in ({"epsilon": 0.0}, {"epsilon": -1.0}, {"epsilon": float("nan")}):
        with pytest.raises(ValueError, match="epsilon"):
            sinkhorn(*good, **options)
    for transported in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="transported"):
            sinkhorn(*good, transported=transported)
    with pytest.raises(ValueError, match="do not fit"):
        sinkhorn(good[0], good[2], good[1])
    with pytest.raises(ValueError, match="at least one row"):
        sinkhorn(torch.ones(2, 0, 4), torch.ones(2, 0), good[2])
    with pytest.raises(ValueError, match="tolerance"):
        sinkhorn(*good, tolerance=0)
