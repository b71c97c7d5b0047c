"""A route or city in metres: which queries were found, and where the first hit of each lies; and recall over the radius.

Shape suffixes: N places of the gallery, Q queries.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eet.errors import InputError
from eet.figures.panels import RIGHT, UNKNOWN, WRONG
from eet.figures.plots import curves_figure, quieten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 6
WIDTH, LEAST_HEIGHT, MOST_HEIGHT = 8.0, 0.6, 7.0
"""Inches of a panel."""
OUTCOMES = {"right": (RIGHT, "o"), "wrong": (WRONG, "X"), "no match": (UNKNOWN, "s")}
"""Colour and marker of each outcome, so that colour is never the only sign."""
BEND = 0.25
"""How far a line to the first hit bulges, as a share of its length: on a straight route it would lie on the route."""


class PlaceMap(NamedTuple):
    """What one panel shows.

    Attributes:
        gallery_N2: easting and northing of the gallery's places, in metres.
        query_Q2: those of the queries.
        hit_Q2: those of each query's first hit; NaN where it is unknown.
        outcome_Q: (Q,) of str: "right", "wrong", or "no match" where the gallery has no place near enough.
    """

    gallery_N2: np.ndarray
    query_Q2: np.ndarray
    hit_Q2: np.ndarray
    outcome_Q: np.ndarray


def place_map_figure(panels: Mapping[str, PlaceMap], *, title: str) -> "Figure":
    """A map of the queries for each heading, with a curved line from each to its first hit.

    Both axes have one scale. The longer of both directions of the first panel is drawn from left to right.

    Args:
        panels: heading -> what to show, at most MOST_PANELS; a heading names a condition or a city.
        title: text above the maps.

    Returns:
        A matplotlib Figure; write it with `save_png`.

    Raises:
        InputError: there is no panel or query, there are too many panels, or an unknown outcome.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import FancyArrowPatch

    if not 1 <= len(panels) <= MOST_PANELS:
        raise InputError(f"{len(panels)} maps: give 1 to {MOST_PANELS}")
    for heading, shown in panels.items():
        if not len(shown.query_Q2) or not set(shown.outcome_Q) <= set(OUTCOMES):
            raise InputError(f"map {heading!r} has {len(shown.query_Q2)} queries; give one or more, each {', '.join(OUTCOMES)}")
    first = next(iter(panels.values()))
    wide, high = np.ptp(np.concatenate([first.gallery_N2, first.query_Q2]), axis=0)
    across = int(high > wide)
    corners = [_corners(shown, across) for shown in panels.values()]
    axes_of = (across, 1 - across)
    heights = [float(np.clip(WIDTH * np.ptp(box[:, axes_of[1]]) / np.ptp(box[:, across]), LEAST_HEIGHT, MOST_HEIGHT)) for box in corners]
    size = (WIDTH + 1, sum(heights) + 0.7 * len(panels) + 0.7)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    names = ("easting", "northing")
    for axes, (heading, shown), box in zip(grid.flat, panels.items(), corners, strict=True):
        for start, end, outcome in zip(shown.query_Q2[:, axes_of], shown.hit_Q2[:, axes_of], shown.outcome_Q, strict=True):
            if np.isfinite(end).all() and (start != end).any():
                bend = BEND if end[0] > start[0] else -BEND  # downwards, whichever way the line goes
                line = FancyArrowPatch(
                    tuple(start), tuple(end), arrowstyle="-", connectionstyle=f"arc3,rad={bend}", linewidth=0.8,
                    color=_rgb(OUTCOMES[outcome][0]), alpha=0.6, zorder=2, shrinkA=0, shrinkB=0,
                )  # fmt: skip
                axes.add_patch(line)
        axes.scatter(
            *shown.gallery_N2[:, axes_of].T, s=5, color="#bbbbbb", linewidths=0, zorder=1, label=f"gallery ({len(shown.gallery_N2)})"
        )
        for outcome, (colour, marker) in OUTCOMES.items():
            chosen = shown.outcome_Q == outcome
            if chosen.any():
                axes.scatter(
                    *shown.query_Q2[chosen][:, axes_of].T, s=22, marker=marker, color=_rgb(colour), linewidths=0, zorder=3,
                    label=f"{outcome} ({int(chosen.sum())})",
                )  # fmt: skip
        low, high = box[:, axes_of]
        axes.set(
            xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel=f"{names[across]} (m)", ylabel=f"{names[1 - across]} (m)"
        )
        axes.set_title(heading, fontsize=10, loc="left")
        axes.ticklabel_format(useOffset=False, style="plain")
        quieten(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _corners(shown: PlaceMap, across: int) -> np.ndarray:
    """Two corners of the box of a map, (2, 2): all places and a margin, and space for the lines, which bulge downwards."""
    points = np.concatenate([shown.gallery_N2, shown.query_Q2, shown.hit_Q2])
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    margin = max(0.03 * float((high - low).max()), 1.0)
    below = np.full(2, margin)
    below[1 - across] += BEND / 2 * float(np.nan_to_num(np.hypot(*(shown.hit_Q2 - shown.query_Q2).T)).max())
    return np.stack([low - below, high + margin])


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def recall_over_radius_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, radius: float, title: str) -> "Figure":
    """Recall of the first hit, for each radius within which a hit counts as right; one line for each name.

    Args:
        curves: name -> (radii in metres, recall in [0, 1]), of one length, at least one point.
        radius: the radius that everything else on the page uses, marked by a line.
        title: text above the axes.

    Returns:
        A matplotlib Figure; write it with `save_png`.

    Raises:
        InputError: there is no curve, or one is empty, has arrays of different length or recall outside [0, 1].
    """
    if not curves:
        raise InputError("no curves to draw; give at least one name -> (radii, recall)")
    for name, (radii, recall) in curves.items():
        radii, recall = np.asarray(radii), np.asarray(recall)
        if radii.shape != recall.shape or not recall.size or not ((recall >= 0) & (recall <= 1)).all():
            raise InputError(f"curve {name!r}: give radii and recall of one length, at least one point, recall in 0 to 1")
    figure = curves_figure(curves, title=title, ylim=(0, 1.02), xlabel="radius (m)", ylabel="recall@1")
    (axes,) = figure.axes
    axes.axvline(radius, color="#999999", linewidth=1, linestyle=":", zorder=0)
    axes.set_xlim(left=0)
    return figure
