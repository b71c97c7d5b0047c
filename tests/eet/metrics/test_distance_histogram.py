import numpy as np
import pytest

from eet.metrics import average_precision, expected_average_precision, precision_recall_curve
from eet.metrics.distance_histogram import check_codes


@pytest.mark.parametrize("scale", [3, 60, 3000])
def test_expected_average_precision_equals_the_single_query_form(scale: int) -> None:
    rng = np.random.default_rng(scale)
    total = rng.integers(0, scale, size=(6, 9))
    total[:, 4] += 5
    relevant = rng.binomial(total, 0.3)
    relevant[:, 4] += 1
    relevant[0] = 0
    found = expected_average_precision(total, relevant)
    assert np.isnan(found[0])
    for q in range(1, 6):
        distances = np.repeat(np.arange(9), total[q])
        matches = np.concatenate([np.arange(t) < r for t, r in zip(total[q], relevant[q], strict=True)])
        assert found[q] == pytest.approx(average_precision(distances, matches), abs=1e-12)


def test_expected_average_precision_stays_exact_at_high_ranks_of_a_huge_gallery() -> None:
    # Two matches tied with each other at ranks N0 + 1 and N0 + 2: both orders are the same.
    first = 10**9
    found = expected_average_precision(np.array([[first, 2]]), np.array([[0, 2]]))[0]
    assert found == pytest.approx((1 / (first + 1) + 2 / (first + 2)) / 2, rel=1e-9)


def test_precision_recall_curve_pools_counts_and_leaves_out_empty_queries() -> None:
    total = np.array([[0, 2, 2], [0, 1, 3], [1, 1, 1]])
    relevant = np.array([[0, 2, 0], [0, 0, 2], [0, 0, 0]])
    recall, precision = precision_recall_curve(total, relevant)
    np.testing.assert_allclose(recall, [0, 0.5, 1])
    np.testing.assert_allclose(precision, [np.nan, 2 / 3, 4 / 8])
    recall, precision = precision_recall_curve(total, np.zeros_like(total))
    assert np.isnan(recall).all() and np.isnan(precision).all()


def test_wrong_arguments_are_refused() -> None:
    codes = np.zeros((3, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="num_bits=17"):
        check_codes(codes, 17, "query")
    with pytest.raises(ValueError, match="gallery codes"):
        check_codes(codes[:, :1], 16, "gallery")
    with pytest.raises(ValueError, match="more matches"):
        expected_average_precision(np.array([[1, 0]]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="must both be"):
        precision_recall_curve(np.zeros((1, 2)), np.zeros((2, 2)))
