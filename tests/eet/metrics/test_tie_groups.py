import math

import numpy as np
import pytest
from ranking_by_loop import measures_by_loop

from eet.metrics import TieGroups, measures_of_groups
from eet.metrics.tie_groups import expected_matches, expected_precision_sum, expected_recall, sum_of_inverses


@pytest.mark.parametrize("cut", [0, 1, 7, 1000, 60_000, 99_990, 100_000, 100_011, 200_000])
def test_a_tie_of_100_000_items_equals_a_sum_over_its_ranks(cut: int) -> None:
    """10 items, 2 of them matches, before a tie of 100,000 with 40 matches, and one item after it."""
    total, matches, before, matches_before = 100_000, 40, 10, 2
    groups = TieGroups.of_counts(np.array([[before, total, 1]]), np.array([[0, matches, 1]]))
    shifted = TieGroups.of_counts(np.array([[before, total, 1]]), np.array([[matches_before, matches, 1]]))
    taken = np.arange(1, np.clip(cut - before, 0, total) + 1)
    end = cut > before + total
    found = matches * len(taken) / total + end
    assert expected_matches(groups, cut)[0] == pytest.approx(found, rel=1e-12)
    # The probability of a match at each rank if there is none before it.
    none = np.prod(1 - matches / (total - (taken - 1)[: total - matches + 1])) if len(taken) <= total - matches else 0.0
    assert expected_recall(groups, cut)[0] == pytest.approx(1 - none, abs=1e-12)
    expected = (matches / total * (matches_before + 1 + (taken - 1) * (matches - 1) / (total - 1)) / (before + taken)).sum()
    expected += end * (matches_before + matches + 1) / (before + total + 1)
    in_first = np.arange(1, min(cut, before) + 1)
    expected += (matches_before / before * (1 + (in_first - 1) * (matches_before - 1) / (before - 1)) / in_first).sum()
    assert expected_precision_sum(shifted, cut)[0] == pytest.approx(expected, rel=1e-11)


def test_probabilities_in_a_tie_of_a_billion_items_keep_their_digits() -> None:
    groups = TieGroups.of_counts(np.array([[10**9]]), np.array([[3]]))
    assert expected_recall(groups, 1)[0] == pytest.approx(3e-9, rel=1e-6)
    assert expected_recall(groups, 10**9 - 2)[0] == 1
    assert expected_matches(groups, 7)[0] == pytest.approx(21e-9, rel=1e-12)
    half = TieGroups.of_counts(np.array([[10**9]]), np.array([[5 * 10**8]]))
    assert expected_recall(half, 5 * 10**8)[0] == 1  # without a step for each item


@pytest.mark.parametrize("count_query", [False, True])
def test_measures_of_ranks_without_ties_follow_the_definitions(count_query: bool) -> None:
    matches = np.random.default_rng(1).random(400) < 0.2
    ranks = np.flatnonzero(matches) + 1
    found = measures_of_groups(TieGroups.of_ranks(ranks), np.array([len(ranks)]), ks=(12,), recall_ks=(12,), count_query=count_query)
    expected = measures_by_loop(matches.tolist(), k=12, count_query=count_query)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(expected, abs=1e-12)


def test_empty_groups_and_omitted_groups_without_a_match_change_nothing() -> None:
    whole = TieGroups.of_counts(np.array([[4, 3, 5, 2]]), np.array([[0, 2, 0, 1]]))
    filled = TieGroups.of_counts(np.array([[4, 0, 3, 5, 2, 0]]), np.array([[0, 0, 2, 0, 1, 0]]))
    short = TieGroups(np.array([[4, 12, 0]]), np.array([[3, 2, 0]]), np.array([[0, 2, 3]]), np.array([[2, 1, 0]]))
    options = {"ks": (1, 6), "recall_ks": (1, 6, 13), "count_query": False}
    expected = measures_of_groups(whole, np.array([3]), **options)
    for groups in (filled, short):
        found = measures_of_groups(groups, np.array([3]), **options)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("start", [0, 200, 256, 300, 5000])
def test_sums_of_inverses_are_exact_to_the_last_digits(start: int) -> None:
    for count in (0, 1, 2, 57, 900):
        expected = math.fsum(1 / i for i in range(start + 1, start + count + 1))
        assert sum_of_inverses(np.array(start), np.array(count)) == pytest.approx(expected, rel=1e-13, abs=1e-15)
