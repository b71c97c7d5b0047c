from typing import Any

import numpy as np
import pytest

from eet.metrics import matches_by_label, rank_gallery, ranks


def random_codes(rng: np.random.Generator, count: int, bits: int) -> np.ndarray:
    return np.packbits(rng.random((count, bits)) < 0.5, axis=1)


def slow_distance(a: np.ndarray, b: np.ndarray) -> int:
    return sum(bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("bits", [5, 16, 64, 100])
@pytest.mark.parametrize("same_gallery", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_ranks_and_counts_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch, bits: int, same_gallery: bool, threads: int) -> None:
    monkeypatch.setattr(ranks, "QUERIES_AT_ONCE", 3)
    rng = np.random.default_rng(bits)
    gallery, gallery_labels = random_codes(rng, 60, bits), rng.integers(-1, 4, size=60)
    rows = np.array([3, 59, 17, 0]) if same_gallery else None
    queries = gallery[rows] if rows is not None else random_codes(rng, 4, bits)
    labels = np.array([0, 2, 9, 1])  # nothing has label 9
    matches = matches_by_label(labels, gallery_labels)
    found = ranks.match_ranks(queries, gallery, matches, num_bits=bits, query_rows=rows, measure=list, threads=threads)

    total, relevant = np.zeros((4, bits + 1), dtype=np.int64), np.zeros((4, bits + 1), dtype=np.int64)
    for q in range(4):
        others = [n for n in range(60) if rows is None or rows[q] != n]
        for n in others:
            distance = slow_distance(queries[q], gallery[n])
            total[q, distance] += 1
            relevant[q, distance] += labels[q] == gallery_labels[n]
        order = sorted(others, key=lambda n: (slow_distance(queries[q], gallery[n]), n))
        expected = [rank for rank, n in enumerate(order, start=1) if gallery_labels[n] == labels[q]]
        assert found.measured[q] == expected
    assert found.total_QH.dtype == found.relevant_QH.dtype == np.int64
    np.testing.assert_array_equal(found.total_QH, total)
    np.testing.assert_array_equal(found.relevant_QH, relevant)
    counts = ranks.match_counts(queries, gallery, matches, num_bits=bits, query_rows=rows, threads=threads)
    assert counts.total_QH.dtype == counts.relevant_QH.dtype == np.int64
    np.testing.assert_array_equal(counts.total_QH, total)
    np.testing.assert_array_equal(counts.relevant_QH, relevant)


@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_a_large_gallery_is_ranked_without_a_table_of_queries_and_items(ties: Any) -> None:
    """1,000 queries against 200,000 items of 20 labels: a table of distances alone would take 200 MB, the ranks of all matches 80."""
    import resource

    rng = np.random.default_rng(0)
    gallery, labels = random_codes(rng, 200_000, 32), rng.integers(0, 20, size=200_000)
    queries, query_labels = random_codes(rng, 1000, 32), rng.integers(0, 20, size=1000)
    compiled = matches_by_label(query_labels[:2], labels[:100])
    rank_gallery(queries[:2], gallery[:100], compiled, num_bits=32, ties=ties)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measures = rank_gallery(queries, gallery, matches_by_label(query_labels, labels), num_bits=32, ties=ties).measures
    assert measures["queries"] == 1000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60, "MB"
