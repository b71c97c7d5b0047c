"""SALAD's transport against plain Sinkhorn in float64, and the layer against its definition."""

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import build_aggregation
from eet.embedding.salad import transported_shares


def slow_shares(scores: torch.Tensor, dustbin: torch.Tensor, rounds: int = 3000) -> torch.Tensor:
    """(K, N) of one image in float64, by scaling rows and columns in turn."""
    words, patches = scores.shape
    kernel = torch.cat([scores.double(), dustbin.double().expand(1, patches)]).exp()
    taken = torch.tensor([1 / patches] * words + [(patches - words) / patches], dtype=torch.float64)
    right = torch.ones(patches, dtype=torch.float64)
    for _ in range(rounds):
        left = taken / (kernel @ right)
        right = (1 / patches) / (kernel.T @ left)
    return (left[:, None] * kernel * right)[:-1]


def case() -> tuple[torch.Tensor, torch.Tensor]:
    scores = 2 * torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    return scores.requires_grad_(), torch.tensor(0.7, requires_grad=True)


def test_shares_are_the_converged_plan_without_the_dustbin():
    scores, dustbin = case()
    found = transported_shares(scores, dustbin)
    torch.testing.assert_close(found.sum(dim=2), torch.full((3, 4), 0.1), atol=1e-5, rtol=1e-4)
    for row in range(3):
        torch.testing.assert_close(found[row].double(), slow_shares(scores[row], dustbin), atol=1e-5, rtol=1e-3)


def test_more_rounds_bring_the_gradient_to_that_of_the_whole_solution():
    scores, dustbin = case()
    weights = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(1))

    def gradient(shares: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((shares * weights).sum(), scores)[0]

    whole = gradient(torch.stack([slow_shares(scores[row], dustbin, 200) for row in range(3)]).float())
    few, many = gradient(transported_shares(scores, dustbin)), gradient(transported_shares(scores, dustbin, rounds=60))
    torch.testing.assert_close(many, whole, atol=1e-5, rtol=1e-3)
    assert F.cosine_similarity(few.flatten(), whole.flatten(), dim=0) > 0.9


def test_the_layer_is_its_definition_and_everything_is_trained():
    torch.manual_seed(0)
    layer = build_aggregation("salad", 6, 10, {"words": 3, "word_width": 4, "global_width": 5, "hidden": 8})
    vector, patches = torch.randn(2, 6), torch.randn(2, 10, 6)
    found = layer(vector, patches)
    assert found.shape == (2, 17) and layer.width == 17
    for row in range(2):
        shares = slow_shares(layer.scores(patches[row]).T, layer.dustbin)
        features = layer.features(patches[row]).double()
        parts = [F.normalize(layer.overall(vector[row]).double(), dim=0)]
        parts += [F.normalize(sum(shares[word, n] * features[n] for n in range(10)), dim=0) for word in range(3)]
        expected = F.normalize(torch.cat(parts), dim=0)
        torch.testing.assert_close(found[row].double(), expected, atol=1e-4, rtol=1e-3)
    found[:, ::2].sum().backward()
    assert [name for name, weight in layer.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("scale", [30.0, 200.0])
def test_sharp_scores_give_finite_gradients(scale):
    scores = (scale * torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(2))).requires_grad_()
    shares = transported_shares(scores, torch.tensor(1.0))
    shares.square().sum().backward()
    assert shares.isfinite().all() and scores.grad.isfinite().all()
