"""Captions drawn under pictures: font, shortening to a width, lines centred under a cell."""

from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (51, 51, 51)


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
    for end in range(len(text) - 1, 0, -1):
        candidate = text[:end].rstrip() + "…"
        if font.getlength(candidate) <= width:
            return candidate
    return "…"


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
