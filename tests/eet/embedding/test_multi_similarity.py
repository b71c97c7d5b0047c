"""The multi-similarity loss and its mining, written again as loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import build_loss
from eet.errors import InputError


def slow(embeddings: torch.Tensor, labels: list[int], alpha: float, beta: float, base: float, epsilon: float) -> float:
    images, total = range(len(labels)), 0.0
    for i in images:
        cosine = [float(embeddings[i] @ embeddings[j]) for j in images]
        positives = [cosine[j] for j in images if j != i and labels[j] == labels[i]]
        negatives = [cosine[j] for j in images if labels[j] != labels[i]]
        if not positives or not negatives:
            continue
        hard_negatives = [s for s in negatives if s > min(positives) - epsilon]
        hard_positives = [s for s in positives if s < max(negatives) + epsilon]
        total += math.log(1 + sum(math.exp(-alpha * (s - base)) for s in hard_positives)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - base)) for s in hard_negatives)) / beta
    return total / len(labels)


@pytest.mark.parametrize("options", [{}, {"alpha": 2.0, "beta": 10.0, "base": 0.5, "epsilon": 0.0}])
def test_it_is_the_loss_of_the_paper_over_hard_pairs(options):
    draw = torch.Generator().manual_seed(0)
    embeddings, labels = F.normalize(torch.randn(9, 4, generator=draw), dim=1), [0, 0, 0, 1, 1, 1, 2, 2, 3]
    found, terms = build_loss("multi_similarity", 4, **options)(embeddings, torch.tensor(labels), torch.rand(9, 2))
    expected = slow(embeddings.double(), labels, **{"alpha": 1.0, "beta": 50.0, "base": 0.0, "epsilon": 0.1, **options})
    assert found.item() == pytest.approx(expected, rel=1e-5) == terms["multi_similarity"].item()


def test_without_a_hard_pair_every_embedding_still_gets_a_gradient_of_zero():
    embeddings = torch.eye(4)[[0, 0, 1, 1]].requires_grad_()
    found, terms = build_loss("multi_similarity", 2)(embeddings, torch.tensor([0, 0, 1, 1]), torch.rand(4, 2))
    found.backward()
    assert found.item() == 0 == terms["with_hard_negatives"].item() and not embeddings.grad.any()


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"alpha=0.* use alpha and beta above 0"):
        build_loss("multi_similarity", 2, alpha=0.0)
