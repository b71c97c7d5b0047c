"""Merging sorted runs against a sort in memory."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from eet.gallery import merge_by_id


def run_of(table: pa.Table, size: int) -> Iterator[pa.Table]:
    return (table.slice(start, size) for start in range(0, len(table), size))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_runs_become_one_order(overlap, size):
    rng = np.random.default_rng([overlap, size])
    names = sorted(f"{'é' if n % 3 else 'z'}{n:04d}" for n in range(300))
    chosen = rng.integers(0, 5, 300) if overlap else np.arange(300) // 60
    tables = [pa.table({"item_id": [name for name, run in zip(names, chosen, strict=True) if run == number]}) for number in range(5)]
    empty = pa.table({"item_id": pa.array([], pa.string())})
    merged = list(merge_by_id([run_of(table, size) for table in (empty, *tables)]))
    assert pa.concat_tables(merged)["item_id"].to_pylist() == names


def test_of_equal_ids_the_earlier_run_comes_first():
    runs = [pa.table({"item_id": ["a", "b", "c"], "run": [number] * 3}) for number in range(3)]
    merged = pa.concat_tables(merge_by_id([run_of(table, 2) for table in runs]))
    assert merged["item_id"].to_pylist() == [name for name in "abc" for _ in range(3)]
    assert merged["run"].to_pylist() == [0, 1, 2] * 3
