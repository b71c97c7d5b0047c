import math

import numpy as np
import pytest

from eet.metrics import average_precision, map_at_r, precision_at_k, r_precision, ranked_metrics, recall_at_k


def slow_metrics(queries, labels, gallery, gallery_labels, rows, count_query):  # type: ignore[no-untyped-def]
    values: dict[str, list[float]] = {}
    for q in range(len(queries)):
        keep = [n for n in range(len(gallery)) if rows is None or n != rows[q]]
        distances = np.unpackbits(queries[q] ^ gallery[keep], axis=1).sum(axis=1)
        relevant = gallery_labels[keep] == labels[q]
        if not relevant.any():
            continue
        ranked, r = relevant[np.argsort(distances, kind="stable")], int(relevant.sum())
        for name, value in {
            "mAP": average_precision(distances, relevant),
            "mAP_stable": average_precision(distances, relevant, ties="stable"),
            "P@1": precision_at_k(ranked, 1),
            "P@5": precision_at_k(ranked, 5),
            "recall@1": recall_at_k(ranked, 1),
            "recall@3": recall_at_k(ranked, 3),
            "R-precision": r_precision(ranked, r, count_query=count_query),
            "MAP@R": map_at_r(ranked, r, count_query=count_query),
        }.items():
            values.setdefault(name, []).append(value)
    used = len(values["mAP"])
    means = {name: float(np.mean(v)) for name, v in values.items()}
    return {**means, "queries": used, "queries_without_relevant": len(queries) - used}


@pytest.mark.parametrize("bits", [6, 24])
@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize("same_gallery", [False, True])
def test_blocked_metrics_equal_one_query_at_a_time(bits: int, count_query: bool, same_gallery: bool) -> None:
    rng = np.random.default_rng(bits)
    gallery = np.packbits(rng.random((80, bits)) < 0.5, axis=1)
    gallery_labels = rng.integers(0, 6, size=80)
    gallery_labels[10] = 99
    rows = np.arange(5, 40) if same_gallery else None
    queries, labels = gallery[5:40] ^ 4, gallery_labels[5:40]
    found = ranked_metrics(
        queries, labels, gallery, gallery_labels, num_bits=bits, query_rows=rows, ks=(1, 5), recall_ks=(1, 3),
        count_query=count_query,
    )  # fmt: skip
    expected = slow_metrics(queries, labels, gallery, gallery_labels, rows, count_query)
    assert expected["queries_without_relevant"] == same_gallery
    assert found == pytest.approx(expected, abs=1e-12)


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
    with pytest.raises(ValueError, match="query codes"):
        ranked_metrics(codes, labels, codes, labels, num_bits=9)
