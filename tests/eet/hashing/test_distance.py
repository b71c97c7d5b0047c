import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack, unpack


@pytest.mark.parametrize("bits", [3, 12, 16, 24, 40, 64, 72, 128, 200])
def test_distances_and_scores_equal_a_plain_loop(bits: int) -> None:
    rng = np.random.default_rng(bits)
    queries, items = rng.normal(size=(5, bits)).astype(np.float32), rng.normal(size=(11, bits))
    packed_queries, packed_items = pack(queries), pack(items)
    distances = np.zeros((5, 11), dtype=np.int64)
    scores = np.zeros((5, 11))
    for q in range(5):
        for n in range(11):
            for i in range(bits):
                distances[q, n] += (queries[q, i] > 0) != (items[n, i] > 0)
                scores[q, n] += float(queries[q, i]) * (1 if items[n, i] > 0 else -1)
    found = hamming_distances(packed_queries, packed_items)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, distances)
    found_scores = asymmetric_scores(queries, packed_items)
    assert found_scores.dtype == np.float32
    np.testing.assert_allclose(found_scores, scores, atol=1e-4)
    # On the codes themselves the score is bits - 2 * distance.
    np.testing.assert_array_equal(asymmetric_scores(unpack(packed_queries, bits), packed_items), bits - 2 * distances)


def test_views_with_gaps_are_read_correctly() -> None:
    packed = np.random.default_rng(0).integers(0, 256, size=(20, 16), dtype=np.uint8)
    strided = packed[::2, ::2]
    expected = hamming_distances(strided.copy(), packed[:, :8].copy())
    np.testing.assert_array_equal(hamming_distances(strided, packed[:, :8]), expected)


def test_a_score_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    hashes, items = rng.normal(size=(40, 48)).astype(np.float32), pack(rng.normal(size=(300, 48)))
    together = asymmetric_scores(hashes, items)
    for q, n in [(0, 0), (7, 123), (39, 299)]:
        assert asymmetric_scores(hashes[q : q + 1], items[n : n + 1])[0, 0] == together[q, n]


def test_queries_and_codes_that_do_not_fit_are_refused() -> None:
    codes = np.zeros((2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="one model"):
        hamming_distances(codes, np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        hamming_distances(codes.astype(np.int64), codes)
    with pytest.raises(ValueError, match="17 bits"):
        asymmetric_scores(np.zeros((1, 17)), codes)
    with pytest.raises(ValueError, match="NaN"):
        asymmetric_scores(np.full((1, 16), np.nan), codes)
