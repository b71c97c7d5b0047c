"""Recall between places, written again as a loop."""

import numpy as np
import pytest

from eet.metrics import Positions, place_recall


def slow(queries, items, query_metres, item_metres, query_zones, item_zones, metres, k, same):
    found = []
    for row, query in enumerate(queries):
        near = [
            np.hypot(*(query_metres[row] - item_metres[item])) <= metres
            and query_zones[row] == item_zones[item]
            and not (same and item == row)
            for item in range(len(items))
        ]
        if any(near):
            order = sorted((item for item in range(len(items)) if not (same and item == row)), key=lambda item: -float(query @ items[item]))
            found.append(any(near[item] for item in order[:k]))
    return float(np.mean(found)), len(found)


@pytest.mark.parametrize("same", [False, True])
def test_it_is_the_share_of_queries_with_a_match_among_the_first(same):
    draw = np.random.default_rng(0)
    items, item_metres, item_zones = draw.normal(size=(40, 3)), draw.uniform(0, 60, (40, 2)), draw.choice(["a", "b"], 40)
    queries, query_metres, query_zones = draw.normal(size=(30, 3)), draw.uniform(0, 90, (30, 2)), draw.choice(["a", "b", "c"], 30)
    if same:
        queries, query_metres, query_zones = items, item_metres, item_zones
        query_metres[3] = np.nan
    places = Positions(query_metres, query_zones), Positions(item_metres, item_zones)
    measures = place_recall(queries, items, *places, metres=8, ks=(1, 5), same_images=same)
    for k in (1, 5):
        expected, counted = slow(queries, items, query_metres, item_metres, query_zones, item_zones, 8, k, same)
        assert measures[f"recall@{k}"] == pytest.approx(expected) and measures["queries"] == counted
    assert measures["queries_without_relevant"] == len(queries) - counted > 0
