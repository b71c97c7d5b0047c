"""The query and its first hits in one row. The frame of a hit shows whether its label is right."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

from eet.errors import InputError
from eet.figures.captions import PAPER, caption_height, draw_caption, on_paper, wrapped

# Teal green, red and grey, which differ under the common colour vision deficiencies (Paul Tol, "vibrant").
RIGHT = (0, 153, 136)
WRONG = (204, 51, 17)
UNKNOWN = (150, 150, 150)
QUERY = (51, 51, 51)
MATTE = (238, 238, 238)


def hits_panel(
    query: Image.Image,
    hits: Sequence[tuple[Image.Image, bool | None]],
    *,
    captions: Sequence[str] | None = None,
    query_caption: str = "query",
    cell: int = 112,
) -> Image.Image:
    r"""Draws a query and its hits in a row, best first.

    A right hit has a green frame and a tick, a wrong one a red frame and a cross, one with an unknown label a grey
    frame and no mark, so that colour is never the only sign. Images keep their aspect ratio.

    Args:
        query: the query image, any mode and size.
        hits: (image, right) in rank order; right is None where a label is unknown. May be empty.
        captions: one text for each hit, lines separated by "\\n", each broken or shortened to its cell; the rank when None.
        query_caption: text under the query.
        cell: side of a framed image in pixels, at least 32.

    Returns:
        RGB image: cells of `cell` pixels, with a rule between the query and the hits, captions below.

    Raises:
        InputError: `captions` and `hits` differ in length, or `cell` is below 32.
    """
    if cell < 32:
        raise InputError(f"cell is {cell} pixels, too small for a frame and an image; give at least 32")
    if captions is None:
        captions = [str(rank) for rank in range(1, len(hits) + 1)]
    elif len(captions) != len(hits):
        raise InputError(f"{len(captions)} captions for {len(hits)} hits; give one caption for each hit, or None")

    gap = max(4, cell // 14)
    rule = 4 * gap if hits else 0
    query_caption, *captions = (wrapped(caption, cell) for caption in (query_caption, *captions))
    below = caption_height([query_caption, *captions], cell)
    width = 2 * gap + cell + rule + len(hits) * (cell + gap) - (gap if hits else 0)
    canvas = Image.new("RGB", (width, gap + cell + max(below, gap)), PAPER)

    canvas.paste(_framed(query, QUERY, cell, frame=max(1, cell // 56)), (gap, gap))
    draw_caption(canvas, query_caption, left=gap, top=gap + cell, width=cell, cell=cell)
    if hits:
        x = gap + cell + rule // 2
        ImageDraw.Draw(canvas).line((x, gap, x, gap + cell - 1), fill=(204, 204, 204), width=max(1, cell // 112))
    for column, ((image, right), caption) in enumerate(zip(hits, captions, strict=True)):
        left = gap + cell + rule + column * (cell + gap)
        colour = UNKNOWN if right is None else RIGHT if right else WRONG
        picture = _framed(image, colour, cell, frame=max(3, cell // 28))
        if right is not None:
            _mark(picture, bool(right), colour)
        canvas.paste(picture, (left, gap))
        draw_caption(canvas, caption, left=left, top=gap + cell, width=cell, cell=cell)
    return canvas


def _framed(image: Image.Image, colour: tuple[int, int, int], cell: int, *, frame: int) -> Image.Image:
    inside = cell - 2 * frame
    picture = ImageOps.pad(on_paper(image), (inside, inside), Image.Resampling.LANCZOS, color=MATTE)
    return ImageOps.expand(picture, border=frame, fill=colour)


def _mark(picture: Image.Image, right: bool, colour: tuple[int, int, int]) -> None:
    """A tick or a cross on a tab in the upper right corner, joined to the frame."""
    side = max(14, picture.width // 6)
    scale = 4  # Drawn large, then reduced: ImageDraw does not smooth slanted lines.
    tab = Image.new("RGB", (side * scale, side * scale), colour)
    draw = ImageDraw.Draw(tab)
    points = [(0.24, 0.52), (0.43, 0.71), (0.77, 0.30)] if right else [(0.28, 0.28), (0.72, 0.72)]
    strokes = [points] if right else [points, [(0.28, 0.72), (0.72, 0.28)]]
    for stroke in strokes:
        draw.line([(x * tab.width, y * tab.height) for x, y in stroke], fill=PAPER, width=tab.width // 8, joint="curve")
    picture.paste(tab.resize((side, side), Image.Resampling.BOX), (picture.width - side, 0))
