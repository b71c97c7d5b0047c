"""The triplet loss of mined groups, written again as a loop."""

import pytest
import torch
import torch.nn.functional as F

from eet.embedding import build_loss
from eet.errors import InputError


@pytest.mark.parametrize(("negatives", "margin"), [(1, 0.1**0.5), (3, 1.2)])
def test_it_is_the_mean_over_all_negatives_of_each_query(negatives, margin):
    draw = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(2 * (2 + negatives), 4, generator=draw), dim=1)
    losses = []
    for first in (0, 2 + negatives):
        query, positive, *others = embeddings[first : first + 2 + negatives].double()
        losses += [max(0.0, float((query - positive).norm() - (query - other).norm()) + margin) for other in others]
    loss = build_loss("triplet", 0, negatives=negatives, margin=margin)
    found, terms = loss(embeddings, torch.zeros(len(embeddings)), torch.rand(len(embeddings), 2))
    assert loss.mined_negatives == negatives
    assert found.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5) == terms["triplet"].item()
    assert terms["with_loss"].item() == pytest.approx(sum(one > 0 for one in losses) / len(losses))


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="negatives=0"):
        build_loss("triplet", 0, negatives=0)
