import sys

import numpy as np
import pytest

from eet.errors import InputError
from eet.metrics import Positions, metres_between, nearby, rank_gallery


def drawn(number: int, seed: int) -> Positions:
    """Whole metres, so that distances on the radius occur; some unknown; two zones with the same coordinates."""
    random = np.random.default_rng(seed)
    metres = random.integers(0, 60, (number, 2)).astype(float) + [500_000, 6_200_000]
    metres[random.random(number) < 0.1] = np.nan
    return Positions(metres, random.choice(["32N", "33N"], number))


def slow(queries: Positions, items: Positions, metres: float) -> list[list[int]]:
    lists = []
    for (east, north), zone in zip(queries.metres_N2, queries.zones_N, strict=True):
        near = []
        for row, ((x, y), of) in enumerate(zip(items.metres_N2, items.zones_N, strict=True)):
            if of == zone and (east - x) ** 2 + (north - y) ** 2 <= metres**2:
                near.append(row)
        lists.append(near)
    return lists


@pytest.mark.parametrize("metres", [0, 5, 25])
def test_near_items_are_those_of_a_loop(metres, monkeypatch):
    monkeypatch.setattr(sys.modules["eet.metrics.nearby"], "QUERIES_AT_ONCE", 7)  # the package's attribute is the function
    queries, items = drawn(60, 1), drawn(200, 2)
    found = nearby(queries, items, metres=metres)
    wanted = slow(queries, items, metres)
    assert [found.of(query).tolist() for query in range(60)] == wanted
    assert any(wanted) and not all(wanted)
    for query, rows in enumerate(wanted):
        between = metres_between(queries.take(np.full(len(rows), query)), items.take(rows))
        assert between.dtype == np.float32 and (between <= metres).all()


def test_no_position_and_another_zone_have_no_distance():
    here = Positions(np.array([[0.0, 0], [0, 0], [np.nan, np.nan]]), np.array(["a", "b", "a"]))
    there = Positions(np.array([[3.0, 4], [3, 4], [3, 4]]), np.array(["a", "a", "a"]))
    np.testing.assert_array_equal(metres_between(here, there), np.float32([5, np.nan, np.nan]))
    assert nearby(here, there, metres=5).counts_Q.tolist() == [3, 0, 0]


def test_nothing_is_near_in_an_empty_gallery_and_a_radius_is_a_number():
    items = Positions(np.empty((0, 2)), np.empty(0, str))
    assert nearby(drawn(3, 0), items, metres=25).counts_Q.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="a radius is 0 or more"):
        nearby(drawn(3, 0), drawn(3, 0), metres=-1)


def test_a_ranking_is_measured_by_distance():
    """The query is an item: it is in its own list, and not its own hit."""
    codes = np.array([[0], [1], [3], [255]], np.uint8)
    places = Positions(np.array([[0.0, 0], [100, 0], [0, 20], [400, 0]]), np.array([""] * 4))
    lists = nearby(places, places, metres=25)
    found = rank_gallery(codes, codes, lists, num_bits=8, query_rows=np.arange(4), recall_ks=(1, 2)).measures
    assert found["queries"] == 2 and found["queries_without_relevant"] == 2
    assert found["recall@1"] == 0 and found["recall@2"] == 1
