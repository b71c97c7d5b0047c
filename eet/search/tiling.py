"""How a search is cut so that every thread has work: tiles of queries, and pieces of the codes."""

from typing import NamedTuple

LEAST_PAIRS, LEAST_CODES = 1 << 18, 1 << 12


class Tiling(NamedTuple):
    """How a search is cut.

    Attributes:
        tile: number of queries searched together; the last tile may have fewer.
        pieces: number of pieces of the codes. With more than one, tiles follow each other and threads share the pieces of each tile.
    """

    tile: int
    pieces: int


def tiling(num_queries: int, num_codes: int, *, threads: int, least: int, most: int, whole: bool) -> Tiling:
    """Decides how a search is cut.

    Threads take tiles, as large as they can be while each thread gets one: queries of a tile share each pass over the codes. If even the
    smallest tiles are fewer than the threads, tiles are made large and the codes are cut too. A piece is only worth a thread if it has
    2^12 codes or more, and 2^18 pairs of a query and a code.

    Args:
        num_queries: total number of queries, 1 or more.
        num_codes: codes to search, 0 or more.
        threads: CPU threads, 1 or more.
        least: number of queries that makes a pass over the codes worthwhile.
        most: most queries of a tile; at least `least`.
        whole: the search cannot be limited to a piece of the codes, so there is one piece.

    Returns:
        tile in 1 .. most, so that tiles have nearly equal size; pieces in 1 .. threads. There is one piece, or there are fewer tiles than
        threads.
    """
    smallest = least if _parts(num_queries, least) >= threads else most
    tile = min(most, max(smallest, _parts(num_queries, threads)))
    tiles = _parts(num_queries, tile)
    tile = _parts(num_queries, tiles)
    if whole or tiles >= threads:
        return Tiling(tile, 1)
    return Tiling(tile, max(1, min(threads, num_codes // max(LEAST_CODES, LEAST_PAIRS // tile))))


def _parts(number: int, size: int) -> int:
    """Number of parts of a size needed for a number of things."""
    return -(-number // size)
