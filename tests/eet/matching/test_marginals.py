import torch

from eet.matching import MARGINALS, importance, uniform


def test_importance_is_the_mass_scaled_to_one() -> None:
    mass = torch.tensor([[1.0, 3.0], [0.5, 0.0], [-1.0, 2.0]], dtype=torch.float16)
    torch.testing.assert_close(importance(mass), torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(importance(torch.tensor([1e-38, 3e-38])), torch.tensor([0.25, 0.75]))


def test_mass_that_cannot_be_scaled_becomes_uniform_row_by_row() -> None:
    nan, inf = float("nan"), float("inf")
    mass = torch.tensor([[0.0, 0.0], [nan, 1.0], [inf, 1.0], [-3.0, 1.0], [1.0, 3.0]])
    marginal = importance(mass)
    torch.testing.assert_close(marginal[:4], torch.full((4, 2), 0.5))
    torch.testing.assert_close(marginal[4], torch.tensor([0.25, 0.75]))


def test_every_marginal_is_a_distribution_whatever_it_is_given() -> None:
    nan, inf = float("nan"), float("inf")
    numbers = torch.rand(5, 7, dtype=torch.float64) * 2 - 1
    numbers[1], numbers[2], numbers[3, 2], numbers[4, 1] = 0, -0.5, nan, inf
    for marginal in MARGINALS.values():
        weights = marginal.weigh(numbers)
        assert weights.dtype == torch.float32 and (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(5))
    torch.testing.assert_close(uniform(numbers), torch.full((5, 7), 1 / 7))


def test_marginals_of_correlations_are_the_published_formulas() -> None:
    a = torch.tensor([0.5, -0.2, 0.25, 0.0])
    relu = torch.tensor([0.5, 0.0, 0.25, 0.0])
    for name, weights in {
        "cross_correlation": relu,
        "inverse": 1 - relu,
        "exponential": torch.exp(-relu / 0.1),
        "softmax": torch.exp(a),
    }.items():
        assert MARGINALS[name].reads == "correlation"
        torch.testing.assert_close(MARGINALS[name].weigh(a), weights / weights.sum())
    # Nothing of this image looks like the other: there is no direction to prefer.
    torch.testing.assert_close(MARGINALS["cross_correlation"].weigh(-relu), torch.full((4,), 0.25))


def test_no_marginal_is_another_by_a_second_name() -> None:
    """Rollout is a mass that a gallery may hold, not a marginal: `importance` reads it."""
    functions = [marginal.weigh for marginal in MARGINALS.values()]
    assert len(set(functions)) == len(functions) and "rollout" not in MARGINALS
