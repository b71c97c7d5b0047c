import itertools
import math

import numpy as np
import pytest

from eet.metrics import average_precision


def average_precision_of_order(relevant: list[bool]) -> float:
    hits, total = 0, 0.0
    for rank, match in enumerate(relevant, start=1):
        if match:
            hits += 1
            total += hits / rank
    return total / hits


def mean_over_all_orders(distances: np.ndarray, relevant: np.ndarray) -> float:
    groups = [list(relevant[distances == d]) for d in sorted(set(distances))]
    values = [
        average_precision_of_order([bool(r) for group in orders for r in group])
        for orders in itertools.product(*(list(itertools.permutations(group)) for group in groups))
    ]
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(12))
def test_expected_value_equals_the_mean_over_all_orders_inside_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 3, size=7)
    relevant = rng.random(7) < 0.5
    relevant[seed % 7] = True
    expected = mean_over_all_orders(distances, relevant)
    assert average_precision(distances, relevant) == pytest.approx(expected, abs=1e-12)


def test_without_ties_both_forms_are_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    distances, relevant = rng.permutation(50), rng.random(50) < 0.3
    plain = average_precision_of_order([bool(r) for r in relevant[np.argsort(distances)]])
    assert average_precision(distances, relevant) == pytest.approx(plain, abs=1e-12)
    assert average_precision(distances, relevant, ties="stable") == pytest.approx(plain, abs=1e-12)


def test_stable_takes_ties_as_they_come() -> None:
    relevant = np.array([True, False, True, False])
    assert average_precision(np.zeros(4), relevant, ties="stable") == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), relevant[::-1], ties="stable") == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_nothing_relevant_is_undefined() -> None:
    assert math.isnan(average_precision(np.arange(3), np.zeros(3, dtype=bool)))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        average_precision(np.zeros(3), np.zeros(4, dtype=bool))
    with pytest.raises(ValueError, match="'expected' or 'stable'"):
        average_precision(np.zeros(3), np.ones(3, dtype=bool), ties="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.array([0.0, np.nan]), np.ones(2, dtype=bool))
