"""The course of a training, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eet.errors import InputError
from eet.figures.plots import curve_style, figure_of, quieten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves_figure(history: Sequence[Mapping[str, float]], keys: Sequence[str], *, title: str) -> "Figure":
    """The course of a training: one small plot for each key, because their scales differ.

    Args:
        history: one mapping for each report, in order. The x axis is its "epoch" where every report has one, otherwise
            the report's number from 1. A report without some key leaves no point there.
        keys: what to draw, at least one, each in at least one report.
        title: text above the plots.

    Returns:
        A matplotlib Figure with len(keys) plots, three in a row at most.

    Raises:
        InputError: the history or the keys are empty, or a key is in no report.
    """
    if not history or not keys:
        raise InputError(f"{len(history)} reports and {len(keys)} keys to draw; give at least one of each")
    known = sorted({key for report in history for key in report})
    absent = [key for key in keys if key not in known]
    if absent:
        raise InputError(f"no report holds {', '.join(absent)}; the history has {', '.join(known)}")

    by_epoch = all("epoch" in report for report in history)
    columns = 2 if len(keys) == 4 else min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = figure_of(rows, columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(keys):
            axes.remove()
            continue
        key = keys[number]
        points = [(report["epoch"] if by_epoch else place, report[key]) for place, report in enumerate(history, start=1) if key in report]
        axes.plot([x for x, _ in points], [y for _, y in points], **curve_style(0, len(points)))
        axes.set_title(key, fontsize=10, loc="left")
        axes.set_xlabel("epoch" if by_epoch else "report")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure
