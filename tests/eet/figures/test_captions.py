import numpy as np
import pytest
from PIL import Image

from eet.figures.captions import MOST_LINES, caption_font, caption_height, draw_caption, on_paper, shorten, wrapped


@pytest.mark.parametrize("text", ["x", "Laysan Albatross", "W" * 60, "crème brûlée à la carte"])
@pytest.mark.parametrize("width", [30, 90, 400])
def test_shortened_text_fits_and_is_the_longest_that_does(text: str, width: int) -> None:
    font = caption_font(112)
    short = shorten(text, font, width)
    assert font.getlength(short) <= width
    if short != text:
        assert font.getlength(text) > width
        kept = len(short) - 1
        assert short == text[:kept].rstrip() + "…"
        assert all(font.getlength(text[:end].rstrip() + "…") > width for end in range(kept + 2, len(text)))


def test_a_long_text_is_measured_a_few_times_alone() -> None:
    class Counting:
        def __init__(self) -> None:
            self.font, self.measured = caption_font(112), 0

        def getlength(self, text: str) -> float:
            self.measured += 1
            return self.font.getlength(text)

    counting = Counting()
    short = shorten("A label of many letters, " * 400, counting, 112)
    assert counting.measured < 50 and short == shorten("A label of many letters, " * 2, caption_font(112), 112)


def test_font_draws_accented_letters() -> None:
    font = caption_font(112)
    # What the font lacks is drawn as one and the same box.
    box = bytes(font.getmask("\U0001f9ff"))
    assert all(bytes(font.getmask(letter)) != box for letter in "éøłŽß…·")


def test_caption_height_grows_by_line_and_is_nothing_for_no_text() -> None:
    assert caption_height(["", ""], 112) == 0
    one, two, three = (caption_height(["a", "\n".join("a" * lines)], 112) for lines in (1, 2, 3))
    assert one < two < three
    assert two - one == three - two


@pytest.mark.parametrize("cell", [32, 112, 300])
def test_caption_stays_inside_its_box(cell: int) -> None:
    text = "gyjpq| wide, wide, wide, wide, wide caption\nÅgj second"
    height = caption_height([text], cell)
    canvas = Image.new("RGB", (3 * cell, height + 40), "white")
    draw_caption(canvas, text, left=cell, top=20, width=cell, cell=cell)
    inked = np.argwhere(np.asarray(canvas).min(axis=2) < 200)
    assert len(inked)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0)
    assert 20 <= top and bottom < 20 + height
    assert cell - 1 <= left and right <= 2 * cell


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert [on_paper(image).getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (10, 20, 30)]
    assert on_paper(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_a_wide_line_is_broken_where_words_end() -> None:
    font = caption_font(112)
    assert wrapped("short\nrank 2", 112) == "short\nrank 2"
    label = "lined-wing_banded-breast_crest_pin-tail"
    found = wrapped(f"query\n{label}", 112).split("\n")
    assert found[0] == "query" and "".join(found[1:]) == label
    assert len(found) > 2 and all(font.getlength(line) <= 112 and line[-1] in "_-" for line in found[1:-1])
    assert wrapped("Laysan Albatross of the northern Pacific", 112).split("\n")[0] == "Laysan Albatross of"


def test_words_that_do_not_fit_are_left_to_the_last_line() -> None:
    assert wrapped("W" * 60, 112) == "W" * 60
    lines = wrapped("_".join(["many-words"] * 20), 112).split("\n")
    assert len(lines) == MOST_LINES and "".join(lines) == "_".join(["many-words"] * 20)
