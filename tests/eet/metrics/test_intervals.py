import math

import numpy as np
import pytest

from eet.metrics import means_with_intervals, measures_with_bounds
from eet.metrics.intervals import MOST_RESAMPLED


@pytest.mark.parametrize("num_queries", [300, MOST_RESAMPLED + 1])
def test_an_interval_is_about_four_standard_errors_wide(num_queries: int) -> None:
    values = {"P@1": (np.random.default_rng(0).random(num_queries) < 0.3).astype(float), "mAP": np.linspace(0, 1, num_queries)}
    found = means_with_intervals(values)
    for name, column in values.items():
        error = column.std(ddof=1) / math.sqrt(num_queries)
        assert found[name] == pytest.approx(column.mean())
        assert found[f"{name}_low"] == pytest.approx(column.mean() - 1.96 * error, abs=0.3 * error)
        assert found[f"{name}_high"] == pytest.approx(column.mean() + 1.96 * error, abs=0.3 * error)


def test_an_interval_covers_the_true_mean_about_19_times_in_20() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        found = means_with_intervals({"P@1": (random.random(150) < 0.7).astype(float)})
        covered += found["P@1_low"] <= 0.7 <= found["P@1_high"]
    assert 270 <= covered <= 297


def test_an_interval_of_a_skewed_measure_is_skewed_and_stays_in_its_range() -> None:
    found = means_with_intervals({"P@1": np.array([1.0] * 29 + [0.0])})
    assert found["P@1_high"] == 1 and found["P@1"] - found["P@1_low"] > found["P@1_high"] - found["P@1"]


def test_the_order_of_queries_does_not_matter() -> None:
    random = np.random.default_rng(1)
    values, order = random.random((2, 80)), random.permutation(80)
    ordered = means_with_intervals(dict(zip("ab", values, strict=True)))
    assert means_with_intervals(dict(zip("ab", values[:, order], strict=True))) == pytest.approx(ordered, abs=1e-12)


def test_fewer_than_two_queries_have_no_interval() -> None:
    assert means_with_intervals({"mAP": np.array([0.25])}) == {"mAP": 0.25}
    assert math.isnan(means_with_intervals({"mAP": np.zeros(0)})["mAP"])
    assert means_with_intervals({}) == {}


def test_a_table_has_a_row_for_each_measure_and_its_bounds() -> None:
    measures = {"mAP": 0.5, "mAP_low": 0.4, "mAP_high": 0.7, "P@1": 0.1, "as_low": 3.0, "queries": 9}
    assert list(measures_with_bounds(measures)) == [
        ("mAP", 0.5, (0.4, 0.7)),
        ("P@1", 0.1, None),
        ("as_low", 3.0, None),
        ("queries", 9, None),
    ]
