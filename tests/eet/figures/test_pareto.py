import numpy as np
import pytest

from eet.figures import pareto_figure


def test_the_set_is_joined_in_order_of_cost_and_named_and_the_chosen_one_ringed():
    costs = {"GMACs": [4.0, 1.0, 2.0, 3.0], "bytes": [8.0, 8.0, 8.0, 8.0]}
    figure = pareto_figure(costs, [0.9, 0.2, 0.5, 0.4], names=["a", "b", "c", "d"], quality_name="mAP", chosen="c", title="t")
    by_macs, by_bytes = figure.axes
    assert [text.get_text() for text in by_macs.texts] == ["c", "a", "b"]  # d costs more than c and is worse
    assert np.asarray(by_macs.lines[0].get_xydata()).tolist() == [[1, 0.2], [2, 0.5], [4, 0.9]]
    assert np.asarray(by_macs.lines[1].get_xydata()).tolist() == [[2, 0.5]]
    assert [text.get_text() for text in by_bytes.texts] == ["a"]
    assert (by_macs.get_xlabel(), by_macs.get_ylabel()) == ("GMACs", "mAP")


def test_of_names_that_would_lie_on_each_other_the_chosen_one_and_the_best_are_written():
    crowd = np.arange(50) / 1000
    costs, quality, names = [1.0, *2 + crowd, 5.0], [0.1, *0.5 + crowd, 0.9], [f"trial{number:02d}" for number in range(52)]
    figure = pareto_figure({"GMACs": costs}, quality, names=names, quality_name="mAP", chosen="trial20", title="t")
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert shown[:2] == ["trial20", "trial51"] and "trial00" in shown and len(shown) < 10
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


def test_what_cannot_be_drawn_is_refused():
    for costs, names in (({}, ["a"]), ({"GMACs": []}, []), ({"GMACs": [1.0, 2.0]}, ["a"])):
        with pytest.raises(ValueError, match="one value of each"):
            pareto_figure(costs, [0.5] * len(names), names=names, quality_name="mAP", chosen=None, title="t")
