import math
import sys

import numpy as np
import pytest

from eet.metrics import average_precision, map_at_r, means_with_intervals, precision_at_k, r_precision, ranked_metrics, recall_at_k


def slow_metrics(queries, labels, gallery, gallery_labels, rows, count_query, ties):  # type: ignore[no-untyped-def]
    values: dict[str, list[float]] = {}
    for q in range(len(queries)):
        keep = [n for n in range(len(gallery)) if rows is None or n != rows[q]]
        distances = np.unpackbits(queries[q] ^ gallery[keep], axis=1).sum(axis=1)
        relevant = gallery_labels[keep] == labels[q]
        if not relevant.any():
            continue
        for way, end in {"expected": "", **({"stable": "_stable"} if ties == "stable" else {})}.items():
            for name, value in {
                "mAP": average_precision(distances, relevant, ties=way),
                "P@1": precision_at_k(distances, relevant, 1, ties=way),
                "P@5": precision_at_k(distances, relevant, 5, ties=way),
                "recall@1": recall_at_k(distances, relevant, 1, ties=way),
                "recall@3": recall_at_k(distances, relevant, 3, ties=way),
                "R-precision": r_precision(distances, relevant, count_query=count_query, ties=way),
                "MAP@R": map_at_r(distances, relevant, count_query=count_query, ties=way),
            }.items():
                values.setdefault(name + end, []).append(value)
    used = len(values["mAP"])
    return {**means_with_intervals(values), "queries": used, "queries_without_relevant": len(queries) - used}


@pytest.mark.parametrize("bits", [6, 24])
@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize("same_gallery", [False, True])
@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_blocked_metrics_equal_one_query_at_a_time(monkeypatch, bits: int, count_query: bool, same_gallery: bool, ties: str) -> None:
    monkeypatch.setattr(sys.modules["eet.metrics.ranked_metrics"], "QUERIES_AT_ONCE", 9)  # the package's attribute is the function
    rng = np.random.default_rng(bits)
    gallery = np.packbits(rng.random((80, bits)) < 0.5, axis=1)
    gallery_labels = rng.integers(0, 6, size=80)
    gallery_labels[10] = 99
    rows = np.arange(5, 40) if same_gallery else None
    queries, labels = gallery[5:40] ^ 4, gallery_labels[5:40]
    found = ranked_metrics(
        queries, labels, gallery, gallery_labels, num_bits=bits, query_rows=rows, ks=(1, 5), recall_ks=(1, 3),
        count_query=count_query, ties=ties,
    )  # fmt: skip
    expected = slow_metrics(queries, labels, gallery, gallery_labels, rows, count_query, ties)
    assert expected["queries_without_relevant"] == same_gallery
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_order_of_rows_inside_ties_does_not_matter() -> None:
    """Items are sorted by label, as folders are, and all items of a label have the same code as those of the next label."""
    labels = np.repeat(np.arange(6), 8)
    codes = np.packbits(np.eye(8, dtype=np.uint8)[labels // 2], axis=1)
    for order in (np.arange(48), np.arange(48)[::-1]):
        found = ranked_metrics(codes[order], labels[order], codes[order], labels[order], num_bits=8, query_rows=np.arange(48))
        assert found["P@1"] == found["R-precision"] == pytest.approx(7 / 15)
        assert "P@1_stable" not in found


def test_recall_over_all_queries_counts_those_without_a_match_as_0() -> None:
    codes = np.arange(4, dtype=np.uint8)[:, None]
    found = ranked_metrics(codes, np.array([0, 1, 9, 9]), codes, np.array([0, 0, 1, 2]), num_bits=8, recall_ks=(1, 4), all_queries=True)
    assert found["queries"] == found["queries_without_relevant"] == 2
    assert (found["recall@1"], found["recall@4"]) == (0.5, 1) and (found["recall@1_all"], found["recall@4_all"]) == (0.25, 0.5)
    assert found["recall@1_all_low"] == 0 and "P@1_all" not in found


def test_no_query_with_a_match_gives_undefined_measures() -> None:
    codes = np.zeros((2, 1), dtype=np.uint8)
    found = ranked_metrics(codes, np.array([0, 1]), codes, np.array([2, 3]), num_bits=8)
    assert found["queries"] == 0 and found["queries_without_relevant"] == 2
    assert math.isnan(found["mAP"]) and math.isnan(found["recall@8"])


def test_wrong_arguments_are_refused() -> None:
    codes, labels = np.zeros((2, 1), dtype=np.uint8), np.zeros(2, dtype=int)
    with pytest.raises(ValueError, match="from 1"):
        ranked_metrics(codes, labels, codes, labels, num_bits=8, ks=(0,))
    with pytest.raises(ValueError, match="0 to 1"):
        ranked_metrics(codes, labels, codes, labels, num_bits=8, query_rows=np.array([0, 2]))
    with pytest.raises(ValueError, match="'expected' or 'stable'"):
        ranked_metrics(codes, labels, codes, labels, num_bits=8, ties="none")
    with pytest.raises(ValueError, match="query codes"):
        ranked_metrics(codes, labels, codes, labels, num_bits=9)
    with pytest.raises(ValueError, match="matches of 1 queries and 2 items came with 2 query codes and 2"):
        ranked_metrics(codes, labels[:1], codes, labels, num_bits=8)
