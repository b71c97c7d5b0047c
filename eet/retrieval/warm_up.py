"""Every compiled loop of EET, each called once, so that numba compiles it and keeps it on the disk."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from eet.hashing import pack
from eet.matching import TokenSet, match_pairs
from eet.metrics.match_lists import matches_by_label
from eet.metrics.ranks import match_counts, match_ranks
from eet.search import HammingIndex, IVFIndex

_BITS, _IMAGES, _TOKENS, _DIMS = 64, 96, 8, 32
_PAIR = np.array([[0, 1]])


def _hamming_search() -> None:
    codes, hashes = _codes_and_hashes()
    for items in (codes, codes[np.arange(_IMAGES) % 4]):  # different codes, and repeated ones
        index = HammingIndex.build(items, num_bits=_BITS)
        index.search(codes[:2], 3, query_hash=hashes[:2])
        index.find(codes[:2], radius=_BITS // 4)


def _search_of_lists() -> None:
    codes, hashes = _codes_and_hashes()
    IVFIndex.build(codes, num_bits=_BITS, lists=4).with_probes(2).search(codes[:2], 3, query_hash=hashes[:2])


def _ranks_of_matches() -> None:
    codes, _ = _codes_and_hashes()
    labels = np.arange(_IMAGES, dtype=np.int32) % 4
    matches = matches_by_label(labels, labels)
    match_counts(codes, codes, matches, num_bits=_BITS, query_rows=np.arange(_IMAGES))
    match_ranks(codes, codes, matches, num_bits=_BITS, query_rows=np.arange(_IMAGES), measure=len)


def _transport() -> None:
    side = _tokens()
    match_pairs(side, side, _PAIR, marginal="importance")
    match_pairs(side, side, _PAIR, marginal="cross_correlation", transported=0.8)


def _maxsim() -> None:
    side = _tokens()
    match_pairs(side, side, _PAIR, solver="maxsim")


def _codes_and_hashes() -> tuple[np.ndarray, np.ndarray]:
    hashes_Nb = np.random.default_rng(0).standard_normal((_IMAGES, _BITS)).astype(np.float32)
    return pack(hashes_Nb), hashes_Nb


def _tokens() -> TokenSet:
    draw = np.random.default_rng(0)
    tokens = draw.standard_normal((2, _TOKENS, _DIMS)).astype(np.float16)
    return TokenSet(tokens, np.full((2, _TOKENS), 1 / _TOKENS, np.float32), draw.standard_normal((2, _DIMS)).astype(np.float32))


FAMILIES: dict[str, Callable[[], None]] = {
    "Hamming search": _hamming_search,
    "search of an ivf index": _search_of_lists,
    "ranks of matches": _ranks_of_matches,
    "matching by transport": _transport,
    "matching by MaxSim": _maxsim,
}
"""Name -> what calls the loops of a family, with the kinds of arguments that jobs give them."""


class Compiled(NamedTuple):
    """A family whose loops are compiled, or were read from the disk, and the seconds that it took."""

    name: str
    seconds: float


def compile_all() -> Iterator[Compiled]:
    """Compiles the loops of one family after another, or reads those that are on the disk."""
    for name, call in FAMILIES.items():
        started = time.perf_counter()
        call()
        yield Compiled(name, time.perf_counter() - started)


def cache_folder() -> str:
    """The folder in which numba keeps compiled loops of the search on this machine; those of other modules are near it."""
    from eet.search.scan import nearest

    return str(nearest.stats.cache_path)
