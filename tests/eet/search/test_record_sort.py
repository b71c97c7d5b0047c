"""Sorting in runs on the disk against a sort in memory."""

import tracemalloc

import numpy as np
import pytest

from eet.search.record_sort import sorted_records


def drawn(rng: np.random.Generator, number: int, width: int, values: int) -> np.ndarray:
    """Records with few or many keys, in random order; `more` is carried along."""
    records = np.empty(number, [("key", "u8", (width,)), ("row", "u4"), ("more", "u1")])
    records["key"] = rng.integers(0, 2**63, (values, width)).astype("u8")[rng.integers(0, values, number)]
    records["row"], records["more"] = rng.permutation(number), rng.integers(0, 256, number)
    return records


@pytest.mark.parametrize("at_once", [1, 2, 97, 5000])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("values", [1, 7, 10**4])
def test_blocks_and_runs_become_one_order(tmp_path, at_once, width, values):
    rng = np.random.default_rng([at_once, width, values])
    for number in (0, 1, 400):
        records = drawn(rng, number, width, values)
        whole = records[np.lexsort((records["row"], *records["key"].T))]
        chosen = rng.integers(0, 2, number).astype(bool)
        run = records[chosen][np.lexsort((records[chosen]["row"], *records[chosen]["key"].T))]
        blocks = (records[~chosen][start : start + 30] for start in range(0, number, 30))
        runs = [(run[start : start + 11] for start in range(0, number, 11))]
        found = list(sorted_records(blocks, str(tmp_path), at_once=at_once, runs=runs))
        np.testing.assert_array_equal(np.concatenate([records[:0], *found]), whole)
        assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    peaks = []
    for number in (10_000, 100_000):
        rng = np.random.default_rng(0)
        tracemalloc.start()
        blocks = (drawn(rng, 1000, 2, 50) for _ in range(number // 1000))
        assert sum(len(block) for block in sorted_records(blocks, str(tmp_path), at_once=4000)) == number
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 100_000 * 21
