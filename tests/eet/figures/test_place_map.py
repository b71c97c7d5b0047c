import numpy as np
import pytest

from eet.errors import InputError
from eet.figures import PlaceMap, place_map_figure, recall_over_radius_figure

STREET = np.stack([np.zeros(5), 20.0 * np.arange(5)], axis=1)


def street(outcomes: list[str], hits: list[float]) -> PlaceMap:
    return PlaceMap(STREET, STREET[: len(hits)] + 3, np.stack([np.zeros(len(hits)), hits], axis=1), np.array(outcomes))


def test_each_query_is_drawn_by_its_outcome_with_a_line_to_its_first_hit() -> None:
    shown = {"day": street(["right", "wrong", "no match"], [0, 80, np.nan]), "night": street(["right"], [0])}
    figure = place_map_figure(shown, title="found")
    day, night = figure.axes
    assert (day.get_title(loc="left"), day.get_xlabel(), day.get_ylabel()) == ("day", "northing (m)", "easting (m)"), (
        "the street is lengthwise"
    )
    drawn = {points.get_label(): points.get_offsets().tolist() for points in day.collections}
    assert drawn == {
        "gallery (5)": [[20.0 * n, 0] for n in range(5)],
        "right (1)": [[3, 3]], "wrong (1)": [[23, 3]], "no match (1)": [[43, 3]],
    }  # fmt: skip
    colours = [tuple(points.get_facecolor()[0]) for points in day.collections[1:]]
    assert len(set(colours)) == 3 and [tuple(line.get_edgecolor()[:3]) for line in day.patches] == [colour[:3] for colour in colours[:2]]
    assert day.get_aspect() == 1 and len(night.patches) == 1
    low, high = day.get_xlim()
    assert low < 0 and high > 80


def test_hits_in_no_known_place_and_a_single_place_are_drawn() -> None:
    figure = place_map_figure({"x": PlaceMap(STREET[:1], STREET[:1], np.full((1, 2), np.nan), np.array(["wrong"]))}, title="t")
    assert len(figure.axes[0].patches) == 0
    figure.canvas.draw()


def test_recall_over_the_radius_is_drawn_by_name() -> None:
    curves = {"day": (np.array([5.0, 25]), np.array([0.2, 0.8])), "night": (np.array([25.0]), np.array([0.4]))}
    (axes,) = recall_over_radius_figure(curves, radius=25, title="t").axes
    assert [(line.get_label(), line.get_ydata().tolist()) for line in axes.lines[:2]] == [("day", [0.2, 0.8]), ("night", [0.4])]
    assert axes.lines[2].get_xdata() == [25, 25]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: place_map_figure({}, title="t"), "give 1 to 6"),
        (lambda: place_map_figure({"a": street(["found"], [0])}, title="t"), "each right, wrong, no match"),
        (lambda: place_map_figure({"a": street([], [])}, title="t"), "has 0 queries"),
        (lambda: recall_over_radius_figure({}, radius=1, title="t"), "no curves"),
        (lambda: recall_over_radius_figure({"a": (np.array([1.0]), np.array([1.5]))}, radius=1, title="t"), "recall in 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()
