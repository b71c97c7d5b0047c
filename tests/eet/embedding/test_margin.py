"""Mining and the margin loss against the definition, written as loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import MarginObjective, distance_weighted_triplets
from eet.errors import InputError
from eet.matching import TokenSet, importance, sinkhorn, structural_distance


def batch(size: int = 12, labels: int = 4, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(size, width, generator=random), dim=1), torch.arange(size) % labels


def negative_weights(embeddings: torch.Tensor, labels: torch.Tensor, anchor: int) -> list[float]:
    """1 / q(d) of each row, 0 where it shares the anchor's label, scaled to sum to 1."""
    width = embeddings.shape[1]
    weights = []
    for row in range(len(labels)):
        distance = max(0.5, float((embeddings[anchor].double() - embeddings[row].double()).norm()))
        density = distance ** (width - 2) * (1 - distance**2 / 4) ** ((width - 3) / 2)
        weights.append(0.0 if labels[row] == labels[anchor] else 1 / density)
    return [weight / sum(weights) for weight in weights]


def test_negatives_are_drawn_against_the_density_of_distances_and_positives_evenly():
    embeddings, labels = batch()
    embeddings[5] = F.normalize(embeddings[0] + 0.1 * embeddings[5], dim=0)  # a negative nearer than 0.5
    draws = 1500
    chance = torch.rand(draws, 12, 2, generator=torch.Generator().manual_seed(1))
    triplets = [distance_weighted_triplets(embeddings, labels, one) for one in chance]
    assert all(torch.equal(anchors, torch.arange(12)) for anchors, _, _ in triplets)
    for anchor in (0, 7):
        drawn = torch.bincount(torch.stack([negatives[anchor] for _, _, negatives in triplets]), minlength=12) / draws
        expected = torch.tensor(negative_weights(embeddings, labels, anchor))
        assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / draws), (anchor, drawn, expected)
        assert expected.max() > 0.15 and (drawn[expected == 0] == 0).all()
        positives = torch.bincount(torch.stack([positives[anchor] for _, positives, _ in triplets]), minlength=12) / draws
        siblings = [row for row in range(12) if row != anchor and labels[row] == labels[anchor]]
        assert positives[siblings].sum() == 1 and positives[siblings].min() > 0.44


def test_an_anchor_alone_with_its_label_or_without_any_other_label_has_no_triplet():
    embeddings, _ = batch(4)
    anchors, positives, negatives = distance_weighted_triplets(embeddings, torch.tensor([3, 3, 0, 1]), torch.rand(4, 2))
    assert anchors.tolist() == [0, 1] and positives.tolist() == [1, 0] and set(negatives.tolist()) <= {2, 3}
    assert all(len(rows) == 0 for rows in distance_weighted_triplets(embeddings, torch.zeros(4, dtype=torch.int64), torch.rand(4, 2)))


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
def test_the_ends_of_chance_draw_what_has_weight(chance):
    embeddings, labels = batch()
    anchors, positives, negatives = distance_weighted_triplets(embeddings, labels, torch.full((12, 2), chance))
    assert (labels[anchors] == labels[positives]).all() and (anchors != positives).all() and (labels[anchors] != labels[negatives]).all()


def test_an_anchor_far_from_every_negative_keeps_its_triplet_next_to_a_near_pair():
    """Weights relative to the whole batch's largest underflow there: at a width of 256, 0.5 outweighs sqrt(2) by e^184."""
    embeddings = torch.eye(6, 256)
    embeddings[1] = F.normalize(embeddings[0] + 0.3 * embeddings[1], dim=0)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    anchors, _, _ = distance_weighted_triplets(embeddings, labels, torch.rand(6, 2))
    assert anchors.tolist() == list(range(6))

    from pytorch_metric_learning.miners import DistanceWeightedMiner

    mined, _, _ = DistanceWeightedMiner(nonzero_loss_cutoff=3)(embeddings, labels)
    assert set(mined.tolist()) == {0, 1}  # so this miner is not used


def test_opposite_points_have_a_finite_weight():
    embeddings = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0]])
    labels = torch.tensor([0, 0, 1, 1])
    _, _, negatives = distance_weighted_triplets(embeddings, labels, torch.full((4, 2), 0.5))
    assert negatives.tolist()[0] == 2


def slow_loss(embeddings, labels, triplets, betas, margin, distance=None):  # type: ignore[no-untyped-def]
    """distance: of two images by number; default Euclidean between embeddings."""
    distance = distance or (lambda one, other: (embeddings[one] - embeddings[other]).norm())
    total, active = torch.zeros(()), 0
    for anchor, positive, negative in zip(*triplets, strict=True):
        beta = betas[labels[anchor]]
        for term in (distance(anchor, positive) - beta + margin, beta - distance(anchor, negative) + margin):
            if term > 0:
                total, active = total + term, active + 1
    return total / active


def test_the_loss_and_its_gradients_are_the_definition_s():
    embeddings, labels = batch()
    objective = MarginObjective(5, margin=0.3, beta=0.9)
    with torch.no_grad():
        objective.loss.beta += 0.1 * torch.arange(5)
    betas = objective.loss.beta.detach().clone().requires_grad_()
    learned, slow = (embeddings.clone().requires_grad_() for _ in range(2))  # the loss sees them at unit length, as from a model
    chance = torch.rand(12, 2, generator=torch.Generator().manual_seed(3))
    total, terms = objective(F.normalize(learned, dim=1), labels, chance)
    total.backward()
    triplets = distance_weighted_triplets(embeddings, labels, chance)
    expected = slow_loss(F.normalize(slow, dim=1), labels, triplets, betas, 0.3)
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(learned.grad, slow.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(objective.loss.beta.grad, betas.grad)
    assert betas.grad[:4].abs().max() > 0 and betas.grad[4] == 0
    assert terms["beta"] == pytest.approx(1.1)
    anchors, positives, _ = triplets
    assert terms["positive_distance"] == pytest.approx((embeddings[anchors] - embeddings[positives]).norm(dim=1).mean().item(), abs=1e-6)


def test_where_nothing_is_wrong_every_parameter_still_has_a_gradient():
    embeddings = F.normalize(torch.eye(2, 4)[[0, 0, 1, 1]] + 1e-3, dim=1).requires_grad_()
    objective = MarginObjective(2, margin=0.1, beta=0.7)
    total, _ = objective(embeddings, torch.tensor([0, 0, 1, 1]), torch.rand(4, 2))
    total.backward()
    assert total == 0 and objective.loss.beta.grad is not None and embeddings.grad is not None


def tokens_of(size: int = 12, count: int = 9, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit tokens round one direction, and their mass."""
    random = torch.Generator().manual_seed(4)
    tokens = torch.ones(width) / width**0.5 + F.normalize(torch.randn(size, count, width, generator=random), dim=2)
    return F.normalize(tokens, dim=2), torch.rand(size, count, generator=random)


@pytest.mark.parametrize("marginal", ["uniform", "importance"])
@pytest.mark.parametrize("structural", [0.5, 0.2, 1.0])
def test_the_structural_loss_and_its_gradients_are_the_definition_s(structural, marginal):
    """At 0.5 the distance is (d_struct + d_global) / 2, d_struct = sum of T ||x - y|| over a plan that is held fixed."""
    (embeddings, labels), (tokens, mass) = batch(), tokens_of()
    objective = MarginObjective(4, margin=0.3, beta=0.9, structural=structural, marginal=marginal)
    moved, slow = [[values.clone().requires_grad_() for values in (embeddings, tokens)] for _ in range(2)]
    chance = torch.rand(12, 2, generator=torch.Generator().manual_seed(3))
    total, terms = objective(*(F.normalize(moved[0], dim=1), labels, chance), F.normalize(moved[1], dim=2), mass)
    total.backward()

    seen = {"embeddings": F.normalize(slow[0], dim=1), "tokens": F.normalize(slow[1], dim=2)}
    structural_distances = {}

    def distance(one, other):
        x, y = seen["tokens"][one], seen["tokens"][other]
        u, v = (importance(mass[row]) if marginal == "importance" else torch.full((9,), 1 / 9) for row in (one, other))
        plan = sinkhorn(1 - (x @ y.T).detach()[None], u[None], v[None], epsilon=0.05).plan[0]
        structural_distances[int(one), int(other)] = d = sum(plan[i, j] * (x[i] - y[j]).norm() for i in range(9) for j in range(9))
        return (1 - structural) * (seen["embeddings"][one] - seen["embeddings"][other]).norm() + structural * d

    anchors, positives, negatives = triplets = distance_weighted_triplets(embeddings, labels, chance)
    betas = objective.loss.beta.detach().clone().requires_grad_()
    expected = slow_loss(embeddings, labels, triplets, betas, 0.3, distance)
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(objective.loss.beta.grad, betas.grad)
    assert slow[1].grad.abs().max() > 1e-4
    for one, other in zip(moved, slow, strict=True):
        torch.testing.assert_close(one.grad, torch.zeros_like(one) if other.grad is None else other.grad, atol=1e-5, rtol=1e-3)
    for name, others in (("positive_structural", positives), ("negative_structural", negatives)):
        mean = sum(structural_distances[int(a), int(b)].item() for a, b in zip(anchors, others, strict=True)) / 12
        assert terms[name] == pytest.approx(mean, abs=1e-5)


def test_the_centres_of_a_marginal_by_correlation_are_the_embeddings():
    (embeddings, labels), (tokens, _) = batch(), tokens_of()
    chance = torch.rand(12, 2, generator=torch.Generator().manual_seed(3))
    _, terms = MarginObjective(4, structural=0.5, marginal="cross_correlation")(embeddings, labels, chance, tokens)
    anchors, positives, _ = distance_weighted_triplets(embeddings, labels, chance)
    sides = TokenSet(tokens, None, embeddings)
    expected = structural_distance(sides, sides, torch.stack([anchors, positives], dim=1), marginal="cross_correlation")
    assert terms["positive_structural"] == pytest.approx(expected.mean().item(), abs=1e-6)


def test_without_a_structural_share_loss_gradients_and_terms_are_the_plain_ones_to_the_last_bit():
    from pytorch_metric_learning.losses import MarginLoss

    (embeddings, labels), (tokens, mass) = batch(), tokens_of()
    chance = torch.rand(12, 2, generator=torch.Generator().manual_seed(3))
    plain = MarginLoss(margin=0.3, nu=0, beta=0.9, learn_beta=True, num_classes=4)
    objective = MarginObjective(4, margin=0.3, beta=0.9, structural=0.0)
    expected, found = (embeddings.clone().requires_grad_() for _ in range(2))
    loss = plain(expected, labels, distance_weighted_triplets(expected, labels, chance)) + 0 * plain.beta.sum()
    total, terms = objective(found, labels, chance, tokens.requires_grad_(), mass)
    loss.backward()
    total.backward()
    assert torch.equal(total, loss) and torch.equal(found.grad, expected.grad) and torch.equal(objective.loss.beta.grad, plain.beta.grad)
    assert tokens.grad is None and set(terms) == {"positive_distance", "negative_distance", "beta"}


def test_the_structural_loss_alone_brings_tokens_of_one_label_together():
    (embeddings, labels), (tokens, _) = batch(), tokens_of()
    objective = MarginObjective(4, margin=0.3, structural=1.0)
    learned = tokens.clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=0.01)
    gaps = []
    for step in range(40):
        chance = torch.rand(12, 2, generator=torch.Generator().manual_seed(step))
        total, terms = objective(embeddings, labels, chance, F.normalize(learned, dim=2))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        gaps.append(float(terms["negative_structural"] - terms["positive_structural"]))
    assert abs(gaps[0]) < 0.05 and gaps[-1] > 0.3


def test_a_structural_batch_without_triplets_still_has_a_gradient_for_every_parameter():
    (embeddings, _), (tokens, mass) = batch(), tokens_of()
    objective = MarginObjective(4, structural=0.5)
    moving = [embeddings.requires_grad_(), tokens.requires_grad_()]
    total, terms = objective(moving[0], torch.zeros(12, dtype=torch.int64), torch.rand(12, 2), moving[1], mass)
    total.backward()
    assert total == 0 and terms["positive_structural"] == 0 and objective.loss.beta.grad is not None
    assert all(values.grad is not None and not values.grad.any() for values in moving)


def test_impossible_structural_options_are_refused():
    (embeddings, labels), (tokens, _) = batch(), tokens_of()
    for share in (-0.1, 1.5, math.nan):
        with pytest.raises(InputError, match=f"structural={share} is a share of the distance; give 0"):
            MarginObjective(4, structural=share)
    with pytest.raises(InputError, match="marginal 'mass' is unknown; choose one of uniform"):
        MarginObjective(4, structural=0.5, marginal="mass")
    with pytest.raises(InputError, match="needs tokens: give tokens_BKE"):
        MarginObjective(4, structural=0.5)(embeddings, labels, torch.rand(12, 2))
    with pytest.raises(InputError, match="no token mass"):
        MarginObjective(4, structural=0.5, marginal="importance")(embeddings, labels, torch.rand(12, 2), tokens)
