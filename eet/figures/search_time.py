"""The time of a search over the number of codes, compared with a peer's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from eet.errors import InputError
from eet.figures.plots import COLOURS, curve_style, figure_of, quieten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Times: TypeAlias = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Numbers of codes, milliseconds of EET, milliseconds of the peer: of equal length, all above 0, at least one."""


def search_time_figure(plots: Mapping[str, Mapping[str, Times]], *, title: str, peer: str = "FAISS") -> "Figure":
    """The time of a query over the number of codes, both axes logarithmic: EET as a full line, the peer in the same colour, dashed.

    Args:
        plots: heading -> name -> times: a small plot for each heading, such as a length of code, with two lines for each name; a name has
            the same colour in all. At most six names.
        title: text above the plots.
        peer: name of the compared program.

    Returns:
        A matplotlib Figure, two plots in a row at most; write it with `save_png`.

    Raises:
        InputError: there is no plot or line, more than six names, or a line has lists of different length, no points, or values that
            are not above 0.
    """
    names = list(dict.fromkeys(name for lines in plots.values() for name in lines))
    if not plots or not all(plots.values()):
        raise InputError("no lines to draw; give each plot at least one name -> (numbers of codes, times of EET, times of the peer)")
    if len(names) > len(COLOURS):
        raise InputError(f"{len(names)} names: {len(COLOURS)} colours distinguish lines; draw fewer, or several figures")
    columns = min(2, len(plots))
    figure = figure_of(-(-len(plots) // columns), columns)
    grid = figure.subplots(-(-len(plots) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for axes in list(grid.flat)[len(plots) :]:
        axes.remove()
    for axes, (heading, lines) in zip(grid.flat, plots.items(), strict=False):
        for name, times in lines.items():
            sizes, eet_ms, peer_ms = (np.asarray(column, dtype=np.float64) for column in times)
            fit = sizes.shape == eet_ms.shape == peer_ms.shape and sizes.size
            if not fit or not all((column > 0).all() for column in (sizes, eet_ms, peer_ms)):
                raise InputError(
                    f"line {name!r} has {len(sizes)}, {len(eet_ms)} and {len(peer_ms)} values; give as many of each, all above 0"
                )
            look = curve_style(names.index(name), len(sizes))
            axes.plot(sizes, eet_ms, label=f"{name}: EET", **look)
            axes.plot(sizes, peer_ms, label=f"{name}: {peer}", **(look | {"linestyle": "--", "markerfacecolor": "white"}))
        axes.set(xscale="log", yscale="log", xlabel="codes", ylabel="ms a query")
        axes.set_title(heading, fontsize=10, loc="left")
        quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    handles = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
