"""Means over queries with confidence intervals: how much a measure would change with other queries of the same kind.

Shape suffixes: Q queries, M measures, S resamples of a block.
"""

from collections.abc import Iterator, Mapping

import numpy as np

LOW, HIGH = "_low", "_high"
"""Suffixes of the names of the bounds: "P@1" has "P@1_low" and "P@1_high"."""

RESAMPLES = 1000
MOST_RESAMPLED = 10_000
_DRAWS_AT_ONCE = 2_000_000  # 16 MB


def means_with_intervals(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean over queries of each measure, and the bounds of its 95 % confidence interval.

    The interval is the percentile bootstrap over queries: Q queries are drawn with replacement, 1,000 times, and the bounds are the 2.5 %
    and 97.5 % quantiles of the means (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). The draws are the same at every call,
    and the order of the queries does not matter. Above 10,000 queries the bounds are the mean minus and plus 1.96 standard errors; there
    the two kinds of bounds do not differ visibly.

    The gallery and the model are fixed: the interval does not cover what another training would give. Queries are assumed to be
    independent; where few labels have many queries each, the interval is too narrow.

    Args:
        values: for each measure, by name, its value for each query, finite (Q,). Measures may be of different numbers of queries.

    Returns:
        "NAME", "NAME_low" and "NAME_high" for each name. The mean is NaN if there is no query; there are no bounds if there are fewer than
        two queries.
    """
    if not values:
        return {}
    if len(lengths := {len(column) for column in values.values()}) > 1:
        means: dict[str, float] = {}
        for length in sorted(lengths):
            means |= means_with_intervals({name: column for name, column in values.items() if len(column) == length})
        return means
    values_QM = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)
    num_queries = len(values_QM)
    if num_queries == 0:
        return dict.fromkeys(values, float("nan"))
    means_M = values_QM.mean(axis=0)
    if num_queries < 2:
        return dict(zip(values, means_M.tolist(), strict=True))
    if num_queries > MOST_RESAMPLED:
        errors_M = values_QM.std(axis=0, ddof=1) / np.sqrt(num_queries)
        low_M, high_M = means_M - 1.96 * errors_M, means_M + 1.96 * errors_M
    else:
        low_M, high_M = _bootstrapped(values_QM)
    means = {}
    for name, mean, low, high in zip(values, means_M.tolist(), low_M.tolist(), high_M.tolist(), strict=True):
        means |= {name: mean, name + LOW: low, name + HIGH: high}
    return means


def recall_of_all(values: Mapping[str, np.ndarray], without: int) -> dict[str, np.ndarray]:
    """Recall over all queries, where those without a match count as 0: the other denominator in use.

    Args:
        values: measures by name, of the queries that have a match (Q,).
        without: number of queries that have none.

    Returns:
        "recall@1_all" for "recall@1" and so on, (Q + without,).
    """
    recall = {name: column for name, column in values.items() if name.startswith("recall@") and "_" not in name}
    return {f"{name}_all": np.concatenate([column, np.zeros(without)]) for name, column in recall.items()}


def _bootstrapped(values_QM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_queries = len(values_QM)
    values_QM = values_QM[np.lexsort(values_QM.T)]
    random = np.random.default_rng(0)
    at_once = max(1, _DRAWS_AT_ONCE // num_queries)
    means = []
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn_SQ = random.integers(0, num_queries, (size, num_queries))
        drawn_SQ += np.arange(size)[:, None] * num_queries
        times_SQ = np.bincount(drawn_SQ.ravel(), minlength=size * num_queries).reshape(size, num_queries)
        means.append(times_SQ.astype(np.float64) @ values_QM / num_queries)
    low_M, high_M = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    return low_M, high_M


def measures_as_text(measures: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Measures as the text of a table.

    Args:
        measures: as `means_with_intervals` returns them; they may also hold numbers of queries, with names that start with "queries".

    Yields:
        Name and value of each measure, with half of the interval's width if the interval is known ("0.7179 ±0.0342"). A number of queries
        is a whole number.
    """
    for name, value, bounds in measures_with_bounds(measures):
        if name.startswith("queries"):
            yield name, str(int(value))
        else:
            yield name, f"{value:.4f}" if bounds is None else f"{value:.4f} ±{(bounds[1] - bounds[0]) / 2:.4f}"


def measures_with_bounds(measures: Mapping[str, float]) -> Iterator[tuple[str, float, tuple[float, float] | None]]:
    """Measures with their bounds, one at a time.

    Args:
        measures: as `means_with_intervals` returns them.

    Yields:
        Name, value and bounds of each measure; the bounds are None if the measure has none.
    """
    for name, value in measures.items():
        if any(name.endswith(end) and name.removesuffix(end) in measures for end in (LOW, HIGH)):
            continue
        low, high = measures.get(name + LOW), measures.get(name + HIGH)
        yield name, value, None if low is None or high is None else (low, high)
