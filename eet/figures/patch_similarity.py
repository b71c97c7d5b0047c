"""How similar the patch tokens of models become, block by block."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from eet.errors import InputError
from eet.figures.plots import curve_style, figure_of, quieten
from eet.figures.report import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def patch_similarity_figure(similarities: Mapping[str, np.ndarray], *, title: str) -> tuple["Figure", Table]:
    """How similar the patch tokens of several models become, block by block, as a plot and as a table.

    Args:
        similarities: name -> (blocks,), mean cosine of two patch tokens after each block, in [-1, 1], from
            `eet.matching.patch_similarity`; at least one block. Models may differ in depth.
        title: text above the axes.

    Returns:
        A matplotlib Figure with one line for each model, and a Table with one row for each: the first, middle and last
        block, the highest value and its block.

    Raises:
        InputError: there is no model, or one has no blocks or values outside [-1, 1].
    """
    if not similarities:
        raise InputError("no models to draw; give at least one name -> mean cosine of each block")
    figure = figure_of(1, 1)
    axes = figure.subplots()
    rows: list[list[Cell]] = []
    for number, (name, values) in enumerate(similarities.items()):
        values = np.asarray(values)
        # Written so that NaN is refused too.
        if values.ndim != 1 or not values.size or not ((values >= -1) & (values <= 1)).all():
            raise InputError(f"model {name!r} has values of shape {values.shape}; give one mean cosine, from -1 to 1, for each block")
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **curve_style(number, len(values)))
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
