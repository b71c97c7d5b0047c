"""A self-contained HTML page: text, tables of numbers, pictures. Nothing is fetched, no script runs."""

import base64
import io
import math
import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image, UnidentifiedImageError

from eet.errors import InputError

Cell = str | float | bool | np.number[Any] | np.bool_ | None

# A PNG above this size becomes a JPEG where possible, which is about five times smaller for natural images.
LARGEST_PNG_BYTES = 150_000
NUMBER = re.compile(r"[+\-\u2212]?\d[\d,]*(\.\d+)?([eE][+\-]?\d+)?( ?(%|x|s|ms|MB|GB|MiB|GiB|bits))?")


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of plain text; its line breaks are kept."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table. Columns of numbers are aligned right, floats in one column get the same number of decimals.

    A cell is text, a number, a boolean, or None where there is no value.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture: an image in memory, the bytes of a PNG or JPEG file, or the path of an image file.

    `alt` is what it shows, for those who cannot see it; the caption when empty. A PNG file that states its resolution
    is shown at its size in inches (96 pixels each), so `save_png` figures stay sharp on dense screens.
    """

    image: Image.Image | bytes | str | os.PathLike[str]
    caption: str = ""
    alt: str = ""


Block = Paragraph | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and its blocks, in order."""

    title: str
    body: Sequence[Block]


def render_report(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Renders the page as HTML, with style and pictures embedded. All text is escaped.

    Args:
        title: heading of the page and title of the window.
        sections: in order; from three on, the page begins with links to them.
        subtitle: one line under the heading.

    Returns:
        An HTML document; write it as UTF-8.

    Raises:
        FileNotFoundError: a picture's path does not exist.
        InputError: a picture cannot be read, or a row of a table does not have one cell for each header.
    """
    head = f"<h1>{_text(title)}</h1>" + (f'\n<p class="subtitle">{_text(subtitle)}</p>' if subtitle else "")
    if len(sections) >= 3:
        links = "".join(
            f'<li><a href="#section-{number}">{_text(section.title)}</a></li>' for number, section in enumerate(sections, start=1)
        )
        head += f'\n<nav aria-label="Sections"><ul>{links}</ul></nav>'
    body = "\n".join(_section(section, number) for number, section in enumerate(sections, start=1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
{head}
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section, number: int) -> str:
    blocks = "\n".join(_block(block) for block in section.body)
    heading = f'<h2 id="section-{number}">{_text(section.title)}</h2>'
    return f'<section aria-labelledby="section-{number}">\n{heading}\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
    raise InputError(f"a {type(block).__name__} cannot be in a section; give a Paragraph, a Table or a Picture")


def _text(text: str) -> str:
    return escape(str(text), quote=True)


def _table(table: Table) -> str:
    for number, row in enumerate(table.rows, start=1):
        if len(row) != len(table.headers):
            raise InputError(
                f"row {number} of table {table.caption!r} has {len(row)} cells for {len(table.headers)} headers; "
                "give one cell for each header, None where there is no value"
            )
    columns = [[row[place] for row in table.rows] for place in range(len(table.headers))]
    written = [_column(column) for column in columns]
    classes = [' class="number"' if _is_numeric(column) else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{_text(header)}</th>' for header, kind in zip(table.headers, classes, strict=True))
    lines = []
    for place in range(len(table.rows)):
        cells = "".join(f"<td{kind}>{_text(texts[place])}</td>" for texts, kind in zip(written, classes, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    rows = "\n".join(lines)
    return f"{_scroll(table.caption or 'Table')}<table>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"


def _is_number(cell: object) -> TypeGuard[float]:
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _is_numeric(column: Sequence[Cell]) -> bool:
    given = [cell for cell in column if cell is not None]
    return bool(given) and all(_is_number(cell) or (isinstance(cell, str) and NUMBER.fullmatch(cell) is not None) for cell in given)


def _column(column: Sequence[Cell]) -> list[str]:
    """The texts of one column's cells. Floats have the same number of decimals, enough for four digits of the largest one."""
    floats = [float(cell) for cell in column if _is_number(cell) and not isinstance(cell, numbers.Integral)]
    sizes = [abs(value) for value in floats if math.isfinite(value) and value]
    largest, smallest = max(sizes, default=1.0), min(sizes, default=1.0)
    decimals = 4 if largest <= 1 else max(0, 3 - math.floor(math.log10(largest)))
    # The same number of decimals would erase small values, as in a column of settings.
    uneven = smallest < 10.0 ** (1 - decimals)

    def write(cell: Cell) -> str:
        if cell is None:
            return "–"
        if isinstance(cell, bool | np.bool_):
            return "yes" if cell else "no"
        if isinstance(cell, numbers.Integral):
            return f"{int(cell):,}" if abs(int(cell)) >= 10_000 else str(int(cell))
        if _is_number(cell):
            return f"{float(cell):.4g}" if uneven and abs(cell) < 1000 else f"{float(cell):,.{decimals}f}"
        return str(cell)

    return [write(cell) for cell in column]


def _picture(picture: Picture) -> str:
    data, kind, width, height = _encoded(picture.image)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    alt = picture.alt or picture.caption
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{_text(alt)}"'
    if width > 2.5 * height:
        # A row of panels would become too small to read on a phone: it shrinks by a fifth at most, then scrolls.
        image = f'{_scroll(alt or "Picture")}{image} style="min-width:{round(0.8 * width)}px"></div>'
    else:
        image += ">"
    caption = f"\n<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{image}{caption}</figure>"


def _scroll(label: str) -> str:
    """Opening tag of a box that scrolls sideways, with a name and keyboard focus."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{_text(label)}">'


def _encoded(source: Image.Image | bytes | str | os.PathLike[str]) -> tuple[bytes, str, int, int]:
    """(file bytes, "png" or "jpeg", width, height), the size as it should be shown, in CSS pixels."""
    if isinstance(source, Image.Image):
        return *_file_of(source), source.width, source.height
    if isinstance(source, bytes):
        name, data = f"{len(source)} bytes", source
    else:
        name, data = str(source), Path(source).read_bytes()
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{name} cannot be read as a picture ({error}); give a PNG or JPEG") from error
    width, height = image.size
    if image.format == "PNG" and "dpi" in image.info:
        scale = 96 / max(96.0, float(image.info["dpi"][0]))
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if image.format in ("PNG", "JPEG"):
        return data, image.format.lower(), width, height
    return *_file_of(image), width, height


def _file_of(image: Image.Image) -> tuple[bytes, str]:
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    if buffer.tell() <= LARGEST_PNG_BYTES or image.has_transparency_data:
        return buffer.getvalue(), "png"
    buffer = io.BytesIO()
    # Colour at full resolution, otherwise thin frames and captions blur.
    image.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue(), "jpeg"


STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --paper: #fff; --line: #d8dee4; --band: #f6f8fa; --link: #0757ba; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa4b0; --paper: #14171c; --line: #333a44; --band: #1b2027; --link: #79b8ff; }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 1180px; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word;
}
h1 { margin: 0; font-size: clamp(1.6rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -0.01em; }
h2 {
  margin: 3rem 0 0.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: 1.3rem; line-height: 1.3;
}
p { margin: 0.75rem 0; max-width: 72ch; white-space: pre-line; }
.subtitle { margin-top: 0.4rem; color: var(--soft); }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin: 1rem 0 0; padding: 0; list-style: none; }
figure { margin: 1.5rem 0; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
img {
  display: block; height: auto; max-width: 100%; background: #fff; border-radius: 6px; image-rendering: auto;
}
figcaption, caption { color: var(--soft); font-size: 0.875rem; line-height: 1.45; text-align: left; }
figcaption { margin-top: 0.5rem; max-width: 80ch; }
caption { padding-bottom: 0.5rem; }
table { margin: 1.25rem 0; border-collapse: collapse; font-size: 0.94rem; min-width: min(100%, 28rem); }
th, td { padding: 0.4rem 0.9rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; border-bottom-width: 2px; }
tbody tr:nth-child(even) { background: var(--band); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (prefers-color-scheme: light) { img { outline: 1px solid var(--line); outline-offset: -1px; } }
@media print {
  body { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure { break-inside: avoid; }
}
"""
