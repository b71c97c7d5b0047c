import numpy as np
import pytest

from eet.figures import training_curves_figure


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
