import math

import numpy as np
import pytest

from eet.metrics import map_at_r, precision_at_k, r_precision, recall_at_k

LIST = np.array([True, False, True, False, False, True])


def test_values_by_hand() -> None:
    assert precision_at_k(LIST, 1) == 1
    assert precision_at_k(LIST, 4) == 0.5
    assert recall_at_k(LIST, 1) == 1
    assert recall_at_k(LIST[1:], 1) == 0
    assert recall_at_k(LIST[1:], 2) == 1
    assert r_precision(LIST, 3) == pytest.approx(2 / 3)
    assert map_at_r(LIST, 3) == pytest.approx((1 + 2 / 3) / 3)


def test_ranks_beyond_the_list_hold_no_match() -> None:
    assert precision_at_k(np.ones(2, dtype=bool), 4) == 0.5


def test_counting_the_query_gives_the_published_ceiling() -> None:
    # A label of four pictures among ten, ranked perfectly: specs give P@1 1, R-precision and MAP@R 0.75.
    perfect = np.array([True] * 3 + [False] * 6)
    assert r_precision(perfect, 3) == map_at_r(perfect, 3) == 1
    assert r_precision(perfect, 3, count_query=True) == 0.75
    assert map_at_r(perfect, 3, count_query=True) == 0.75


@pytest.mark.parametrize("measure", [r_precision, map_at_r])
def test_a_list_shorter_than_r_is_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="rank at least R"):
        measure(LIST, 7)
    measure(LIST, 6)
    with pytest.raises(ValueError, match="rank at least R"):
        measure(LIST, 6, count_query=True)
    with pytest.raises(ValueError, match="more than R"):
        measure(LIST, 2)
    with pytest.raises(ValueError, match="from|1 or more"):
        measure(LIST, -1)
    assert math.isnan(measure(LIST, 0))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="k=0"):
        precision_at_k(LIST, 0)
    with pytest.raises(ValueError, match="one query"):
        recall_at_k(np.ones((2, 2), dtype=bool), 1)
