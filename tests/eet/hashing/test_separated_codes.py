import numpy as np
import pytest

from eet.hashing import learn_target_codes, minimum_distance, separated_target_codes, shared_codes
from eet.hashing.separated_codes import BLOCK_DISTANCES


def random_signs(num_labels: int, bits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), (num_labels, bits))


def uneven_labels(num_labels: int) -> np.ndarray:
    return np.arange(num_labels).repeat(1 + np.arange(num_labels) % 7)


# The best linear codes: [64,7,32], [64,10,28], [32,6,16], [16,5,8], [128,8,64]; the simplex code [63,6,32]; the codes of Kerdock and of
# Nordstrom and Robinson; and three small codes that the greedy selection finds. No linear code reaches those two and these three.
@pytest.mark.parametrize(
    ("num_labels", "bits", "distance"),
    [
        (128, 64, 32),
        (1024, 64, 28),
        (64, 32, 16),
        (32, 16, 8),
        (256, 128, 64),
        (64, 63, 32),
        (256, 16, 6),
        (4096, 64, 28),
        (6, 9, 5),
        (6, 10, 6),
        (24, 12, 6),
        (2, 5, 5),
        (4, 6, 4),
        (16, 5, 2),
        (32, 5, 1),
    ],
)
def test_known_distances_are_reached(num_labels: int, bits: int, distance: int) -> None:
    codes = separated_target_codes(num_labels, num_bits=bits, seed=0)
    assert codes.shape == (num_labels, bits) and codes.dtype == np.int8
    assert set(np.unique(codes).tolist()) == {-1, 1}
    assert minimum_distance(codes) == distance


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("bits", "at_least"), [(16, 6), (32, 12), (48, 20), (64, 28)])
def test_codes_of_200_labels_have_larger_distances_than_published_and_random_ones(bits: int, at_least: int, seed: int) -> None:
    distance = minimum_distance(separated_target_codes(200, num_bits=bits, seed=seed))
    assert distance >= at_least
    for labels in (np.arange(200), uneven_labels(200)):
        assert distance >= minimum_distance(learn_target_codes(labels, num_bits=bits, seed=seed))
    assert distance >= minimum_distance(random_signs(200, bits, seed))


@pytest.mark.parametrize(
    ("num_labels", "bits"), [(1, 1), (1, 9), (2, 1), (3, 2), (3, 64), (5, 3), (7, 16), (40, 12), (100, 33), (255, 8), (300, 20), (9, 300)]
)
def test_codes_are_distinct_and_their_bits_nearly_balanced(num_labels: int, bits: int) -> None:
    codes = separated_target_codes(num_labels, num_bits=bits, seed=3)
    assert codes.shape == (num_labels, bits)
    assert shared_codes(codes) == 0
    assert minimum_distance(codes) >= max(minimum_distance(random_signs(num_labels, bits, 3)), 1)
    # Random signs would stay below 4 standard deviations, sqrt(C) each.
    assert np.abs(codes.sum(axis=0, dtype=np.int64)).max() <= max(1.5 * num_labels**0.5, 1)


@pytest.mark.parametrize(("num_labels", "bits"), [(128, 64), (40, 64), (200, 16), (1024, 64), (200, 64)])
def test_bits_are_exactly_balanced_if_words_are_taken_with_complements(num_labels: int, bits: int) -> None:
    codes = separated_target_codes(num_labels, num_bits=bits, seed=0)
    assert not codes.sum(axis=0, dtype=np.int64).any()
    assert {row.tobytes() for row in codes} == {row.tobytes() for row in -codes}


@pytest.mark.parametrize(("num_labels", "bits"), [(3, 1), (8, 2), (10, 2), (300, 8), (1000, 3), (4, 2)])
def test_labels_share_codes_evenly_when_every_code_is_taken(num_labels: int, bits: int) -> None:
    codes = separated_target_codes(num_labels, num_bits=bits, seed=0)
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    assert codes.shape == (num_labels, bits) and len(counts) == 2**bits
    assert counts.min() == num_labels // 2**bits and counts.max() == -(-num_labels // 2**bits)
    assert np.abs(codes.sum(axis=0, dtype=np.int64)).max() <= num_labels % 2
    assert minimum_distance(codes) == (0 if num_labels > 2**bits else 1)


@pytest.mark.parametrize(("num_labels", "bits", "distance"), [(10_000, 64, 24), (100_000, 64, 22), (100_000, 17, 1)])
def test_very_many_labels_get_codes_with_the_guaranteed_distance_of_a_family(num_labels: int, bits: int, distance: int) -> None:
    codes = separated_target_codes(num_labels, num_bits=bits, seed=0)
    assert shared_codes(codes) == 0
    # A sample of codes, compared with all codes.
    sample, signs = np.arange(0, num_labels, num_labels // 50), codes.astype(np.float32)
    distances = (bits - signs[sample] @ signs.T) / 2
    distances[np.arange(len(sample)), sample] = bits
    assert distances.min() >= distance


@pytest.mark.parametrize(("num_labels", "bits"), [(40, 64), (200, 48), (200, 16), (7, 12), (10, 2)])
def test_only_the_seed_matters_not_the_global_random_state(num_labels: int, bits: int) -> None:
    np.random.seed(0)
    first = separated_target_codes(num_labels, num_bits=bits, seed=0)
    np.random.seed(1)
    np.testing.assert_array_equal(separated_target_codes(num_labels, num_bits=bits, seed=0), first)
    assert not np.array_equal(separated_target_codes(num_labels, num_bits=bits, seed=1), first)


@pytest.mark.parametrize(("num_labels", "bits"), [(2, 1), (9, 70), (50, 13), (3000, 24)])
def test_the_minimum_distance_equals_a_plain_loop(num_labels: int, bits: int) -> None:
    codes = random_signs(num_labels, bits, 0)
    # So many labels that their distances fill more than one block. The two nearest codes are in a later block, in distant rows.
    assert num_labels < 3000 or num_labels**2 > BLOCK_DISTANCES
    if num_labels == 3000:
        codes = separated_target_codes(num_labels, num_bits=bits, seed=0)
        codes[2900] = codes[2100]
        codes[2900, 5] *= -1
    expected = min(int((codes[i] != codes[i + 1 :]).sum(axis=1).min()) for i in range(num_labels - 1))
    assert minimum_distance(codes) == expected
    assert minimum_distance(codes.astype(np.float32) * 0.5) == expected
    assert minimum_distance(codes[:1]) == bits
    assert minimum_distance(np.concatenate([codes, codes[-1:]])) == 0


@pytest.mark.parametrize(("num_labels", "bits", "message"), [(0, 8, "num_labels=0"), (-3, 8, "num_labels=-3"), (5, 0, "num_bits=0")])
def test_no_labels_or_bits_is_refused(num_labels: int, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        separated_target_codes(num_labels, num_bits=bits, seed=0)


@pytest.mark.parametrize("codes", [np.zeros(4), np.zeros((0, 4)), np.zeros((4, 0)), np.zeros((2, 4), dtype=complex)])
def test_invalid_codes_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real numbers"):
        minimum_distance(codes)
