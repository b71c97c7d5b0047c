import itertools

import numpy as np
import pytest

from eet.hashing.code_families import extended_bch, kerdock, reduced, span


def minimum_weight(generator: np.ndarray) -> int:
    return int(span(generator)[1:].sum(axis=1).min())


# Length, dimensions, distance: MacWilliams and Sloane, figure 9.1, with the parity bit.
@pytest.mark.parametrize(
    ("degree", "expected"),
    [
        (2, [(3, 2)]),
        (3, [(4, 4), (7, 2)]),
        (4, [(5, 8), (7, 6), (11, 4), (15, 2)]),
        (5, [(6, 16), (11, 12), (16, 8)]),
        (6, [(7, 32), (10, 28), (16, 24)]),
        (7, [(8, 64), (15, 56)]),
    ],
)
def test_bch_codes_have_their_dimensions_and_distances(degree: int, expected: list[tuple[int, int]]) -> None:
    generators = list(itertools.islice(extended_bch(degree), len(expected)))
    assert [(len(generator), minimum_weight(generator)) for generator in generators] == expected
    for generator in generators:
        assert generator.shape[1] == 2**degree
        assert generator[0].all()
        assert len(reduced(generator)) == len(generator)
    # Each code contains the one before it.
    for smaller, larger in itertools.pairwise(generators):
        assert len(reduced(np.concatenate([larger, smaller]))) == len(larger)


def test_the_last_bch_code_is_all_words_of_even_weight() -> None:
    *_, last = extended_bch(6)
    assert last.shape == (63, 64)
    assert (last.sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize(("degree", "count", "distance"), [(4, 8, 6), (4, 3, 6), (6, 32, 28), (8, 5, 120)])
def test_kerdock_codes_have_their_distances(degree: int, count: int, distance: int) -> None:
    words = kerdock(degree, count, np.random.default_rng(0))
    assert words.shape == (count * 2 ** (degree + 1), 2**degree)
    np.testing.assert_array_equal(words[::2], 1 - words[1::2])
    signs = 1 - 2 * words.astype(np.float32)
    distances = (2**degree - signs @ signs.T) / 2
    np.fill_diagonal(distances, 2**degree)
    assert distances.min() == distance


def test_a_span_sums_the_generators_at_the_bits_of_the_row() -> None:
    generator = np.random.default_rng(0).integers(0, 2, (4, 11), dtype=np.uint8)
    words = span(generator)
    for row in range(16):
        expected = sum((generator[i].astype(int) for i in range(4) if row >> i & 1), np.zeros(11, dtype=int)) % 2
        np.testing.assert_array_equal(words[row], expected)
    np.testing.assert_array_equal(span(np.packbits(generator, axis=1)), np.packbits(words, axis=1))


def test_the_reduced_form_has_the_same_span_without_dependent_rows() -> None:
    generator = np.random.default_rng(1).integers(0, 2, (3, 9), dtype=np.uint8)
    dependent = np.stack([generator[0], generator[0] ^ generator[1], generator[1], np.zeros(9, dtype=np.uint8), generator[2]])
    rows = reduced(dependent)
    assert len(rows) == 3
    assert {row.tobytes() for row in span(rows)} == {row.tobytes() for row in span(generator)}
    for i, first in enumerate(rows.argmax(axis=1)):
        assert rows[:, first].tolist() == [int(j == i) for j in range(3)]
