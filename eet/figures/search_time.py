"""The time of a search over the number of codes, beside a peer's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from eet.figures.plots import COLOURS, MARKERS, curve_style, figure_of, quieten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def search_time_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], *, title: str, peer: str = "FAISS"
) -> "Figure":
    """The time of a query over the number of codes, both axes logarithmic: ours as a full line, the peer's in the same colour, dashed.

    Args:
        lines: name -> (numbers of codes, our milliseconds, the peer's), three lists of one length, all above 0, at least one point.
        title: text above the axes.
        peer: what the other one is called.

    Returns:
        A matplotlib Figure; write it with `save_png`.

    Raises:
        ValueError: if there is no line, or one has lists of different length, no points, or values that are not above 0.
    """
    if not lines:
        raise ValueError("no lines to draw; give at least one name -> (numbers of codes, our times, the peer's)")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    for number, (name, columns) in enumerate(lines.items()):
        sizes, ours, theirs = (np.asarray(column, dtype=np.float64) for column in columns)
        if (
            not sizes.shape == ours.shape == theirs.shape
            or not sizes.size
            or not all((column > 0).all() for column in (sizes, ours, theirs))
        ):
            raise ValueError(f"line {name!r} has {len(sizes)}, {len(ours)} and {len(theirs)} values; give as many of each, all above 0")
        # Line styles tell the two apart here, so a second turn of colours is told by its markers.
        look = curve_style(number % len(COLOURS), len(sizes)) | {"marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}
        axes.plot(sizes, ours, label=f"{name}: ours", **look)
        axes.plot(sizes, theirs, label=f"{name}: {peer}", **(look | {"linestyle": "--", "markerfacecolor": "white"}))
    axes.set(xscale="log", yscale="log", xlabel="codes", ylabel="ms a query")
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
