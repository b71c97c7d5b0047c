"""Accuracy against cost: all candidates, and the Pareto set, which no other candidate beats in both."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eet.errors import InputError
from eet.figures.plots import COLOURS, GREY, figure_of, quieten
from eet.metrics import pareto_set

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pareto_figure(
    costs: Mapping[str, Sequence[float]],
    quality: Sequence[float],
    *,
    names: Sequence[str],
    quality_name: str,
    chosen: str | None,
    title: str,
) -> "Figure":
    """One plot for each cost: quality upwards, cost to the right, the Pareto set joined by steps and labelled with names.

    Args:
        costs: name of a cost with its unit -> one value for each candidate; at least one cost.
        quality: one value for each candidate, higher is better.
        names: name of each candidate. Those of the Pareto set are written next to their points where there is space: the chosen one
            first, then by quality.
        quality_name: label of the axis.
        chosen: name of the candidate to ring, or None.
        title: text above the plots.

    Returns:
        A matplotlib Figure with len(costs) plots, three in a row at most.

    Raises:
        InputError: there is no cost or no candidate, or lengths differ.
    """
    count = len(names)
    lengths = {len(quality), *(len(values) for values in costs.values())}
    if not costs or not count or lengths != {count}:
        raise InputError(f"{count} names, {len(quality)} qualities and {len(costs)} costs to draw; give one value of each for every name")
    columns = min(3, len(costs))
    rows = -(-len(costs) // columns)
    figure = figure_of(rows, columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    heights = np.asarray(quality, dtype=float)
    for number, axes in enumerate(grid.flat):
        if number >= len(costs):
            axes.remove()
            continue
        name, values = list(costs.items())[number]
        places = np.asarray(values, dtype=float)
        best = pareto_set(np.stack([heights, -places], axis=1))
        axes.scatter(places[~best], heights[~best], s=22, color=GREY, alpha=0.5, linewidths=0)
        order = np.flatnonzero(best)[np.argsort(places[best], kind="stable")]
        # Up to the cost of the next point no candidate is better than this one: a step, not a slope.
        axes.step(places[order], heights[order], where="post", color=COLOURS[0], linewidth=1.6, marker="o", markersize=5, clip_on=False)
        for place in sorted(order, key=lambda place: (names[place] != chosen, -heights[place])):
            axes.annotate(names[place], (places[place], heights[place]), (3, 5), textcoords="offset points", fontsize=7, color=GREY)
        if chosen is not None:
            ringed = list(names).index(chosen)
            axes.plot(
                places[ringed], heights[ringed], "o", markersize=11, markerfacecolor="none", markeredgecolor=COLOURS[1], clip_on=False
            )
        axes.margins(0.08)
        axes.set(xlabel=name, ylabel=quality_name)
        quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    _remove_covered_names(figure)
    return figure


def _remove_covered_names(figure: "Figure") -> None:
    """Removes each name that overlaps one drawn earlier."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        shown: list[Any] = []
        for text in list(axes.texts):
            box = text.get_window_extent()
            if box.count_overlaps(shown):
                text.remove()
            else:
                shown.append(box)
