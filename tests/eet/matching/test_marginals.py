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


def test_every_marginal_is_a_distribution() -> None:
    mass = torch.rand(3, 4, 7, dtype=torch.float64)
    for marginal in MARGINALS.values():
        assert marginal(mass).dtype == torch.float32
        torch.testing.assert_close(marginal(mass).sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(uniform(mass), torch.full((3, 4, 7), 1 / 7))
