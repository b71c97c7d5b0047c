import pytest

from eet.figures import search_time_figure

TIMES = ([1e6, 1e7], [0.5, 5.0], [1.0, 20.0])


def test_search_times_are_drawn_with_the_peers_a_plot_for_each_heading() -> None:
    slower = ([1e6, 1e7], [0.5, 8.0], [1.0, 21.0])
    figure = search_time_figure({"16 bits": {"drawn": TIMES, "real": slower}, "32 bits": {"real": TIMES}}, title="t", peer="FAISS")
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["16 bits", "32 bits"]
    assert (first.get_xscale(), first.get_yscale()) == ("log", "log") and first.get_ylim() == second.get_ylim()
    drawn = {line.get_label(): line for line in first.lines}
    own, peer = drawn["real: EET"], drawn["real: FAISS"]
    assert own.get_xydata().tolist() == [[1e6, 0.5], [1e7, 8.0]] and peer.get_xydata().tolist() == [[1e6, 1.0], [1e7, 21.0]]
    assert own.get_color() == peer.get_color() and own.get_linestyle() != peer.get_linestyle()
    assert own.get_color() == second.lines[0].get_color() != drawn["drawn: EET"].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["drawn: EET", "drawn: FAISS", "real: EET", "real: FAISS"]


@pytest.mark.parametrize("lines", [{}, {"a": ([1.0], [1.0, 2.0], [1.0])}, {"a": ([], [], [])}, {"a": ([1.0], [0.0], [1.0])}])
def test_search_times_that_are_none_are_refused(lines: dict[str, tuple[list[float], list[float], list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one|above 0"):
        search_time_figure({"h": lines}, title="t")


def test_more_names_than_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="7 names: 6 colours"):
        search_time_figure({"h": dict.fromkeys("abcdefg", TIMES)}, title="t")
