"""Vocabularies of local descriptors."""

import math

import pytest
import torch
import torch.nn.functional as F

from eet.embedding.words import assignment_scale, kmeans_words
from eet.errors import InputError


def groups() -> tuple[torch.Tensor, torch.Tensor]:
    """Three far centres (3, 4), and 90 points near them."""
    draw = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3, 4)
    return centres, centres.repeat(30, 1) + 0.1 * torch.randn(90, 4, generator=draw)


def test_words_are_the_means_of_the_descriptors_that_are_nearest_to_them():
    centres, points = groups()
    words = kmeans_words(points, 3, seed=1)
    assert torch.equal(words, kmeans_words(points, 3, seed=1))
    nearest = torch.cdist(points, words).argmin(dim=1)
    for word in range(3):
        torch.testing.assert_close(words[word], points[nearest == word].mean(dim=0), atol=1e-5, rtol=1e-5)
    assert sorted(torch.cdist(words, centres).argmin(dim=1).tolist()) == [0, 1, 2]


def test_too_few_descriptors_are_refused():
    with pytest.raises(InputError, match="2 local descriptors are too few for 3 words"):
        kmeans_words(torch.eye(2), 3)
    with pytest.raises(InputError, match="words=0"):
        kmeans_words(torch.eye(2), 0)


def test_at_the_mean_difference_the_nearest_word_weighs_a_hundred_times_the_second():
    draw = torch.Generator().manual_seed(2)
    descriptors, words = (F.normalize(torch.randn(count, 5, generator=draw), dim=1) for count in (40, 6))
    differences = []
    for descriptor in descriptors:
        first, second, *_ = sorted((float(descriptor @ word) for word in words), reverse=True)
        differences.append(first - second)
    alpha = assignment_scale(descriptors, words)
    assert math.exp(alpha * sum(differences) / 40) == pytest.approx(100, rel=1e-4)
    with pytest.raises(InputError, match="2 words or more"):
        assignment_scale(descriptors, words[:1])
