"""Quality over a weight, from a sweep."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eet.errors import InputError
from eet.figures.plots import COLOURS, curve_style, figure_of, quieten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def weight_curves_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    weight: str,
    quality: str,
    title: str,
) -> "Figure":
    """Quality over a weight on a logarithmic axis: one colour for each name, like figures 4 and 5 of EET (mAP over beta and sigma).

    Args:
        lines: name -> (weights > 0, qualities): trials that differ only in the weight, joined; names may be missing.
        points: name -> (weights > 0, qualities): all trials, drawn faintly.
        weight: label of the x axis.
        quality: label of the y axis.
        title: text above the axes.

    Returns:
        A matplotlib Figure with one plot.

    Raises:
        InputError: there is no point, or a weight is not above 0.
    """
    if not any(len(values) for values, _ in points.values()):
        raise InputError("no trials to draw; give at least one")
    if not all(value > 0 for values, _ in (*points.values(), *lines.values()) for value in values):
        raise InputError("the weights' axis is logarithmic: give weights above 0")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(points.items()):
        axes.scatter(x, y, s=14, color=COLOURS[number % len(COLOURS)], alpha=0.35, linewidths=0, label=None if name in lines else name)
        if name in lines:
            axes.plot(*lines[name], label=name, **curve_style(number, len(lines[name][0])))
    axes.set_xscale("log")
    axes.set(xlabel=weight, ylabel=quality)
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if len(points) > 1:
        figure.legend(loc="outside lower center", ncols=min(4, len(points)), frameon=False, fontsize=9)
    return figure
