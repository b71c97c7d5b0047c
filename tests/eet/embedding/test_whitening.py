"""Whitening PCA against a plain eigendecomposition."""

import numpy as np
import pytest

from eet.embedding import fit_whitening
from eet.errors import InputError


@pytest.mark.parametrize("rows", [9, 40])  # fewer rows than columns, and more
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_it_is_the_definition(rows, power):
    vectors = np.random.default_rng(0).standard_normal((rows, 12)) * np.linspace(1, 4, 12) + 3
    layer = fit_whitening(vectors, width=5, power=power)
    variances, directions = np.linalg.eigh(np.cov(vectors.T))
    found = vectors @ layer.weight_bD.T + layer.bias_b
    for place in range(5):
        variance, direction = variances[-1 - place], directions[:, -1 - place]
        expected = (vectors - vectors.mean(axis=0)) @ direction / variance ** (power / 2)
        expected *= np.sign(expected @ found[:, place])
        np.testing.assert_allclose(found[:, place], expected, atol=1e-4)
    np.testing.assert_allclose(found.var(axis=0, ddof=1), variances[::-1][:5] ** (1 - power), rtol=1e-3)


def test_what_cannot_be_fitted_is_refused():
    vectors = np.random.default_rng(0).standard_normal((4, 12))
    with pytest.raises(InputError, match="a width of 4: 4 images give 1 to 3 directions"):
        fit_whitening(vectors, width=4)
    with pytest.raises(InputError, match="whitening 1.5"):
        fit_whitening(vectors, width=2, power=1.5)
    with pytest.raises(InputError, match="1 vectors"):
        fit_whitening(vectors[:1], width=1)
