"""Vectors stored in few bits, against a plain loop and the cosines of the vectors themselves."""

from statistics import NormalDist

import numpy as np
import pytest

from eet.errors import InputError
from eet.hashing.quantisation import check_form, restored, stored, stored_bytes, turned

FORMS = ("int8", "int4", "int2", "bits")
BITS = {"int8": 8, "int4": 4, "int2": 2, "bits": 1}
LEVELS = {"bits": [0.7979], "int2": [0.4528, 1.510], "int4": [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733]}
"""The positive levels in the table of Max (1960)."""


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(float), other.astype(float)
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Vectors (500, 3, 50) whose coordinates differ widely in size, and some near them."""
    random = np.random.default_rng(0)
    scale = np.geomspace(0.01, 3, 50)
    one = random.normal(size=(500, 3, 50)) * scale
    return one.astype(np.float32), (one + random.uniform(0, 2, (500, 3, 1)) * random.normal(size=one.shape) * scale).astype(np.float32)


def test_the_rotation_keeps_cosines_and_is_undone(pairs):
    one, other = pairs
    np.testing.assert_allclose(cosines(turned(one), turned(other)), cosines(one, other), atol=1e-5)
    np.testing.assert_allclose(turned(turned(one), back=True), one, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [1, 5, 8, 19])
def test_a_coordinate_is_the_nearest_level_and_lies_at_its_bits(form, dim):
    vector = np.random.default_rng(dim).normal(size=dim).astype(np.float32)
    found = stored(vector[None], form)
    assert found.dtype == np.uint8 and found.shape == (1, stored_bytes(form, dim))
    bits = "".join(f"{byte:08b}" for byte in found[0])
    width = BITS[form]
    levels = restored(np.arange(256, dtype=np.uint8)[:, None], form, 8 // width, rotated=True).astype(float)
    table = np.unique(levels.round(6))
    assert len(table) == 1 << width
    coordinates = turned(vector / np.linalg.norm(vector)) * np.sqrt(dim)
    for place, value in enumerate(coordinates):
        number = int(bits[place * width : (place + 1) * width], 2)
        assert abs(table[number] - value) == pytest.approx(np.abs(table - value).min(), abs=2e-3)  # levels are float16
    assert set(bits[dim * width :]) <= {"0"}


@pytest.mark.parametrize("form", LEVELS)
def test_levels_are_those_of_max(form):
    values = np.unique(np.abs(restored(np.arange(256, dtype=np.uint8)[:, None], form, 8 // BITS[form], rotated=True).astype(float)))
    np.testing.assert_allclose(values, LEVELS[form], atol=1e-3)


def test_a_normal_variable_loses_least_at_8_bits():
    """Within 3 % of the asymptotic bound, pi sqrt(3) / 2 / 4 ** bits."""
    levels = np.sort(restored(np.arange(256, dtype=np.uint8)[:, None], "int8", 1, rotated=True).astype(float).ravel())
    values = np.array([NormalDist().inv_cdf((i + 0.5) / 200_000) for i in range(200_000)])
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]
    assert np.mean((values - nearest) ** 2) < 1.03 * np.pi * np.sqrt(3) / 2 / 4**8


def test_cosines_are_kept_the_better_the_more_bits(pairs):
    one, other = pairs
    wanted = cosines(one, other)
    errors = [np.abs(cosines(turned(one), restored(stored(other, form), form, 50, rotated=True)) - wanted).mean() for form in FORMS]
    assert errors == sorted(errors)
    assert errors[0] < 1e-3 and errors[1] < 0.015 and errors[2] < 0.05


@pytest.mark.parametrize("form", ["float16", *FORMS])
def test_both_coordinates_have_the_same_cosines(pairs, form):
    one, other = (stored(vectors, form) for vectors in pairs)
    in_place, as_rotated = (cosines(*(restored(side, form, 50, rotated=rotated) for side in (one, other))) for rotated in (False, True))
    np.testing.assert_allclose(in_place, as_rotated, atol=2e-3)


@pytest.mark.parametrize("form", FORMS)
def test_length_does_not_matter_and_broken_vectors_are_finite(form):
    vector = np.random.default_rng(1).normal(size=24).astype(np.float32)
    vectors = np.stack([vector, vector * 1e30, vector * 1e-30, np.zeros(24), np.full(24, np.nan), np.full(24, np.inf)]).astype(np.float32)
    found = stored(vectors, form)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert np.isfinite(restored(found, form, 24, rotated=False)).all()


def test_an_unknown_form_names_those_that_exist():
    with pytest.raises(InputError, match="tokens_as 'int3': use one of float16, int8, int4, int2, bits"):
        check_form("int3", "tokens_as")
