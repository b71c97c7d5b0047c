"""Measures of one ranking by the definitions, one rank after the other, and their means over random orders inside ties."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np


def measures_by_loop(matches: Sequence[bool], *, k: int, count_query: bool = False) -> dict[str, float]:
    """Of one order: is the item at each rank a match? All matches are in it."""
    num_relevant = sum(map(bool, matches))
    r = num_relevant + count_query
    found, precisions, within_r = 0, 0.0, 0.0
    hits_in_k = hits_in_r = 0
    for rank, match in enumerate(matches, start=1):
        if not match:
            continue
        found += 1
        precisions += found / rank
        hits_in_k += rank <= k
        if rank <= r:
            hits_in_r += 1
            within_r += found / rank
    return {
        "mAP": precisions / num_relevant,
        f"P@{k}": hits_in_k / k,
        f"recall@{k}": float(hits_in_k > 0),
        "R-precision": hits_in_r / r,
        "MAP@R": within_r / r,
    }


def orders_inside_ties(distances: np.ndarray, relevant: np.ndarray) -> Iterator[list[bool]]:
    """Every order of the items that keeps smaller distances first."""
    groups = [relevant[distances == distance].tolist() for distance in sorted(set(distances.tolist()))]
    for orders in itertools.product(*(list(itertools.permutations(group)) for group in groups)):
        yield [match for group in orders for match in group]


def means_over_random_orders(
    distances: np.ndarray, relevant: np.ndarray, *, k: int, count_query: bool = False, orders: int = 20_000, seed: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Means of the measures over so many random orders inside ties, and the standard errors of these means."""
    random = np.random.default_rng(seed)
    ranks = np.arange(1, len(distances) + 1)
    num_relevant = int(relevant.sum())
    r = num_relevant + count_query
    values = []
    for _ in range(0, orders, 1000):
        # A random number below 1 added to whole distances draws an order inside each.
        matches = relevant[np.argsort(distances + random.random((1000, len(distances))), axis=1)]
        precisions = matches * np.cumsum(matches, axis=1) / ranks
        values.append(
            np.stack(
                [
                    precisions.sum(axis=1) / num_relevant,
                    matches[:, :k].sum(axis=1) / k,
                    matches[:, :k].any(axis=1),
                    matches[:, :r].sum(axis=1) / r,
                    precisions[:, :r].sum(axis=1) / r,
                ]
            )
        )
    drawn = np.concatenate(values, axis=1)
    names = ["mAP", f"P@{k}", f"recall@{k}", "R-precision", "MAP@R"]
    means, errors = drawn.mean(axis=1), drawn.std(axis=1) / np.sqrt(orders)
    return dict(zip(names, means.tolist(), strict=True)), dict(zip(names, errors.tolist(), strict=True))
