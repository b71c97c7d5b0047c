import numpy as np
import ot
import pytest
import torch

from eet.matching import SOLVERS, structural_similarity


def make_tokens(seed: int, problems: int = 4, query_tokens: int = 12, gallery_tokens: int = 10, dims: int = 24):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(dims, generator=generator) * 0.7
    query = centre + torch.randn(query_tokens, dims, generator=generator)
    gallery = centre + torch.randn(problems, gallery_tokens, dims, generator=generator)
    query_mass = torch.rand(query_tokens, generator=generator) * 5
    return query, gallery, query_mass, torch.rand(problems, gallery_tokens, generator=generator)


def test_scores_and_plans_equal_pot() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(0)
    scores, plans = structural_similarity(query, gallery, query_mass, gallery_mass)
    assert scores.dtype == plans.dtype == torch.float32 and plans.shape == (4, 12, 10)
    for p in range(4):
        q, g = query.double().numpy(), gallery[p].double().numpy()
        cosine = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (g / np.linalg.norm(g, axis=1, keepdims=True)).T
        u, v = query_mass.double().numpy(), gallery_mass[p].double().numpy()
        plan = ot.sinkhorn(u / u.sum(), v / v.sum(), 1 - cosine, 0.05, numItermax=100_000, stopThr=1e-12)
        assert float(scores[p]) == pytest.approx((plan * cosine).sum(), abs=1e-4)
        np.testing.assert_allclose(plans[p].numpy(), plan, atol=2e-5)


def test_an_image_matches_itself_best_and_order_and_scale_do_not_matter() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(1, gallery_tokens=12)
    shuffled = torch.randperm(12)
    gallery[2], gallery_mass[2] = 30 * query[shuffled], query_mass[shuffled] / 7
    scores, _ = structural_similarity(query, gallery, query_mass, gallery_mass)
    assert scores.argmax() == 2 and scores[2] > 0.95


def test_less_transport_keeps_the_better_matches() -> None:
    tokens = make_tokens(2)
    full, _ = structural_similarity(*tokens)
    scores, plans = structural_similarity(*tokens, transported=0.4)
    np.testing.assert_allclose(plans.sum((1, 2)).numpy(), 0.4, atol=1e-3)
    assert (scores / 0.4 > full).all()


def test_the_plan_of_maxsim_sends_each_query_token_to_its_most_similar_one() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(8)
    scores, plans = structural_similarity(query, gallery, query_mass, gallery_mass, solver="maxsim")
    for p in range(4):
        score = 0.0
        for k in range(12):
            cosines = torch.nn.functional.cosine_similarity(query[k], gallery[p], dim=1)
            weight = float(query_mass[k] / query_mass.sum())
            score += weight * float(cosines.max())
            assert float(plans[p, k, cosines.argmax()]) == float(plans[p, k].sum()) == pytest.approx(weight, abs=1e-6)
        assert float(scores[p]) == pytest.approx(score, abs=1e-5)
    gallery_mass[:, 0] = 0
    assert float(structural_similarity(query, gallery, query_mass, gallery_mass, solver="maxsim")[1][:, :, 0].sum()) == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_gradient_of_every_solver_is_that_of_a_fixed_plan(solver: str) -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(9)
    moving = query.clone().requires_grad_()
    scores, plans = structural_similarity(moving, gallery, query_mass.requires_grad_(), gallery_mass, solver=solver)
    (gradient,) = torch.autograd.grad(scores.sum(), moving)
    assert not plans.requires_grad and query_mass.grad is None
    again = query.clone().requires_grad_()
    cosine = torch.nn.functional.normalize(again, dim=1) @ torch.nn.functional.normalize(gallery, dim=2).mT
    (expected,) = torch.autograd.grad((plans * cosine).sum(), again)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_half_precision_is_computed_in_single() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(3)
    scores, _ = structural_similarity(query, gallery, query_mass, gallery_mass)
    halves, _ = structural_similarity(query.half(), gallery.half(), query_mass.half(), gallery_mass.half())
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, scores, atol=2e-3, rtol=0)


def test_broken_inputs_never_give_nan_and_harm_no_neighbour() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(4, problems=6)
    good, _ = structural_similarity(query, gallery, query_mass, gallery_mass)
    gallery[0] = float("nan")
    gallery[1, 3] = float("inf")
    gallery[2] = 0
    gallery_mass[3] = 0
    gallery_mass[4] = float("nan")
    for transported in (1.0, 0.5):
        scores, plans = structural_similarity(query, gallery, query_mass, gallery_mass, transported=transported)
        assert torch.isfinite(scores).all() and torch.isfinite(plans).all()
    scores, _ = structural_similarity(query, gallery, query_mass, gallery_mass)
    torch.testing.assert_close(scores[5], good[5])
    assert scores[0] == scores[2] == 0 and scores[1] < good[1]
    huge, _ = structural_similarity(query * 1e25, gallery[5:] * 1e-25, query_mass, gallery_mass[5:])
    torch.testing.assert_close(huge, good[5:], atol=1e-5, rtol=0)


def test_scores_can_be_learned_from_with_the_plan_fixed() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(5)
    query.requires_grad_()
    scores, plans = structural_similarity(query, gallery, query_mass, gallery_mass)
    (gradient,) = torch.autograd.grad(scores.sum(), query)
    assert not plans.requires_grad
    unit_query, unit_gallery = (torch.nn.functional.normalize(tokens, dim=-1) for tokens in (query, gallery))
    fixed = (plans * torch.einsum("kd,pld->pkl", unit_query, unit_gallery)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(fixed, query)[0], atol=1e-6, rtol=1e-4)


def test_no_gallery_gives_no_scores() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(6)
    scores, plans = structural_similarity(query, gallery[:0], query_mass, gallery_mass[:0])
    assert scores.shape == (0,) and plans.shape == (0, 12, 10)


def test_wrong_arguments_are_refused() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(7)
    with pytest.raises(ValueError, match="one model"):
        structural_similarity(query[:, :5], gallery, query_mass, gallery_mass)
    with pytest.raises(ValueError, match="no tokens"):
        structural_similarity(query[:0], gallery, query_mass[:0], gallery_mass)
    with pytest.raises(ValueError, match="one for each token"):
        structural_similarity(query, gallery, query_mass[:3], gallery_mass)
    with pytest.raises(ValueError, match="epsilon"):
        structural_similarity(query, gallery, query_mass, gallery_mass, epsilon=0)
    with pytest.raises(ValueError, match="transported"):
        structural_similarity(query, gallery, query_mass, gallery_mass, transported=0)
    with pytest.raises(ValueError, match="solver 'simplex' is unknown; choose one of sinkhorn, exact, pot, maxsim"):
        structural_similarity(query, gallery, query_mass, gallery_mass, solver="simplex")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("transported", [1.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float64])
def test_scores_alone_are_those_with_plans(solver: str, transported: float, dtype: torch.dtype) -> None:
    tokens = [values.to(dtype) for values in make_tokens(10, problems=7)]
    expected, _ = structural_similarity(*tokens, transported=transported, solver=solver)
    scores, plans = structural_similarity(*tokens, transported=transported, solver=solver, plans=False)
    assert plans is None and scores.dtype == torch.float32 and not scores.requires_grad
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_scores_alone_are_made_by_the_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_tokens(11)
    monkeypatch.setitem(SOLVERS, "sinkhorn", None)  # the solver of torch is not called
    scores, _ = structural_similarity(*tokens, plans=False)
    assert scores.shape == (4,) and torch.isfinite(scores).all()


def test_scores_alone_of_no_gallery_and_of_broken_tokens() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(12)
    assert structural_similarity(query, gallery[:0], query_mass, gallery_mass[:0], plans=False)[0].shape == (0,)
    gallery[0], gallery_mass[1] = float("nan"), float("nan")
    scores, _ = structural_similarity(query, gallery, query_mass, gallery_mass, plans=False)
    torch.testing.assert_close(scores, structural_similarity(query, gallery, query_mass, gallery_mass)[0], atol=1e-4, rtol=0)
    assert scores[0] == 0


def test_scores_alone_can_be_learned_from() -> None:
    query, gallery, query_mass, gallery_mass = make_tokens(13)
    gallery.requires_grad_()
    gradients = []
    for plans in (True, False):
        scores, made = structural_similarity(query, gallery, query_mass, gallery_mass, plans=plans)
        assert (made is not None) == plans
        gradients.append(torch.autograd.grad(scores.sum(), gallery)[0])
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert not structural_similarity(query, gallery, query_mass, gallery_mass, plans=False)[0].requires_grad
