"""VLAD against its definition in loops."""

import numpy as np
import pytest
import torch

from eet.embedding import build_aggregation
from eet.errors import InputError


def slow_vlad(patches: np.ndarray, words: np.ndarray, centred: bool) -> np.ndarray:
    """(K * D,) of one image, in float64."""
    if centred:
        patches = patches - patches.mean(axis=0)
    sums = np.zeros_like(words)
    for patch in patches:
        patch = patch / np.sqrt((patch**2).sum())
        nearest = min(range(len(words)), key=lambda word: ((patch - words[word]) ** 2).sum())
        sums[nearest] += patch - words[nearest]
    rows = [row / norm if (norm := np.sqrt((row**2).sum())) > 0 else row for row in sums]
    vector = np.concatenate(rows)
    return vector / np.sqrt((vector**2).sum())


@pytest.mark.parametrize("centred", [False, True])
def test_it_is_the_definition_and_a_word_without_patches_is_zero(centred):
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 20, 6, generator=draw)
    layer = build_aggregation("vlad", 6, 20, {"words": 4, "centred": centred})
    layer.start(layer.descriptors(patches).flatten(0, 1), seed=0)
    layer.words_KD[3] = 100.0  # far from everything
    found = layer(torch.zeros(3, 6), patches)
    assert found.shape == (3, 24) and layer.width == 24 and not found[:, 18:].any()
    for row in range(3):
        expected = slow_vlad(patches[row].double().numpy(), layer.words_KD.double().numpy(), centred)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)


def test_words_that_were_not_fitted_are_refused():
    with pytest.raises(InputError, match="not fitted .*eet fit-base"):
        build_aggregation("vlad", 6, 20, {"words": 4})(torch.zeros(1, 6), torch.randn(1, 20, 6))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bow", {}, "no aggregation 'bow': use one of vector, gem, vlad, netvlad, salad"),
        ("vlad", {"clusters": 3}, "has no option clusters: it has words, centred"),
        ("vlad", {"words": 0}, "words=0"),
        ("gem", {"power": 0}, "power=0 of gem"),
        ("salad", {"words": 20}, "an image has 20 patches"),
        ("vector", {"words": 2}, "has no option words: it has none"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        build_aggregation(name, 6, 20, options)
