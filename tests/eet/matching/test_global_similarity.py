import numpy as np
import pytest

from eet.matching import asymmetric_similarity, cosine_similarity, hamming_similarity

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [5, 8, 33, 64, 130])
def test_hamming_similarity_is_the_cosine_of_signs(bits: int) -> None:
    one, other = RANDOM.integers(0, 2, (2, 7, bits), np.uint8)
    found = hamming_similarity(np.packbits(one, axis=1), np.packbits(other, axis=1), num_bits=bits)
    signs, other_signs = 2.0 * one - 1, 2.0 * other - 1
    np.testing.assert_allclose(found, (signs * other_signs).sum(1) / bits, atol=1e-6)
    assert found.dtype == np.float32


def test_asymmetric_similarity_is_one_with_its_own_signs_and_weighs_bits_by_the_hash() -> None:
    hashes = RANDOM.normal(size=(3, 12))
    query = np.array([0, 2, 2, 1])
    bits = RANDOM.integers(0, 2, (4, 12), np.uint8)
    bits[0] = hashes[0] > 0
    found = asymmetric_similarity(hashes, query, np.packbits(bits, axis=1))
    expected = [(hashes[q] * (2.0 * b - 1)).sum() / np.abs(hashes[q]).sum() for q, b in zip(query, bits, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == pytest.approx(1)
    assert asymmetric_similarity(np.zeros((1, 12)), np.zeros(4, np.int64), np.packbits(bits, axis=1)).tolist() == [0] * 4


def test_cosine_of_what_is_broken_is_zero() -> None:
    one = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-30, 0]])
    other = np.array([[4, 3], [1, 1], [1, 1], [1, 1], [1e-30, 0]])
    np.testing.assert_allclose(cosine_similarity(one, other), [24 / 25, 0, 0, 0, 1], atol=1e-6)


def test_a_pair_does_not_see_its_neighbours() -> None:
    one, other = RANDOM.normal(size=(2, 50, 37)).astype(np.float16)
    together = cosine_similarity(one, other)
    assert [cosine_similarity(one[p : p + 1], other[p : p + 1])[0] for p in range(50)] == together.tolist()
