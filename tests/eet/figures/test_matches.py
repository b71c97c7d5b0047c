import numpy as np
import pytest
from PIL import Image

from eet.figures import Line, Side, matches_panel
from eet.figures.matches import MUTUAL, ONE_WAY

GRID = (4, 4)


def side(colour: tuple[int, int, int], positions: list[int], mass: list[float] | None = None) -> Side:
    return Side(Image.new("RGB", (64, 64), colour), np.array(positions), np.array(mass or [0.0] * len(positions)))


def pixels_of(panel: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(row, column) of every pixel that is nearly of this colour."""
    away = np.abs(np.asarray(panel, dtype=int) - np.array(colour)).max(axis=2)
    return np.argwhere(away <= 3)


def test_a_line_joins_the_centres_of_its_two_patches() -> None:
    query, item = side((200, 200, 0), [0, 5, 10]), side((0, 200, 200), [3, 15])
    panel = matches_panel(query, item, GRID, [Line(0, 15, 0.2, True)], cell=160)
    gap = 160 // 8
    rows, columns = pixels_of(panel, MUTUAL).T
    away = 160 // 32 + 2  # an end is a disc
    # From the middle of the query's first patch to the middle of the item's last, and nowhere else.
    assert abs(columns.min() - (gap + 20)) <= away and abs(columns.max() - (2 * gap + 160 + 140)) <= away
    assert abs(rows.min() - (gap + 20)) <= away and abs(rows.max() - (gap + 140)) <= away
    assert not len(pixels_of(panel, ONE_WAY))


def test_cells_of_an_input_that_is_not_square_are_drawn_where_they_lie() -> None:
    """2 x 4 cells of an image of 60 x 80 (height x width): 30 pixels high, 20 wide."""
    picture = Image.new("RGB", (80, 60), (200, 200, 0))
    picture.paste((0, 0, 200), (60, 30, 80, 60))  # the last cell
    one = Side(picture, np.array([7]), np.array([0.0]))
    panel = np.asarray(matches_panel(one, one, (2, 4), [Line(7, 7, 0.2, True)], cell=160, input_size=(60, 80)))
    gap = 160 // 8
    inside, left_of_it = (panel[gap + 60 + 8, gap + 120 + away].astype(int) for away in (8, -8))
    assert np.abs(inside - (0, 0, 200)).max() <= 3 and np.ptp(left_of_it) <= 3  # a patch without a token is faded to grey
    ends = pixels_of(Image.fromarray(panel), MUTUAL)
    end = 160 // 32 + 2
    assert abs(ends[:, 1].min() - (gap + 140)) <= end and abs(ends[:, 1].max() - (2 * gap + 160 + 140)) <= end
    assert abs(ends[:, 0].mean() - (gap + 90)) <= 2
    with pytest.raises(ValueError, match="the input is 80 x 60.*resized and cropped"):
        matches_panel(side((0, 0, 0), [0]), one, (2, 4), [], input_size=(60, 80))
    with pytest.raises(ValueError, match="at least 22"):
        matches_panel(one, one, (4, 4), [], cell=20, input_size=(60, 80))


def test_a_mutual_line_is_blue_another_orange_and_the_stronger_is_wider() -> None:
    query, item = side((200, 200, 0), [0, 12]), side((0, 200, 200), [0, 12])
    lines = [Line(0, 0, 0.4, True), Line(12, 12, 0.1, False)]
    panel = matches_panel(query, item, GRID, lines, cell=640)
    middle = panel.width // 2  # between the pictures only lines run
    widths = [np.count_nonzero(pixels_of(panel, colour)[:, 1] == middle) for colour in (MUTUAL, ONE_WAY)]
    assert widths[0] > widths[1] >= 1


def test_patches_without_a_token_fade_and_mass_tints() -> None:
    query, item = side((200, 60, 0), [0, 5], [0.9, 0.0]), side((0, 60, 200), [0])
    panel = np.asarray(matches_panel(query, item, GRID, [], cell=160), dtype=int)
    gap = 20

    def patch(row: int, column: int) -> np.ndarray:
        return panel[gap + row * 40 + 20, gap + column * 40 + 20]

    assert np.array_equal(patch(1, 1), (200, 60, 0))  # a token without mass stays as it was
    assert not np.array_equal(patch(0, 0), (200, 60, 0)) and patch(0, 0)[2] > 60  # tinted
    assert patch(3, 3).min() > 90 and np.ptp(patch(3, 3)) <= 1  # faded to grey


def test_equal_masses_tint_no_patch() -> None:
    one = side((200, 60, 0), list(range(16)), [1 / 16] * 16)
    panel = np.asarray(matches_panel(one, one, GRID, [], cell=160))
    assert (panel[20:180, 20:180] == (200, 60, 0)).all()


def test_ends_of_lines_in_one_row_have_the_number_of_their_line() -> None:
    """Both lines run along the row, so that without numbers nothing says which ends belong together."""
    one = side((200, 200, 0), list(range(16)))
    panel = np.asarray(matches_panel(one, one, GRID, [Line(4, 5, 0.2, True), Line(5, 4, 0.2, True)], cell=320), dtype=int)
    gap, radius = 320 // 8, 320 // 32

    def end(left: int, column: int) -> np.ndarray:
        x, y = left + 40 + 80 * column, gap + 120
        return panel[y - radius + 2 : y + radius - 2, x - radius // 2 : x + radius // 2]

    query, item = gap, 2 * gap + 320
    of_two_lines = np.abs(end(query, 0) - end(query, 1)).mean()
    for first, second in (((query, 0), (item, 1)), ((query, 1), (item, 0))):
        assert np.abs(end(*first) - end(*second)).mean() < of_two_lines / 4


def test_a_token_outside_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="the item has a token at 16; the grid allows 0 to 15"):
        matches_panel(side((0, 0, 0), [0]), side((0, 0, 0), [16]), GRID, [])
