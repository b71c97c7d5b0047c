"""What jobs ask of an index holds for every kind, for one that a user might add, too."""

import os
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack
from eet.search import INDEXES, Index, build_index, load_index
from eet.search.distinct_codes import DistinctCodes
from eet.search.tiled_search import Candidates, Scan

BITS = 20
NUM_ITEMS = 300


class PlainIndex(Index):
    """An index of another library: all it has to do is to find candidates."""

    kind = "plain"

    def __init__(self, codes: DistinctCodes, longest: int) -> None:
        self.codes, self.longest = codes, longest

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None, longest: int = 64) -> Self:
        return cls(DistinctCodes.build(packed_NB, num_bits=num_bits), longest)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        return cls(DistinctCodes.load(folder), 64)

    @property
    def options(self) -> dict[str, int]:
        return {"longest": self.longest}

    def scan(self, device: str, *, radius: int | None = None, threads: int | None = None) -> Scan:
        return Scan(self._find, 1, 3, True)

    def _find(self, words_TW: np.ndarray, k: int, ranges_R2: np.ndarray) -> Candidates:
        distances = np.bitwise_count(words_TW[:, None] ^ self.codes.words_UW[None]).sum(axis=2, dtype=np.uint16)
        count = len(self.codes)
        return np.arange(len(words_TW) + 1) * count, np.tile(np.arange(count), len(words_TW)), distances.ravel()


OPTIONS = {"exact": {}, "ivf": {"lists": 9}, "plain": {"longest": 32}}


@pytest.fixture(params=[*INDEXES, "plain"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(INDEXES, "plain", PlainIndex)
    return request.param


def drawn(number: int, num_values: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([number, num_values, seed])
    return pack(rng.integers(0, 2, (num_values, BITS)))[rng.integers(0, num_values, number)]


def slow_search(items: np.ndarray, query_hash: np.ndarray, k: int):  # type: ignore[no-untyped-def]
    distances, scores = hamming_distances(pack(query_hash), items), asymmetric_scores(query_hash, items)
    rows = np.stack([np.lexsort((np.arange(len(items)), -scores[q], distances[q]))[:k] for q in range(len(query_hash))])
    return *(np.take_along_axis(values, rows, axis=1) for values in (distances, scores)), rows


@pytest.mark.parametrize("num_values", [30, 100_000])  # grouped and flat
def test_every_kind_is_built_saved_loaded_and_searched_alike(kind: str, num_values: int, tmp_path: Path) -> None:
    items, query_hash = drawn(NUM_ITEMS, num_values), np.random.default_rng(1).integers(-9, 9, (7, BITS)) + 0.5
    built = build_index(kind, items, num_bits=BITS, **OPTIONS.get(kind, {}))
    built.save(tmp_path / "new" / "folder")
    loaded = load_index(tmp_path / "new" / "folder")
    expected = slow_search(items, query_hash, 40)
    for index in (built, loaded):
        assert type(index) is INDEXES[kind] and index.kind == kind
        assert (index.num_items, index.num_bits) == (NUM_ITEMS, BITS)
        assert index.num_codes == (len(np.unique(items, axis=0)) if num_values == 30 else NUM_ITEMS)
        assert index.nbytes == built.nbytes >= index.codes.nbytes > 0
        assert index.describe().startswith(f"300 items, {index.num_codes} distinct codes")
        np.testing.assert_array_equal(index.packed_codes(), items)
        exact = index.exact()
        assert exact.is_exact and exact.codes is index.codes and exact.exact() is exact
        for found, wanted in zip(exact.search_scored(pack(query_hash), 40, query_hash=query_hash), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        distances, rows = exact.search(pack(query_hash), 40, query_hash=query_hash)
        np.testing.assert_array_equal(distances, expected[0])
        np.testing.assert_array_equal(rows, expected[2])


def test_every_kind_is_rebuilt_over_other_codes_with_its_options(kind: str) -> None:
    first, second = drawn(NUM_ITEMS, 50), drawn(2 * NUM_ITEMS, 50, seed=1)
    index = build_index(kind, first, num_bits=BITS, **OPTIONS.get(kind, {}))
    again = index.rebuilt(second)
    assert type(again) is type(index) and again.num_bits == BITS and again.options == index.options == OPTIONS.get(kind, index.options)
    np.testing.assert_array_equal(again.packed_codes(), second)
    np.testing.assert_array_equal(index.packed_codes(), first)


def test_probes_are_set_or_refused(kind: str) -> None:
    index = build_index(kind, drawn(NUM_ITEMS, 50), num_bits=BITS, **OPTIONS.get(kind, {}))
    if "lists" in index.options:
        assert not index.with_probes(1).is_exact and index.with_probes(10**6).is_exact
        with pytest.raises(ValueError, match="probes=0"):
            index.with_probes(0)
    elif "links" in index.options:
        assert not index.with_probes(1).is_exact
        with pytest.raises(ValueError, match="probes=0"):
            index.with_probes(0)
    else:
        with pytest.raises(ValueError, match=f"of kind {kind}, which has no lists"):
            index.with_probes(5)


def test_numbers_in_the_line_for_people_are_readable() -> None:
    items = np.tile(np.arange(256, dtype=np.uint8)[:, None], (5, 1))
    assert build_index("exact", items).describe() == "1,280 items, 256 distinct codes"
    assert build_index("ivf", items, lists=12).describe() == "1,280 items, 256 distinct codes in 12 lists"


def test_a_kind_that_finds_nothing_or_cannot_be_built_is_no_index() -> None:
    class Unfinished(Index):
        kind = "unfinished"

    with pytest.raises(TypeError, match="build.*load.*scan"):
        Unfinished()  # type: ignore[abstract]
