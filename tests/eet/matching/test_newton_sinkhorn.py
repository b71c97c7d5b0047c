"""Any accepted share and epsilon: the plan delivers the share, and is as good as POT's exact one."""

import numpy as np
import ot
import pytest
import torch

from eet.matching import TokenSet, match_pairs, matches_of_pairs, sinkhorn, structural_similarity
from eet.matching.newton_sinkhorn import newton_sinkhorn

SHARES = (1e-6, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0)
SHAPES = {"12x12": (12, 12), "12x9": (12, 9), "1x7": (1, 7), "7x1": (7, 1), "1x1": (1, 1), "20x33": (20, 33)}


def draw_tokens(seed: int, shape: tuple[int, int], *, hard: bool) -> tuple[TokenSet, TokenSet]:
    """Three images a side. hard: tokens without mass, equal tokens, equal images."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for number in shape:
        noise = torch.nn.functional.normalize(torch.randn(3, number, 24, generator=generator), dim=2)
        tokens, mass = noise * 0.7**0.5 + (0.3 / 24) ** 0.5, torch.rand(3, number, generator=generator) ** 2
        if hard and number > 4:
            mass[:, :3] = 0
            mass[1, 4:] = 1
            tokens[:, 1] = tokens[:, 4]
        sides.append(TokenSet(tokens, mass))
    if hard and shape[0] == shape[1]:
        sides[1].tokens_NKD[2], sides[1].mass_NK[2] = sides[0].tokens_NKD[2], sides[0].mass_NK[2]
    return sides[0], sides[1]


def exact_plan(cosine: np.ndarray, u: np.ndarray, v: np.ndarray, share: float) -> np.ndarray:
    u, v = u / u.sum(), v / v.sum()
    return ot.emd(u, v, 1 - cosine) if share == 1 else ot.partial.partial_wasserstein(u, v, 1 - cosine, m=share)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("epsilon", [0.05, 1e-3, 1e-4])
def test_every_share_is_delivered_by_plans_as_good_as_exact_ones(shape: tuple[int, int], epsilon: float, hard: bool) -> None:
    queries, gallery = draw_tokens(0, shape, hard=hard)
    pairs = np.stack([np.arange(3)] * 2, axis=1)
    cosines = (
        torch.nn.functional.normalize(queries.tokens_NKD, dim=2) @ torch.nn.functional.normalize(gallery.tokens_NKD, dim=2).mT
    ).double()
    for share in SHARES:
        compiled = matches_of_pairs(queries, gallery, pairs, epsilon=epsilon, transported=share)
        np.testing.assert_allclose(compiled.delivered_P.numpy() / share, 1, atol=1e-3)
        assert (compiled.error_P <= 1e-3).all()
        for p in range(3):
            score, plan = structural_similarity(
                queries.tokens_NKD[p], gallery.tokens_NKD[p : p + 1], queries.mass_NK[p], gallery.mass_NK[p : p + 1],
                epsilon=epsilon, transported=share,
            )  # fmt: skip
            assert float(plan.double().sum()) / share == pytest.approx(1, abs=1e-4)
            u, v = (mass[p].double().numpy() for mass in (queries.mass_NK, gallery.mass_NK))
            sent, received = plan[0].double().sum(1).numpy(), plan[0].double().sum(0).numpy()
            assert (sent <= u / u.sum() + 1e-3 * share + 1e-7).all() and (received <= v / v.sum() + 1e-3 * share + 1e-7).all()
            best = (exact_plan(cosines[p].numpy(), u, v, share) * cosines[p].numpy()).sum() / share
            # No plan is better, and entropy costs at most its strength times the logarithm of the entries.
            for found in (float(score) / share, float(compiled.scores_P[p]) / share):
                assert abs(found) <= 1 + 1e-3
                assert best - epsilon * 2 * np.log(shape[0] * shape[1] + 1) - 1e-3 <= found <= best + 1e-3
            assert float(compiled.scores_P[p]) / share == pytest.approx(float(score) / share, abs=1e-3)


def test_the_order_at_a_small_epsilon_is_that_of_the_exact_solver() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = TokenSet(torch.randn(1, 12, 24, generator=generator), torch.ones(1, 12))
    gallery = TokenSet(torch.randn(40, 12, 24, generator=generator), torch.ones(40, 12))
    pairs = np.stack([np.zeros(40, np.int64), np.arange(40)], axis=1)
    for share in (0.1, 0.5):
        scores, exact = (match_pairs(queries, gallery, pairs, epsilon=1e-4, transported=share, solver=s) for s in ("sinkhorn", "exact"))
        ranks = [np.argsort(np.argsort(values.numpy())) for values in (scores, exact)]
        assert np.corrcoef(*ranks)[0, 1] > 0.999


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.95, 1.0])
def test_plans_equal_pot_s_entropic_ones(epsilon: float, share: float) -> None:
    """With dummy points, whose slack carries entropy, as in the definition."""
    rng = np.random.default_rng(2)
    cost, u, v = rng.random((3, 9, 11)), rng.random((3, 9)), rng.random((3, 11))
    u, v = u / u.sum(1, keepdims=True), v / v.sum(1, keepdims=True)
    plan, error = newton_sinkhorn(*map(torch.from_numpy, (cost, u, v)), epsilon=epsilon, transported=share, tolerance=1e-8)
    assert (error <= 1e-8).all()
    for p in range(3):
        costs, rows, columns = cost[p], u[p], v[p]
        if share < 1:
            costs = np.pad(costs, ((0, 1), (0, 1)))
            costs[-1, -1] = 100
            rows, columns = np.append(rows, 1 - share), np.append(columns, 1 - share)
        expected = ot.bregman.sinkhorn_log(rows, columns, costs, epsilon, numItermax=200_000, stopThr=1e-12)[:9, :11]
        np.testing.assert_allclose(plan[p].numpy(), expected, atol=1e-6)


def test_equal_masses_and_equal_tokens_converge_at_the_smallest_epsilon() -> None:
    """Many plans are nearly as good: scaling would need millions of iterations."""
    rng = np.random.default_rng(3)
    cost = torch.from_numpy(rng.random((40, 12, 12)))
    cost[:5] = 1
    cost[5:10, :, 6:] = cost[5:10, :, :6]
    even = torch.full((40, 12), 1 / 12)
    for share in (1.0, 0.999, 0.5, 1e-6):
        plan, error = sinkhorn(cost, even, even, epsilon=1e-4, transported=share)
        assert (error <= 1e-5).all()
        np.testing.assert_allclose(plan.double().sum((1, 2)).numpy() / share, 1, atol=1e-5)


def test_a_plan_does_not_depend_on_the_other_problems() -> None:
    rng = np.random.default_rng(4)
    cost, even = torch.from_numpy(rng.random((6, 8, 8)) * np.linspace(0.1, 2, 6)[:, None, None]), torch.full((6, 8), 1 / 8)
    options = {"epsilon": 1e-3, "transported": 0.3, "tolerance": 1e-6}
    together = newton_sinkhorn(cost, even, even, **options)[0]
    for p in range(6):
        alone = newton_sinkhorn(cost[p : p + 1], even[:1], even[:1], **options)[0]
        torch.testing.assert_close(alone[0], together[p], atol=1e-7, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("transported", [0.3, 0.01, 1e-6])
@pytest.mark.parametrize("epsilon", [0.05, 1e-4])
def test_a_gpu_delivers_every_share(transported: float, epsilon: float) -> None:
    queries, gallery = draw_tokens(5, (12, 12), hard=True)
    pairs = np.stack([np.arange(3)] * 2, axis=1)
    options = {"epsilon": epsilon, "transported": transported}
    cpu, gpu = (matches_of_pairs(queries, gallery, pairs, device=device, **options) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.delivered_P.numpy() / transported, 1, atol=1e-3)
    np.testing.assert_allclose(gpu.scores_P.numpy() / transported, cpu.scores_P.numpy() / transported, atol=1e-3)
