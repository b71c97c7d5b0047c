import math
import sys

import numpy as np
import pytest

from eet.metrics import average_precision, cosine_metrics, map_at_r, means_with_intervals, precision_at_k, r_precision, recall_at_k


def slow_metrics(embeddings, labels, count_query):  # type: ignore[no-untyped-def]
    units = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    similarities = units @ units.T
    values: dict[str, list[float]] = {}
    for q in range(len(units)):
        others = np.array([n for n in range(len(units)) if n != q])
        relevant = labels[others] == labels[q]
        if not relevant.any():
            continue
        distances = -similarities[q, others]
        for name, value in {
            "mAP": average_precision(distances, relevant),
            "P@1": precision_at_k(distances, relevant, 1),
            "P@5": precision_at_k(distances, relevant, 5),
            "recall@1": recall_at_k(distances, relevant, 1),
            "recall@3": recall_at_k(distances, relevant, 3),
            "R-precision": r_precision(distances, relevant, count_query=count_query),
            "MAP@R": map_at_r(distances, relevant, count_query=count_query),
        }.items():
            values.setdefault(name, []).append(value)
    used = len(values["mAP"])
    return {**means_with_intervals(values), "queries": used, "queries_without_relevant": len(units) - used}


@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("block", [7, 256])
def test_counted_groups_equal_a_sort_of_one_query_at_a_time(tied: bool, count_query: bool, block: int, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["eet.metrics.cosine_metrics"], "QUERIES_AT_ONCE", block)  # the package's attribute is the function
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, size=90)
    labels[10] = 99
    if tied:  # axes of a cube and their opposites: similarities are -1, 0 and 1, in any order of the sums
        embeddings = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 90)] * rng.choice([-1, 1], (90, 1))
    else:
        embeddings = rng.standard_normal((90, 8)).astype(np.float32) + 0.8 * np.eye(100, 8)[labels]
    found = cosine_metrics(embeddings, labels, ks=(1, 5), recall_ks=(1, 3), count_query=count_query)
    assert found == pytest.approx(slow_metrics(embeddings, labels, count_query), abs=1e-12)
    assert found["queries_without_relevant"] == 1


def test_the_standard_definition_is_that_of_pytorch_metric_learning() -> None:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = {"P@1": "precision_at_1", "R-precision": "r_precision", "MAP@R": "mean_average_precision_at_r"}
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, size=120)
    embeddings = rng.standard_normal((120, 8)).astype(np.float32) + np.eye(9, 8)[labels].astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    reference = AccuracyCalculator(include=tuple(names.values()), k="max_bin_count").get_accuracy(embeddings, labels)
    found = cosine_metrics(embeddings, labels)
    for name, reference_name in names.items():
        assert found[name] == pytest.approx(reference[reference_name], abs=1e-6), name


def test_a_perfect_ranking_stays_below_one_in_the_published_form() -> None:
    """The maximum is 1 - labels / images."""
    labels = np.repeat(np.arange(5), 4)
    published = cosine_metrics(np.eye(5)[labels], labels, count_query=True)
    assert published["MAP@R"] == published["R-precision"] == 0.75
    assert cosine_metrics(np.eye(5)[labels], labels)["MAP@R"] == 1


def test_length_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    embeddings, labels = rng.standard_normal((40, 4)), rng.integers(0, 4, 40)
    assert cosine_metrics(embeddings * rng.uniform(0.1, 9, (40, 1)), labels) == pytest.approx(cosine_metrics(embeddings, labels))


def test_no_query_with_a_match_gives_undefined_measures() -> None:
    found = cosine_metrics(np.eye(3), np.arange(3))
    assert found["queries"] == 0 and found["queries_without_relevant"] == 3 and math.isnan(found["MAP@R"])


@pytest.mark.parametrize(
    ("embeddings", "labels", "options", "message"),
    [
        (np.eye(3), np.arange(4), {}, "must be"),
        (np.eye(3)[0], np.arange(3), {}, "must be"),
        (np.eye(3) * [[1], [0], [1]], np.arange(3), {}, "row 1 is zero"),
        (np.eye(3) * [[1], [1], [np.nan]], np.arange(3), {}, "row 2 is zero or not finite"),
        (np.eye(3), np.arange(3), {"ks": (0,)}, "from 1"),
    ],
)
def test_wrong_arguments_are_refused(embeddings, labels, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        cosine_metrics(embeddings, labels, **options)
