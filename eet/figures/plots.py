"""Shared parts of plots: colours, an empty Figure, line styles, plain axes, writing PNG. Uses matplotlib Figures without global state."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eet.storage import naming_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, without yellow and black. When the colours repeat, line styles distinguish curves.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", ":")
MARKERS = ("o", "s", "^")
GREY = "#555555"


def figure_of(rows: int, columns: int) -> "Figure":
    """An empty Figure for rows x columns plots."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (6.0, 4.4) if rows == columns == 1 else (3.4 * columns, 0.5 + 2.5 * rows)
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def curve_style(number: int, points: int) -> dict[str, Any]:
    """Style of curve `number` with `points` points, as arguments of `Axes.plot`."""
    # Show each of few measurements. A line of one point would be invisible.
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        "linewidth": 1.8,
        "marker": "o" if points <= 20 else None,
        "markersize": 4,
        "clip_on": False,
    }


def curves_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, **of_axes: Any) -> "Figure":
    """One plot with a line for each name, and their names below if there are several.

    Args:
        curves: name -> (x, y), of one length.
        title: text above the axes.
        **of_axes: limits and labels, as `Axes.set` takes them.
    """
    figure = figure_of(1, 1)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=name, **curve_style(number, len(x)))
    axes.set(**of_axes)
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False, fontsize=9)
    return figure


def quieten(axes: "Axes") -> None:
    """Makes frame and ticks less prominent than the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)


def save_png(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes `figure` to `path` as PNG at 192 dots per inch, twice the usual screen resolution; the folder must exist.

    Equal figures result in equal bytes.
    """
    with naming_file(path):
        figure.savefig(path, format="png", dpi=192, metadata={"Software": None})
