"""Whitening by the differences within labels: against a slow computation of its definition, and its limits."""

import numpy as np
import pytest

from eet.errors import InputError
from eet.hashing import fit_within_label_whitening


def drawn(num_labels: int = 5, per_label: int = 30, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    labels = np.repeat(np.arange(num_labels), per_label)
    spread = np.geomspace(4, 0.1, width)
    vectors = random.standard_normal((num_labels, width))[labels] * 2 + random.standard_normal((len(labels), width)) * spread
    return (vectors @ np.linalg.qr(random.standard_normal((width, width)))[0]).astype(np.float32), labels


def within_covariance(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    total = np.zeros((vectors.shape[1],) * 2)
    for label in set(labels.tolist()):
        of_label = vectors[labels == label].astype(np.float64)
        for row in of_label - of_label.mean(axis=0):
            total += np.outer(row, row)
    return total / len(vectors)


@pytest.mark.parametrize("shrinkage", [1e-9, 0.5, 1.0])
def test_the_shrunk_covariance_within_labels_becomes_the_identity(shrinkage: float) -> None:
    vectors, labels = drawn()
    layer = fit_within_label_whitening(vectors, labels, shrinkage=shrinkage)
    covariance = within_covariance(vectors, labels)
    scaled = covariance / (np.trace(covariance) / len(covariance))
    shrunk = (1 - shrinkage) * scaled + shrinkage * np.eye(len(scaled))
    weight = layer.weight_bD.astype(np.float64)
    np.testing.assert_allclose(weight @ shrunk @ weight, np.eye(len(shrunk)), atol=1e-4)
    np.testing.assert_allclose(weight, weight.T, atol=1e-5)  # the symmetric root: no direction is turned
    np.testing.assert_allclose((vectors @ layer.weight_bD.T + layer.bias_b).mean(axis=0), 0, atol=1e-4)


def test_labels_are_compared_by_value_and_order_does_not_matter() -> None:
    vectors, labels = drawn()
    order = np.random.default_rng(0).permutation(len(labels))
    one, two = fit_within_label_whitening(vectors, labels), fit_within_label_whitening(vectors[order], 100 - 7 * labels[order])
    np.testing.assert_allclose(one.weight_bD, two.weight_bD, atol=1e-5)


def test_without_two_different_images_of_one_label_only_the_mean_is_removed() -> None:
    vectors, _ = drawn(num_labels=1, per_label=6)
    for given, labels in ((vectors, np.arange(6)), (np.repeat(vectors[:3], 2, axis=0), np.repeat(np.arange(3), 2))):
        layer = fit_within_label_whitening(given, labels)
        np.testing.assert_array_equal(layer.weight_bD, np.eye(8))
        np.testing.assert_allclose(layer.bias_b, -given.mean(axis=0, dtype=np.float64), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors, labels: (vectors[:0], labels[:0], 0.5), "give one row and one label"),
        (lambda vectors, labels: (vectors, labels[:-1], 0.5), "give one row and one label"),
        (lambda vectors, labels: (np.where(vectors == vectors[3, 2], np.nan, vectors), labels, 0.5), "NaN or infinity"),
        (lambda vectors, labels: (vectors, labels, 0.0), "shrinkage 0.0: use a value above 0"),
        (lambda vectors, labels: (vectors, labels, 1.5), "shrinkage 1.5"),
    ],
)
def test_impossible_arguments_are_refused(change, message: str) -> None:
    vectors, labels, shrinkage = change(*drawn())
    with pytest.raises(InputError, match=message):
        fit_within_label_whitening(vectors, labels, shrinkage=shrinkage)
