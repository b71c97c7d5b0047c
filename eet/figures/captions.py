"""Captions under images: font, breaking and shortening to a width, lines centred under a cell."""

import re
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (51, 51, 51)
_ENDS_TRIED = 8
MOST_LINES = 3
"""Lines that one line of a caption is broken into at most."""


@cache
def caption_font(cell: int) -> ImageFont.FreeTypeFont:
    """Font for captions under a picture of `cell` pixels: a twelfth of it, at least 11 px.

    DejaVu Sans, which matplotlib includes: Pillow's own font lacks accented letters, which occur in labels.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size=max(11, cell // 12))


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, shortened to at most `width` pixels with an ellipsis where needed."""
    if font.getlength(text) <= width:
        return text
    # Width grows with length, but for kerning: the last ends are tried one by one.
    low, high = 0, len(text) - 1
    while high - low > _ENDS_TRIED:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(text[:middle].rstrip() + "…") <= width else (low, middle)
    for end in range(min(len(text) - 1, high + _ENDS_TRIED), 0, -1):
        candidate = text[:end].rstrip() + "…"
        if font.getlength(candidate) <= width:
            return candidate
    return "…"


def wrapped(caption: str, cell: int) -> str:
    """`caption` with each line that is wider than `cell` pixels broken after spaces and the signs _ - / into MOST_LINES lines at most.

    A piece without such a place, and what is left for the last line, may still be too wide.
    """
    font = caption_font(cell)
    lines: list[str] = []
    for line in caption.split("\n"):
        broken = [""]
        for piece in re.findall(r"[^ _/-]*[ _/-]|[^ _/-]+", line):
            if broken[-1] and len(broken) < MOST_LINES and font.getlength((broken[-1] + piece).rstrip()) > cell:
                broken.append(piece)
            else:
                broken[-1] += piece
        lines += [part.rstrip(" ") for part in broken]
    return "\n".join(lines)


def caption_height(captions: list[str], cell: int) -> int:
    """Pixels that the tallest of `captions` needs under a cell, padding included; 0 if all are empty."""
    lines = max((caption.count("\n") + 1 for caption in captions if caption), default=0)
    return lines * _line_height(cell) + (8 if lines else 0)


def draw_caption(canvas: Image.Image, caption: str, *, left: int, top: int, width: int, cell: int) -> None:
    """Write `caption` on `canvas`, each of its lines centred in [left, left + width) and shortened to fit."""
    font = caption_font(cell)
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(caption.split("\n")):
        line = shorten(line, font, width)
        x = left + (width - font.getlength(line)) / 2
        draw.text((x, top + 5 + row * _line_height(cell)), line, fill=INK, font=font)


def on_paper(image: Image.Image) -> Image.Image:
    """`image` as RGB; transparent areas become white, not black as in a plain conversion."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, (*PAPER, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _line_height(cell: int) -> int:
    ascent, descent = caption_font(cell).getmetrics()
    return ascent + descent
