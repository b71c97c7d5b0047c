"""The linear probe on features whose labels are known to be linear in them."""

import numpy as np
import pytest

from eet.training.probe import fit_probe


def clusters(seed: int, *, scale: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(120) % 4
    centres = np.random.default_rng(9).standard_normal((4, 12)) * 2
    return ((centres[labels] + random.standard_normal((120, 12))) * scale + shift).astype(np.float32), labels


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 50.0)])
def test_the_head_predicts_labels_of_unseen_images_for_any_scale_of_features(scale: float, shift: float):
    (features, labels), (others, expected) = (clusters(seed, scale=scale, shift=shift) for seed in (0, 1))
    head = fit_probe(features, labels, num_labels=4, seed=0)
    found = (others @ head.weight_CD.numpy().T + head.bias_C.numpy()).argmax(axis=1)
    assert (found == expected).mean() > 0.95


def test_the_head_depends_on_the_seed():
    features, labels = clusters(0)
    one, again, other = (fit_probe(features, labels, num_labels=4, seed=seed) for seed in (0, 0, 1))
    assert one.weight_CD.equal(again.weight_CD) and one.bias_C.equal(again.bias_C) and not one.weight_CD.equal(other.weight_CD)


@pytest.mark.parametrize(
    ("features", "labels", "error"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "one row and one label"),
        (np.zeros((2, 3)), np.zeros(3, int), "one row and one label"),
        (np.full((2, 3), np.nan), np.zeros(2, int), "not finite"),
    ],
)
def test_invalid_features_and_labels_are_refused(features, labels, error):
    with pytest.raises(ValueError, match=error):
        fit_probe(features, labels, num_labels=2, seed=0)
