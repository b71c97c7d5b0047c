"""The structural distance against POT and a plain loop, and its gradient."""

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F

from eet.errors import InputError
from eet.matching import MARGINALS, TokenSet, structural_distance

PAIRS = torch.tensor([[0, 1], [2, 0], [1, 1], [0, 1]])


def draw(seed: int, images: int, tokens: int, dims: int = 16) -> TokenSet:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.ones(dims) / dims**0.5
    drawn = direction + F.normalize(torch.randn(images, tokens, dims, generator=generator), dim=2)
    return TokenSet(drawn * 3, torch.rand(images, tokens, generator=generator), torch.randn(images, dims, generator=generator) + direction)


def plan_of(first: TokenSet, second: TokenSet, one: int, other: int, marginal: str, epsilon: float) -> np.ndarray:
    """POT's, in float64."""
    x, y = F.normalize(first.tokens_NKD[one].double(), dim=1), F.normalize(second.tokens_NKD[other].double(), dim=1)
    given = first.mass_NK[one], second.mass_NK[other]
    if MARGINALS[marginal].reads == "correlation":
        given = (
            x @ F.normalize(second.center_ND[other].double(), dim=0),
            y @ F.normalize(first.center_ND[one].double(), dim=0),
        )
    u, v = (MARGINALS[marginal].weigh(numbers).double().numpy() for numbers in given)
    cost = 1 - (x @ y.T).numpy()
    return ot.sinkhorn(u / u.sum(), v / v.sum(), cost, epsilon, numItermax=100_000, stopThr=1e-12)


@pytest.mark.parametrize("marginal", list(MARGINALS))
@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_it_is_the_mean_distance_of_what_transport_matches(marginal: str, epsilon: float) -> None:
    first, second = draw(0, 3, 9), draw(1, 2, 7)
    found = structural_distance(first, second, PAIRS, marginal=marginal, epsilon=epsilon)
    assert found.dtype == torch.float32 and found.shape == (4,) and found[0] == found[3]
    for p, (one, other) in enumerate(PAIRS.tolist()):
        plan = plan_of(first, second, one, other, marginal, epsilon)
        slow = 0.0
        for i in range(9):
            for j in range(7):
                x, y = first.tokens_NKD[one, i], second.tokens_NKD[other, j]
                slow += plan[i, j] * float((x / x.norm() - y / y.norm()).norm())
        assert float(found[p]) == pytest.approx(slow, abs=2e-5)


def test_the_gradient_reaches_the_tokens_and_not_the_plan() -> None:
    first, second = draw(2, 3, 9), draw(3, 2, 7)
    moving = [side.tokens_NKD.clone().requires_grad_() for side in (first, second)]
    sides = [side._replace(tokens_NKD=tokens) for side, tokens in zip((first, second), moving, strict=True)]
    structural_distance(*sides, PAIRS, marginal="inverse").sum().backward()
    again = [side.tokens_NKD.clone().double().requires_grad_() for side in (first, second)]
    for one, other in PAIRS.tolist():
        plan = torch.from_numpy(plan_of(first, second, one, other, "inverse", 0.05))
        x, y = F.normalize(again[0][one], dim=1), F.normalize(again[1][other], dim=1)
        (plan * (x[:, None] - y[None]).norm(dim=2)).sum().backward()
    for tokens, expected in zip(moving, again, strict=True):
        assert tokens.grad.abs().max() > 1e-3
        torch.testing.assert_close(tokens.grad, expected.grad.float(), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("tokens", [4, 49])
def test_equal_and_broken_tokens_have_a_finite_gradient(tokens: int) -> None:
    side = draw(4, 2, tokens)
    side.tokens_NKD[1] = side.tokens_NKD[0]
    side.tokens_NKD[1, 0] = 0
    side.tokens_NKD[1, 1] = float("nan")
    moving = side.tokens_NKD.requires_grad_()
    distances = structural_distance(side, side, torch.tensor([[0, 0], [0, 1]]), marginal="importance")
    distances.sum().backward()
    assert 0 <= distances[0] < distances[1] < 2 and torch.isfinite(moving.grad).all()


def test_no_pairs_have_no_distances() -> None:
    side = draw(5, 2, 4)
    assert structural_distance(side, side, torch.empty(0, 2, dtype=torch.int64)).shape == (0,)


def test_wrong_arguments_are_refused() -> None:
    side = draw(6, 2, 4)
    for given, options, message in (
        (side, {"marginal": "even"}, "marginal 'even' is unknown; choose one of uniform"),
        (side, {"epsilon": 0.0}, "epsilon=0.0"),
        (side._replace(mass_NK=None), {"marginal": "importance"}, "second have no token mass"),
        (draw(7, 2, 4, dims=5), {}, "tokens of one model"),
        (side._replace(tokens_NKD=torch.ones(2, 16)), {}, "give .N, K, D."),
    ):
        with pytest.raises(InputError, match=message):
            structural_distance(side, given, PAIRS[:1], **options)


@pytest.mark.gpu
def test_a_gpu_gives_the_distances_and_gradients_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        first, second = (TokenSet(*(values.to(device) for values in draw(seed, 3, 49))) for seed in (8, 9))
        moving = first.tokens_NKD.requires_grad_()
        distances = structural_distance(first, second, PAIRS.to(device), marginal="cross_correlation")
        distances.sum().backward()
        found.append((distances.detach().cpu(), moving.grad.cpu()))
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-4, rtol=1e-3)
