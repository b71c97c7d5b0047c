"""Line figures: precision against recall, training curves, patch similarity, quality over a weight, the time of a search. Drawn on
matplotlib Figures, with no global state.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eet.figures.report import Cell, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, without yellow and black; with a second and third turn, line styles tell curves apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", ":")
MARKERS = ("o", "s", "^")
GREY = "#555555"


def precision_recall_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str) -> "Figure":
    """Precision against recall, one line for each name.

    Args:
        curves: name -> (recall, precision), two arrays of one length, in [0, 1], at least one point.
        title: text above the axes.

    Returns:
        A matplotlib Figure; write it with `save_png`.

    Raises:
        ValueError: if there is no curve, or one is empty, has arrays of different length or values outside [0, 1].
    """
    if not curves:
        raise ValueError("no curves to draw; give at least one name -> (recall, precision)")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        recall, precision = np.asarray(recall), np.asarray(precision)
        if recall.ndim != 1 or recall.shape != precision.shape or not recall.size:
            raise ValueError(
                f"curve {name!r} has recall of shape {recall.shape} and precision of shape {precision.shape}; "
                "give two lists of the same length, with at least one point"
            )
        # Written so that a NaN is refused too.
        if not all(((values >= 0) & (values <= 1)).all() for values in (recall, precision)):
            raise ValueError(f"curve {name!r} has values outside 0 to 1; give recall and precision as shares")
        axes.plot(recall, precision, label=name, **_line(number, len(recall)))
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False, fontsize=9)
    return figure


def training_curves_figure(history: Sequence[Mapping[str, float]], keys: Sequence[str], *, title: str) -> "Figure":
    """How training went: one small plot for each key, as their scales differ.

    Args:
        history: one mapping for each report, in order. The x axis is its "epoch" where every report has one, otherwise
            the report's number from 1. A report without some key leaves no point there.
        keys: what to draw, at least one, each in at least one report.
        title: text above the plots.

    Returns:
        A matplotlib Figure with len(keys) plots, three in a row at most.

    Raises:
        ValueError: if the history or the keys are empty, or a key is in no report.
    """
    if not history or not keys:
        raise ValueError(f"{len(history)} reports and {len(keys)} keys to draw; give at least one of each")
    known = sorted({key for report in history for key in report})
    absent = [key for key in keys if key not in known]
    if absent:
        raise ValueError(f"no report holds {', '.join(absent)}; the history has {', '.join(known)}")

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
        axes.plot([x for x, _ in points], [y for _, y in points], **_line(0, len(points)))
        axes.set_title(key, fontsize=10, loc="left")
        axes.set_xlabel("epoch" if by_epoch else "report")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def patch_similarity_figure(similarities: Mapping[str, np.ndarray], *, title: str) -> tuple["Figure", Table]:
    """How alike the patch tokens of several models become, block by block, as a plot and as a table.

    Args:
        similarities: name -> (blocks,), mean cosine of two patch tokens behind each block, in [-1, 1], from
            `eet.matching.patch_similarity`; at least one block. Models may differ in depth.
        title: text above the axes.

    Returns:
        A matplotlib Figure with one line for each model, and a Table with one row for each: the first, middle and last
        block, the highest value and its block.

    Raises:
        ValueError: if there is no model, or one has no blocks or values outside [-1, 1].
    """
    if not similarities:
        raise ValueError("no models to draw; give at least one name -> mean cosine of each block")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    rows: list[list[Cell]] = []
    for number, (name, values) in enumerate(similarities.items()):
        values = np.asarray(values)
        # Written so that a NaN is refused too.
        if values.ndim != 1 or not values.size or not ((values >= -1) & (values <= 1)).all():
            raise ValueError(f"model {name!r} has values of shape {values.shape}; give one mean cosine, from -1 to 1, for each block")
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **_line(number, len(values)))
        highest = int(values.argmax())
        chosen = (values[0], values[(len(values) - 1) // 2], values[-1], values[highest])
        rows.append([name, len(values), *(float(value) for value in chosen), highest + 1])
    axes.set(xlabel="block", ylabel="mean cosine of two patches")
    axes.locator_params(axis="x", integer=True)
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if len(similarities) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(similarities)), frameon=False, fontsize=9)
    return figure, Table(["model", "blocks", "first", "middle", "last", "highest", "at block"], rows, caption=title)


def weight_curves_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    weight: str,
    quality: str,
    title: str,
) -> "Figure":
    """Quality over a weight on a logarithmic axis: one colour for each name, as the figures 4 and 5 of EET show mAP over beta and sigma.

    Args:
        lines: name -> (weights > 0, qualities): trials that differ in the weight alone, joined; may lack names.
        points: name -> (weights > 0, qualities): every trial, drawn faint beside the lines.
        weight, quality: what the axes are called.
        title: text above the axes.

    Returns:
        A matplotlib Figure with one plot.

    Raises:
        ValueError: if there is no point, or a weight is not above 0.
    """
    if not any(len(values) for values, _ in points.values()):
        raise ValueError("no trials to draw; give at least one")
    if not all(value > 0 for values, _ in (*points.values(), *lines.values()) for value in values):
        raise ValueError("the weights' axis is logarithmic: give weights above 0")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(points.items()):
        axes.scatter(x, y, s=14, color=COLOURS[number % len(COLOURS)], alpha=0.35, linewidths=0, label=None if name in lines else name)
        if name in lines:
            axes.plot(*lines[name], label=name, **_line(number, len(lines[name][0])))
    axes.set_xscale("log")
    axes.set(xlabel=weight, ylabel=quality)
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    if len(points) > 1:
        figure.legend(loc="outside lower center", ncols=min(4, len(points)), frameon=False, fontsize=9)
    return figure


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
        look = _line(number % len(COLOURS), len(sizes)) | {"marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}
        axes.plot(sizes, ours, label=f"{name}: ours", **look)
        axes.plot(sizes, theirs, label=f"{name}: {peer}", **(look | {"linestyle": "--", "markerfacecolor": "white"}))
    axes.set(xscale="log", yscale="log", xlabel="codes", ylabel="ms a query")
    quieten(axes)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def save_png(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path` as PNG, 192 dots an inch, twice what a screen needs; the folder must exist.

    The same figure gives the same bytes.
    """
    figure.savefig(path, format="png", dpi=192, metadata={"Software": None})


def figure_of(rows: int, columns: int) -> "Figure":
    """An empty Figure for rows x columns plots."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (6.0, 4.4) if rows == columns == 1 else (3.4 * columns, 0.5 + 2.5 * rows)
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _line(number: int, points: int) -> dict[str, Any]:
    # Few points are few measurements: show each one. A lone point would draw nothing as a line.
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        "linewidth": 1.8,
        "marker": "o" if points <= 20 else None,
        "markersize": 4,
        "clip_on": False,
    }


def quieten(axes: "Axes") -> None:
    """Frame and ticks step back behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
