"""Measures of one query, compared with all orders inside ties, 20,000 random orders, other libraries, and values by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from ranking_by_loop import means_over_random_orders, measures_by_loop, orders_inside_ties

from eet.metrics import average_precision, map_at_r, precision_at_k, r_precision, recall_at_k

MATCHES = np.array([True, False, True, False, False, True])
RANKS = np.arange(6)


def all_measures(distances: np.ndarray, relevant: np.ndarray, *, k: int, count_query: bool = False, **options: Any) -> dict[str, float]:
    return {
        "mAP": average_precision(distances, relevant, **options),
        f"P@{k}": precision_at_k(distances, relevant, k, **options),
        f"recall@{k}": recall_at_k(distances, relevant, k, **options),
        "R-precision": r_precision(distances, relevant, count_query=count_query, **options),
        "MAP@R": map_at_r(distances, relevant, count_query=count_query, **options),
    }


@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_expected_values_equal_the_means_over_all_orders_inside_ties(seed: int, count_query: bool) -> None:
    random = np.random.default_rng(seed)
    distances, relevant = random.integers(0, 3, size=7), random.random(7) < 0.5
    relevant[seed % 7] = True
    k = 1 + seed % 9  # some are after the end of the list
    by_order = [measures_by_loop(order, k=k, count_query=count_query) for order in orders_inside_ties(distances, relevant)]
    expected = {name: float(np.mean([values[name] for values in by_order])) for name in by_order[0]}
    assert all_measures(distances, relevant, k=k, count_query=count_query) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("num_items", "num_distances", "share", "k"),
    [
        (40, 5, 0.3, 10),
        (40, 1, 0.2, 3),  # all tied
        (200, 30, 0.1, 1),
        (200, 3, 0.02, 50),  # R is inside the first tie
        (60, 8, 0.9, 100),  # k is after the end of the list
    ],
)
@pytest.mark.parametrize("count_query", [False, True])
def test_expected_values_equal_the_means_of_20_000_random_orders(
    num_items: int, num_distances: int, share: float, k: int, count_query: bool
) -> None:
    random = np.random.default_rng([num_items, num_distances, k])
    distances, relevant = random.integers(0, num_distances, num_items), random.random(num_items) < share
    means, errors = means_over_random_orders(distances, relevant, k=k, count_query=count_query)
    for name, value in all_measures(distances, relevant, k=k, count_query=count_query).items():
        assert abs(value - means[name]) <= 5 * errors[name] + 1e-12, name


@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_without_ties_the_values_are_those_of_the_definitions_and_of_torchmetrics(ties: Any) -> None:
    import torchmetrics.functional.retrieval as reference

    random = np.random.default_rng(0)
    distances, relevant = random.permutation(500) / 7, random.random(500) < 0.3
    found = all_measures(distances, relevant, k=9, ties=ties)
    assert found == pytest.approx(measures_by_loop(relevant[np.argsort(distances)], k=9), abs=1e-12)
    # torchmetrics takes items without a positive score as no match.
    reference_inputs = torch.from_numpy(100 - distances), torch.from_numpy(relevant)
    assert found["mAP"] == pytest.approx(float(reference.retrieval_average_precision(*reference_inputs)), abs=1e-6)
    assert found["P@9"] == pytest.approx(float(reference.retrieval_precision(*reference_inputs, top_k=9)), abs=1e-6)
    assert found["recall@9"] == float(reference.retrieval_hit_rate(*reference_inputs, top_k=9))
    assert found["R-precision"] == pytest.approx(float(reference.retrieval_r_precision(*reference_inputs)), abs=1e-6)
    r = int(relevant.sum())
    # The average precision of torchmetrics for the first R ranks divides by the matches among them.
    cut = float(reference.retrieval_average_precision(*reference_inputs, top_k=r)) * relevant[np.argsort(distances)][:r].sum() / r
    assert found["MAP@R"] == pytest.approx(cut, abs=1e-6)


def test_stable_keeps_the_order_inside_ties() -> None:
    relevant = np.array([True, False, True, False])
    for order in (relevant, relevant[::-1]):
        expected = measures_by_loop(order.tolist(), k=1)
        assert all_measures(np.zeros(4), order, k=1, ties="stable") == pytest.approx(expected)
    assert all_measures(np.zeros(4), relevant, k=1) == pytest.approx(all_measures(np.zeros(4), relevant[::-1], k=1))
    assert precision_at_k(np.zeros(4), relevant, 1, ties="stable") == 1 and precision_at_k(np.zeros(4), relevant, 1) == 0.5


def test_a_tie_of_all_items_gives_the_value_of_a_random_order() -> None:
    relevant = np.arange(20) < 5
    found = all_measures(np.full(20, 3), relevant, k=4)
    assert found["P@4"] == found["R-precision"] == pytest.approx(5 / 20)
    assert found["recall@4"] == pytest.approx(1 - (15 * 14 * 13 * 12) / (20 * 19 * 18 * 17))


def test_values_by_hand() -> None:
    assert precision_at_k(RANKS, MATCHES, 4) == recall_at_k(RANKS[1:], MATCHES[1:], 2) / 2 == 0.5
    assert recall_at_k(RANKS[1:], MATCHES[1:], 1) == 0
    assert precision_at_k(RANKS[:2], np.ones(2, dtype=bool), 4) == 0.5  # ranks after the end of the list hold no match
    assert r_precision(RANKS, MATCHES) == pytest.approx(2 / 3)
    assert map_at_r(RANKS, MATCHES) == pytest.approx((1 + 2 / 3) / 3)


def test_counting_the_query_gives_the_published_maximum() -> None:
    # A label with four of ten images, ranked perfectly: the specification gives P@1 1, R-precision and MAP@R 0.75.
    ranks, perfect = np.arange(9), np.array([True] * 3 + [False] * 6)
    assert r_precision(ranks, perfect) == map_at_r(ranks, perfect) == 1
    assert r_precision(ranks, perfect, count_query=True) == map_at_r(ranks, perfect, count_query=True) == 0.75


def test_average_precision_of_a_list_that_was_cut_has_three_denominators() -> None:
    precisions = 1 + 2 / 3 + 3 / 6
    for denominator, divisor in {"all": 8, "reachable": 6, "found": 3}.items():
        found = average_precision(RANKS, MATCHES, num_relevant=8, denominator=denominator)  # type: ignore[arg-type]
        assert found == pytest.approx(precisions / divisor)
        assert average_precision(RANKS, MATCHES, denominator=denominator) == pytest.approx(precisions / 3)  # type: ignore[arg-type]
    assert average_precision(RANKS, MATCHES, num_relevant=4, denominator="reachable") == pytest.approx(precisions / 4)
    none = np.zeros(6, dtype=bool)
    assert average_precision(RANKS, none, num_relevant=2) == average_precision(RANKS, none, num_relevant=2, denominator="found") == 0


@pytest.mark.parametrize("measure", [r_precision, map_at_r])
def test_a_list_shorter_than_r_is_refused(measure: Any) -> None:
    assert measure(RANKS, MATCHES, num_relevant=6) == pytest.approx(0.5 if measure is r_precision else (1 + 2 / 3 + 3 / 6) / 6)
    for options in ({"num_relevant": 7}, {"num_relevant": 6, "count_query": True}):
        with pytest.raises(ValueError, match="rank at least R"):
            measure(RANKS, MATCHES, **options)
    # Without num_relevant the list holds all matches, and ranks after its end hold none.
    assert measure(RANKS[:2], np.ones(2, dtype=bool), count_query=True) == pytest.approx(2 / 3)


@pytest.mark.parametrize("measure", [r_precision, map_at_r, average_precision])
def test_r_must_fit_the_list(measure: Any) -> None:
    with pytest.raises(ValueError, match="more than R=2"):
        measure(RANKS, MATCHES, num_relevant=2)
    with pytest.raises(ValueError, match="0 or more"):
        measure(RANKS, MATCHES, num_relevant=-1)
    assert math.isnan(measure(RANKS, np.zeros(6, dtype=bool)))
    assert math.isnan(measure(np.zeros(0), np.zeros(0, dtype=bool)))


def test_nothing_found_has_no_precision_and_no_recall() -> None:
    for distances, relevant in ((RANKS, np.zeros(6, dtype=bool)), (np.zeros(0), np.zeros(0, dtype=bool))):
        assert precision_at_k(distances, relevant, 3) == recall_at_k(distances, relevant, 3) == 0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        average_precision(np.zeros(3), np.zeros(4, dtype=bool))
    with pytest.raises(ValueError, match="of one query"):
        recall_at_k(np.ones((2, 2)), np.ones((2, 2), dtype=bool), 1)
    with pytest.raises(ValueError, match="'expected' or 'stable'"):
        average_precision(np.zeros(3), np.ones(3, dtype=bool), ties="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        map_at_r(np.array([0.0, np.nan]), np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="'reachable' or 'found'"):
        average_precision(RANKS, MATCHES, denominator="some")  # type: ignore[arg-type]
    for measure in (precision_at_k, recall_at_k):
        with pytest.raises(ValueError, match="k=0"):
            measure(RANKS, MATCHES, 0)
