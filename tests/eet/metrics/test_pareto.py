import numpy as np
import pytest

from eet.metrics import pareto_set


def slow_pareto_set(values):
    """By the definition, one pair at a time."""
    in_set = []
    for these in values:
        dominated = any(all(a >= b for a, b in zip(other, these, strict=True)) and any(a > b for a, b in zip(other, these, strict=True))
                     for other in values)  # fmt: skip
        in_set.append(not dominated)
    return in_set


@pytest.mark.parametrize("values", [1, 2, 3])
def test_it_is_the_set_of_the_definition(values):
    draws = np.random.default_rng(values).integers(0, 6, (80, values)).astype(float)  # few values, so that many are equal
    found = pareto_set(draws)
    assert found.tolist() == slow_pareto_set(draws.tolist())
    assert 0 < found.sum() < len(draws)


def test_equal_candidates_are_kept_together_and_a_nan_is_neither_kept_nor_dominates():
    assert pareto_set(np.array([[1.0, -2], [1, -2], [0.5, -2]])).tolist() == [True, True, False]
    assert pareto_set(np.array([[np.nan, 9], [0, 1], [-1, 2]])).tolist() == [False, True, True]
    assert pareto_set(np.empty((0, 2))).tolist() == []


def test_other_shapes_are_refused():
    for shape in ((3,), (3, 0), (2, 2, 2)):
        with pytest.raises(ValueError, match="one row a candidate"):
            pareto_set(np.zeros(shape))
