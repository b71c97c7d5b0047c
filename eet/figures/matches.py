"""Matched regions of two images: kept tokens, their mass, and lines between the most strongly matched ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from eet.errors import InputError
from eet.figures.captions import INK, PAPER, caption_font, caption_height, draw_caption
from eet.figures.kept_tokens import PatchPicture

MUTUAL = (0, 119, 187)
ONE_WAY = (238, 119, 51)
FADE = 0.45  # less than for kept tokens: the surroundings of a line's ends must stay visible
SCALE = 3  # drawn larger, then reduced: ImageDraw does not smooth slanted lines


class Side(NamedTuple):
    """One of the two images. image: input of the network. positions_K: tokens' positions on the grid (row-major). mass_K: their mass."""

    image: Image.Image
    positions_K: np.ndarray
    mass_K: np.ndarray


class Line(NamedTuple):
    """Two matched patches, by position on the grid. strength: above 0, drawn as width. mutual: each is the other's strongest match."""

    query: int
    item: int
    strength: float
    mutual: bool


def matches_panel(
    query: Side,
    item: Side,
    grid: tuple[int, int],
    lines: Sequence[Line],
    *,
    captions: tuple[str, str] = ("query", "item"),
    cell: int = 224,
    input_size: tuple[int, int] | None = None,
) -> Image.Image:
    """Draws query and item side by side, patches without a token faded, tokens tinted by mass, lines between matched ones.

    A mutual match is a blue line with filled ends, any other an orange line with open ends. Stronger matches are wider. The ends of a line
    have its number, because lines in one row of patches lie on each other.

    Args:
        query: the query image.
        item: the item's image.
        grid: (rows, columns) of patches, of both images.
        lines: drawn in order, the first on top.
        captions: texts under the two images.
        cell: longer side of an image in pixels, at least four for each patch.
        input_size: (height, width) of the network's input in pixels; None where its patches are square. Those of a base model are 7 x 7 of
            any input.

    Raises:
        InputError: a position outside the grid, or as `kept_tokens_overlay`.
    """
    sides, pictures = (query, item), []
    for name, side in zip(("query", "item"), sides, strict=True):
        outside = [position for position in side.positions_K if not 0 <= position < grid[0] * grid[1]]
        if outside:
            raise InputError(f"the {name} has a token at {outside[0]}; the grid allows 0 to {grid[0] * grid[1] - 1}")
        pictures.append(PatchPicture(side.image, grid, cell, input_size=input_size))
    height, width = pictures[0].seen_HWC.shape[:2]
    gap = max(8, cell // 8)
    below = caption_height(list(captions), cell)
    canvas = Image.new("RGB", (3 * gap + 2 * width, gap + height + max(below, gap)), PAPER)
    lefts = (gap, 2 * gap + width)
    for picture, side, left in zip(pictures, sides, lefts, strict=True):
        canvas.paste(Image.fromarray(np.rint(picture.kept(side.positions_K, side.mass_K, fade=FADE)).astype(np.uint8)), (left, gap))
    drawn = canvas.resize((canvas.width * SCALE, canvas.height * SCALE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    strongest = max((line.strength for line in lines), default=1.0)

    def end(side: int, position: int) -> tuple[float, float]:
        x, y = pictures[side].centre(position)
        return (lefts[side] + x) * SCALE, (gap + y) * SCALE

    strokes = [(line, [end(0, line.query), end(1, line.item)], MUTUAL if line.mutual else ONE_WAY) for line in lines]
    for line, ends, colour in reversed(strokes):
        pen.line(ends, fill=colour, width=max(SCALE, round(cell / 64 * SCALE * line.strength / strongest)))
    font, radius = caption_font(cell * SCALE // 2), cell / 32 * SCALE
    for number, (line, ends, colour) in reversed(list(enumerate(strokes, start=1))):  # on top of all lines
        for x, y in ends:
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, fill=colour if line.mutual else PAPER, outline=colour, width=SCALE)
            pen.text((x, y), str(number), fill=PAPER if line.mutual else INK, font=font, anchor="mm")
    canvas = drawn.resize(canvas.size, Image.Resampling.BOX)
    for caption, left in zip(captions, lefts, strict=True):
        draw_caption(canvas, caption, left=left - gap // 2, top=gap + height, width=width + gap, cell=cell)
    return canvas
