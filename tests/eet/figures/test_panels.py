import numpy as np
import pytest
from PIL import Image

from eet.figures.panels import MATTE, QUERY, RIGHT, UNKNOWN, WRONG, hits_panel

BLUE = (10, 20, 200)
CELL = 112
FRAMES = {True: RIGHT, False: WRONG, None: UNKNOWN}


def blue(width: int = 60, height: int = 60) -> Image.Image:
    return Image.new("RGB", (width, height), BLUE)


def frames_along_first_picture_row(panel: Image.Image) -> list[tuple[int, int, int]]:
    """Colours of the cells' left frames, left to right, read along the middle of the pictures."""
    row = np.asarray(panel)[8 + CELL // 2]
    found = []
    previous = None
    for pixel in (tuple(int(v) for v in pixel) for pixel in row):
        if pixel != previous and pixel in {QUERY, RIGHT, WRONG, UNKNOWN}:
            found.append(pixel)
        previous = pixel
    return found[::2]  # Each cell shows its left frame, then its right one.


@pytest.mark.parametrize("rights", [[], [True], [False, None], [True, False, None, True, True]])
def test_frames_say_whether_each_hit_is_right(rights: list[bool | None]) -> None:
    panel = hits_panel(blue(), [(blue(), right) for right in rights], cell=CELL)
    assert frames_along_first_picture_row(panel) == [QUERY, *(FRAMES[right] for right in rights)]


def test_numpy_truth_values_count() -> None:
    panel = hits_panel(blue(), [(blue(), right) for right in np.array([True, False])], cell=CELL)
    assert frames_along_first_picture_row(panel) == [QUERY, RIGHT, WRONG]


def test_marks_differ_by_more_than_colour() -> None:
    def white_in_upper_right(right: bool | None) -> np.ndarray:
        panel = np.asarray(hits_panel(blue(), [(blue(), right)], cell=CELL))
        left = panel.shape[1] - 8 - CELL
        corner = panel[8 : 8 + CELL // 5, left + CELL - CELL // 5 : left + CELL]
        return np.asarray((corner > 200).all(axis=2))

    tick, cross, none = (white_in_upper_right(right) for right in (True, False, None))
    assert tick.sum() > 10 and cross.sum() > 10
    assert not none.any()
    assert (tick != cross).sum() > 10
    tab = CELL // 6
    mirrored = [(mark[:tab, -tab:] == mark[:tab, -tab:][:, ::-1]).mean() for mark in (tick, cross)]
    assert mirrored[0] < 0.9 < mirrored[1]


def test_pictures_keep_their_aspect_ratio() -> None:
    panel = np.asarray(hits_panel(blue(200, 100), [], query_caption="", cell=CELL))
    inside = panel[8 + 4 : 8 + CELL - 4, 8 + CELL // 2]
    is_blue = (inside == BLUE).all(axis=1)
    assert abs(int(is_blue.sum()) - (CELL - 4) // 2) <= 2
    assert (inside[0] == MATTE).all() and (inside[-1] == MATTE).all()


def test_width_grows_by_one_cell_a_hit_and_no_hits_leave_the_query_alone() -> None:
    widths = [hits_panel(blue(), [(blue(), True)] * count, cell=CELL).width for count in range(5)]
    assert widths[0] == CELL + 16
    assert len(set(np.diff(widths[1:]))) == 1
    assert widths[2] - widths[1] == CELL + 8


def test_captions_are_drawn_under_their_own_hit() -> None:
    def inked_columns(captions: list[str]) -> np.ndarray:
        panel = np.asarray(hits_panel(blue(), [(blue(), None)] * 2, captions=captions, query_caption="", cell=CELL))
        return np.flatnonzero((panel[8 + CELL + 2 :] < 200).any(axis=(0, 2)))

    width = hits_panel(blue(), [(blue(), None)] * 2, cell=CELL).width
    boundary = width - 8 - CELL
    long = "a very long caption that must not run into the next cell"
    assert inked_columns([long, ""]).max() < boundary
    assert inked_columns(["", long]).min() >= boundary
    assert inked_columns(["", ""]).size == 0


def test_without_captions_the_ranks_stand_there() -> None:
    hits = [(blue(), True), (blue(), False)]
    numbered = hits_panel(blue(), hits, captions=["1", "2"])
    assert np.array_equal(np.asarray(hits_panel(blue(), hits)), np.asarray(numbered))


@pytest.mark.parametrize("captions", [[], ["one"], ["one", "two", "three"]])
def test_captions_of_another_length_are_refused(captions: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(captions)} captions for 2 hits"):
        hits_panel(blue(), [(blue(), True), (blue(), False)], captions=captions)


def test_small_cells_are_refused_and_the_smallest_allowed_draws() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        hits_panel(blue(), [], cell=31)
    assert hits_panel(blue(), [(blue(), True)], cell=32).width > 64


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert hits_panel(blue().convert(mode), [(blue().convert(mode), True)]).mode == "RGB"
