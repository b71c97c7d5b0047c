"""Mining and the margin loss against the definition, written as loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import MarginObjective, distance_weighted_triplets


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


def slow_loss(embeddings, labels, triplets, betas, margin):  # type: ignore[no-untyped-def]
    total, active = torch.zeros(()), 0
    for anchor, positive, negative in zip(*triplets, strict=True):
        beta = betas[labels[anchor]]
        for term in (
            (embeddings[anchor] - embeddings[positive]).norm() - beta + margin,
            beta - (embeddings[anchor] - embeddings[negative]).norm() + margin,
        ):
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
