import pytest

from eet.figures import search_time_figure


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
