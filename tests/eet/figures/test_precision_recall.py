import math

import numpy as np
import pytest

from eet.figures import precision_recall_figure

RECALL = np.linspace(0, 1, 50)


def test_precision_recall_draws_each_curve_with_its_name_and_own_look() -> None:
    curves = {f"{bits} bits": (RECALL, 1 - RECALL * bits / 100) for bits in range(16, 24)}
    figure = precision_recall_figure(curves, title="a & b")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == list(curves)
    for line, (recall, precision) in zip(axes.lines, curves.values(), strict=True):
        assert np.array_equal(line.get_xdata(), recall)
        assert np.array_equal(line.get_ydata(), precision)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(curves)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    assert figure.get_suptitle() == "a & b"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "at least one"),
        ({"a": ([0.0, 1.0], [1.0])}, "same length"),
        ({"a": ([], [])}, "at least one point"),
        ({"a": ([0.0, 71.0], [1.0, 1.0])}, "0 to 1"),
        ({"a": ([0.0, 1.0], [1.0, math.nan])}, "0 to 1"),
    ],
)
def test_curves_that_are_none_are_refused(curves: dict[str, tuple[list[float], list[float]]], message: str) -> None:
    arrays = {name: (np.array(recall), np.array(precision)) for name, (recall, precision) in curves.items()}
    with pytest.raises(ValueError, match=message):
        precision_recall_figure(arrays, title="t")
