"""NetVLAD against its definition in loops."""

import math

import numpy as np
import torch

from eet.embedding import build_aggregation
from eet.embedding.words import assignment_scale


def slow_netvlad(patches: np.ndarray, words: np.ndarray, assignment: np.ndarray) -> np.ndarray:
    sums = np.zeros_like(words)
    for patch in patches:
        patch = patch / np.sqrt((patch**2).sum())
        weights = [math.exp(float(direction @ patch)) for direction in assignment]
        for word, weight in enumerate(weights):
            sums[word] += weight / sum(weights) * (patch - words[word])
    vector = np.concatenate([row / np.sqrt((row**2).sum()) for row in sums])
    return vector / np.sqrt((vector**2).sum())


def test_it_is_the_definition_and_both_weights_are_trained():
    torch.manual_seed(0)
    patches = torch.randn(2, 12, 5)
    layer = build_aggregation("netvlad", 5, 12, {"words": 3})
    found = layer(torch.zeros(2, 5), patches)
    words, assignment = (value.detach().double().numpy() for value in (layer.words_KD, layer.assignment_KD))
    for row in range(2):
        expected = slow_netvlad(patches[row].double().numpy(), words, assignment)
        np.testing.assert_allclose(found[row].detach().numpy(), expected, atol=1e-5)
    found[:, 0].sum().backward()
    assert layer.words_KD.grad.abs().sum() > 0 and layer.assignment_KD.grad.abs().sum() > 0


def test_it_starts_as_k_means_with_alpha():
    torch.manual_seed(1)
    layer = build_aggregation("netvlad", 5, 12, {"words": 3})
    descriptors = torch.nn.functional.normalize(torch.randn(60, 5), dim=1)
    layer.start(descriptors, seed=0)
    directions = torch.nn.functional.normalize(layer.words_KD.detach(), dim=1)
    torch.testing.assert_close(layer.assignment_KD.detach(), assignment_scale(descriptors, directions) * directions)
    vlad = build_aggregation("vlad", 5, 12, {"words": 3})
    vlad.start(descriptors, seed=0)
    assert torch.equal(vlad.words_KD, layer.words_KD.detach())
