import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eet.figures.curves import (
    patch_similarity_figure,
    precision_recall_figure,
    save_png,
    search_time_figure,
    training_curves_figure,
    weight_curves_figure,
)

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


def test_training_curves_put_reports_at_their_epochs_and_leave_out_what_is_missing() -> None:
    history = [{"epoch": 0, "loss": 3.0}, {"epoch": 5, "loss": 2.0, "map": 0.5}, {"epoch": 10, "map": 0.75}]
    figure = training_curves_figure(history, ["loss", "map"], title="t")
    points = [np.asarray(axes.lines[0].get_xydata()).tolist() for axes in figure.axes]
    assert points == [[[0, 3.0], [5, 2.0]], [[5, 0.5], [10, 0.75]]]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "map"]
    assert figure.axes[0].get_xlabel() == "epoch"


def test_training_curves_without_epochs_count_reports() -> None:
    figure = training_curves_figure([{"loss": 3.0}, {"loss": 2.0, "epoch": 7}], ["loss"], title="t")
    assert np.asarray(figure.axes[0].lines[0].get_xydata()).tolist() == [[1, 3.0], [2, 2.0]]
    assert figure.axes[0].get_xlabel() == "report"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_one_plot_for_each_key(count: int) -> None:
    keys = [f"k{number}" for number in range(count)]
    figure = training_curves_figure([dict.fromkeys(keys, 1.0)] * 2, keys, title="t")
    assert len(figure.axes) == count


def test_unknown_keys_and_nothing_to_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="no report holds mAp; the history has loss, mAP"):
        training_curves_figure([{"loss": 1.0, "mAP": 0.5}], ["loss", "mAp"], title="t")
    for history, keys in [([], ["loss"]), ([{"loss": 1.0}], [])]:
        with pytest.raises(ValueError, match="at least one of each"):
            training_curves_figure(history, keys, title="t")


def test_patch_similarity_draws_and_tells_each_model() -> None:
    figure, table = patch_similarity_figure({"deep": np.array([0.25, 0.5, 0.75, 0.5]), "flat": np.array([0.125])}, title="t")
    (axes,) = figure.axes
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines] == [[[1, 0.25], [2, 0.5], [3, 0.75], [4, 0.5]], [[1, 0.125]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["deep", "flat"]
    assert table.rows == [["deep", 4, 0.25, 0.5, 0.5, 0.75, 3], ["flat", 1, 0.125, 0.125, 0.125, 0.125, 1]]
    assert len(table.headers) == 7
    for wrong in ({}, {"a": np.array([])}, {"a": np.array([0.5, np.nan])}, {"a": np.ones((2, 2))}):
        with pytest.raises(ValueError, match="at least one|each block"):
            patch_similarity_figure(wrong, title="t")


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


def test_one_point_leaves_a_mark(tmp_path: Path) -> None:
    figure = training_curves_figure([{"epoch": 1, "loss": 1.0}], ["loss"], title="")
    save_png(figure, tmp_path / "one.png")
    pixels = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    assert ((pixels[..., 2] - pixels[..., 0]) > 100).sum() > 20


def test_saved_png_has_its_size_in_inches_and_repeats_exactly(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(precision_recall_figure({"x": (RECALL, RECALL)}, title="t"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.info["dpi"][0] == pytest.approx(192, abs=0.1)
        assert image.width == 6 * 192


def test_matplotlib_is_imported_when_drawing_only() -> None:
    code = "import sys, eet.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_search_times_are_drawn_beside_the_peers_on_logarithmic_axes() -> None:
    lines = {f"{bits} bits": ([1e6, 1e7], [0.5, 5.0 + bits], [1.0, 20.0]) for bits in range(8)}
    figure = search_time_figure(lines, title="t", peer="theirs")
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert len(drawn) == 16 and (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    ours, theirs = drawn["3 bits: ours"], drawn["3 bits: theirs"]
    assert ours.get_xydata().tolist() == [[1e6, 0.5], [1e7, 8.0]] and theirs.get_xydata().tolist() == [[1e6, 1.0], [1e7, 20.0]]
    assert ours.get_color() == theirs.get_color() and ours.get_linestyle() != theirs.get_linestyle()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 16


@pytest.mark.parametrize("lines", [{}, {"a": ([1.0], [1.0, 2.0], [1.0])}, {"a": ([], [], [])}, {"a": ([1.0], [0.0], [1.0])}])
def test_search_times_that_are_none_are_refused(lines: dict[str, tuple[list[float], list[float], list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one|above 0"):
        search_time_figure(lines, title="t")
