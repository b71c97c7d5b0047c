import itertools

import pytest

from eet.search.tiling import Tiling, tiling

MILLION = 10**6


@pytest.mark.parametrize(
    ("num_queries", "num_codes", "threads", "least", "expected"),
    [
        # One thread: tiles as large as they may be, of equal size.
        (1, MILLION, 1, 8, (1, 1)),
        (64, MILLION, 1, 8, (64, 1)),
        (65, MILLION, 1, 8, (33, 1)),
        (1000, MILLION, 1, 8, (63, 1)),
        # Enough queries for every thread: each gets a tile.
        (64, MILLION, 2, 8, (32, 1)),
        (64, MILLION, 8, 8, (8, 1)),
        (57, MILLION, 8, 8, (8, 1)),
        (1000, MILLION, 4, 8, (63, 1)),
        (8, MILLION, 4, 1, (2, 1)),
        # Too few of them: the threads share the codes of large tiles.
        (64, MILLION, 16, 8, (64, 16)),
        (56, MILLION, 8, 8, (56, 8)),
        (64, MILLION, 2, 64, (64, 2)),
        (128, MILLION, 4, 64, (64, 4)),
        (129, MILLION, 3, 64, (43, 1)),
        (5, MILLION, 4, 1, (2, 4)),
        # Small pieces are worth no thread: 2^18 pairs and 2^12 codes at least.
        (1, MILLION, 2, 8, (1, 2)),
        (1, MILLION, 16, 8, (1, 3)),
        (1, 2**19, 16, 8, (1, 2)),
        (1, 2**19 - 1, 16, 8, (1, 1)),
        (2, 2**18, 16, 8, (2, 2)),
        (2, 2**18 - 1, 16, 8, (2, 1)),
        (64, 5 * 2**12, 16, 64, (64, 5)),
        (64, 5 * 2**12 - 1, 16, 64, (64, 4)),
        (7, 0, 16, 8, (7, 1)),
    ],
)
def test_cases(num_queries: int, num_codes: int, threads: int, least: int, expected: tuple[int, int]) -> None:
    assert tiling(num_queries, num_codes, threads=threads, least=least, most=64, whole=False) == Tiling(*expected)


@pytest.mark.parametrize(
    ("num_queries", "threads", "least", "most", "expected"),
    [(1, 16, 1024, 1024, 1), (64, 16, 1024, 1024, 64), (3000, 16, 1024, 1024, 1000), (64, 2, 1, 64, 32), (7, 16, 1, 64, 7)],
)
def test_a_scan_of_all_codes_gets_them_in_one_piece(num_queries: int, threads: int, least: int, most: int, expected: int) -> None:
    assert tiling(num_queries, MILLION, threads=threads, least=least, most=most, whole=True) == (expected, 1)


def test_what_holds_for_every_case() -> None:
    sizes, codes, thread_counts = (1, 2, 7, 8, 63, 64, 65, 200, 1025), (0, 5, 5000, 300_000, 10**7), (1, 2, 3, 8, 64)
    limits = ((1, 64), (8, 64), (64, 64), (3, 5))
    for num_queries, num_codes, threads, (least, most), whole in itertools.product(sizes, codes, thread_counts, limits, (False, True)):
        tile, pieces = tiling(num_queries, num_codes, threads=threads, least=least, most=most, whole=whole)
        tiles = -(-num_queries // tile)
        assert 1 <= tile <= most and 1 <= pieces <= threads
        assert tiles * tile - num_queries < tiles  # all of nearly equal size
        assert pieces == 1 or (tiles < threads and not whole and num_codes // pieces >= 2**12 and tile * num_codes // pieces >= 2**18)
        if num_queries >= threads * most:
            assert tiles >= threads
