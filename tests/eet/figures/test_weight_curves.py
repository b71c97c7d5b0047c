import numpy as np
import pytest

from eet.figures import weight_curves_figure


def test_weight_curves_join_what_may_be_joined_and_show_every_trial() -> None:
    points = {"16 bits": ([0.1, 0.01, 1.0], [0.5, 0.4, 0.2]), "32 bits": ([0.1], [0.6])}
    figure = weight_curves_figure({"16 bits": ([0.01, 0.1], [0.4, 0.5])}, points, weight="beta", quality="mAP", title="t")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("beta", "mAP")
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines] == [[[0.01, 0.4], [0.1, 0.5]]]
    assert [np.asarray(dots.get_offsets()).tolist() for dots in axes.collections] == [[[0.1, 0.5], [0.01, 0.4], [1, 0.2]], [[0.1, 0.6]]]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"16 bits", "32 bits"}


@pytest.mark.parametrize(("points", "message"), [({}, "no trials"), ({"a": ([], [])}, "no trials"), ({"a": ([0.0], [0.5])}, "above 0")])
def test_weight_curves_of_nothing_or_at_zero_are_refused(points: dict[str, tuple[list[float], list[float]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weight_curves_figure({}, points, weight="beta", quality="mAP", title="t")
