"""Precision against recall."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from eet.errors import InputError
from eet.figures.plots import curves_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def precision_recall_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str) -> "Figure":
    """Precision against recall, one line for each name.

    Args:
        curves: name -> (recall, precision), two arrays of one length, in [0, 1], at least one point.
        title: text above the axes.

    Returns:
        A matplotlib Figure; write it with `save_png`.

    Raises:
        InputError: there is no curve, or one is empty, has arrays of different length or values outside [0, 1].
    """
    if not curves:
        raise InputError("no curves to draw; give at least one name -> (recall, precision)")
    for name, (recall, precision) in curves.items():
        recall, precision = np.asarray(recall), np.asarray(precision)
        if recall.ndim != 1 or recall.shape != precision.shape or not recall.size:
            raise InputError(
                f"curve {name!r} has recall of shape {recall.shape} and precision of shape {precision.shape}; "
                "give two lists of the same length, with at least one point"
            )
        # Written so that NaN is refused too.
        if not all(((values >= 0) & (values <= 1)).all() for values in (recall, precision)):
            raise InputError(f"curve {name!r} has values outside 0 to 1; give recall and precision as shares")
    return curves_figure(curves, title=title, xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
