import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eet.figures.report import LARGEST_PNG_BYTES, Cell, Paragraph, Picture, Section, Table, render_report

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page read back: text by tag, attributes, and a check that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for owner, text in self.texts if owner == tag]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for owner, attributes in self.elements if owner == tag]


def embedded(html: str) -> list[Image.Image]:
    sources = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', html)
    images: list[Image.Image] = []
    for kind, text in sources:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        image.load()
        assert image.format is not None and image.format.lower() == kind
        images.append(image)
    return images


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def page_of(*body: Paragraph | Table | Picture) -> str:
    return render_report("t", [Section("s", list(body))])


def table_cells(table: Table) -> list[list[str]]:
    cells = Page(page_of(table)).of("td")
    width = len(table.headers)
    return [cells[start : start + width] for start in range(0, len(cells), width)]


def test_every_text_is_escaped_and_read_back_as_given() -> None:
    nasty = """<script>alert("x")</script> & 'y' </style> <img src=x onerror=1> "b\""""
    html = render_report(
        nasty,
        [
            Section(
                nasty,
                [
                    Paragraph(nasty),
                    Table([nasty, "n"], [[nasty, 1]], caption=nasty),
                    Picture(Image.new("RGB", (300, 10)), caption=nasty, alt=nasty),
                    Picture(Image.new("RGB", (9, 10)), caption=nasty),
                ],
            )
        ]
        * 3,
        subtitle=nasty,
    )
    page = Page(html)
    assert page.attributes("script") == []
    assert len(page.attributes("style")) == 1
    for tag, count in {"title": 1, "h1": 1, "a": 3, "h2": 3, "p": 4, "td": 3, "caption": 3, "figcaption": 6}.items():
        assert page.of(tag).count(nasty) == count, tag
    assert [image["alt"] for image in page.attributes("img")] == [nasty] * 6
    allowed = {"src", "width", "height", "alt", "style"}
    assert all(set(image) <= allowed for image in page.attributes("img"))


def test_the_page_fetches_nothing() -> None:
    html = page_of(Picture(noise(40, 30), "c", "a"), Table(["a"], [[1]]), Paragraph("p"))
    without_data = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "data:", html)
    assert not re.search(r"https?:|//|url\(|@import|<script|<iframe|javascript:", without_data, re.IGNORECASE)
    targets = [
        attributes[name]
        for _, attributes in Page(html).elements
        for name in ("src", "href", "srcset", "data", "action")
        if name in attributes
    ]
    assert targets and all(target.startswith(("data:", "#")) for target in targets)


def test_section_links_lead_to_sections() -> None:
    page = Page(render_report("t", [Section(title, []) for title in ("same", "same", "other")]))
    anchors = [attributes["href"] for attributes in page.attributes("a")]
    assert anchors == ["#" + attributes["id"] for attributes in page.attributes("h2")]
    assert len(set(anchors)) == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F"])
def test_pictures_in_memory_come_back_whole(mode: str) -> None:
    (image,) = embedded(page_of(Picture(noise(37, 23).convert(mode), "c")))
    assert image.size == (37, 23)
    if mode == "RGB":
        assert np.array_equal(np.asarray(image), np.asarray(noise(37, 23)))


def test_large_photographs_become_jpeg_unless_they_are_transparent() -> None:
    side = int((LARGEST_PNG_BYTES / 3) ** 0.5) + 20
    photograph = noise(side, side)
    transparent = photograph.copy()
    transparent.putalpha(100)
    shown = embedded(page_of(Picture(photograph), Picture(transparent)))
    assert [image.format for image in shown] == ["JPEG", "PNG"]
    assert [image.size for image in shown] == [(side, side)] * 2


def test_files_and_bytes_are_embedded_as_they_are(tmp_path: Path) -> None:
    noise(20, 30).save(tmp_path / "a.png")
    noise(50, 40).save(tmp_path / "b.jpg", quality=70)
    noise(16, 12).save(tmp_path / "c.bmp")
    html = page_of(
        Picture(tmp_path / "a.png"), Picture(str(tmp_path / "b.jpg")), Picture((tmp_path / "a.png").read_bytes()),
        Picture(tmp_path / "c.bmp"),
    )  # fmt: skip
    payloads = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)\"", html)]
    png, jpeg = (tmp_path / "a.png").read_bytes(), (tmp_path / "b.jpg").read_bytes()
    assert payloads[:3] == [png, jpeg, png]
    assert [image.size for image in embedded(html)] == [(20, 30), (50, 40), (20, 30), (16, 12)]


def test_a_png_is_shown_at_the_size_it_states() -> None:
    def shown(dpi: float | None) -> tuple[str, str]:
        buffer = io.BytesIO()
        noise(400, 300).save(buffer, "PNG", **({"dpi": (dpi, dpi)} if dpi else {}))
        (attributes,) = Page(page_of(Picture(buffer.getvalue()))).attributes("img")
        return attributes["width"], attributes["height"]

    assert shown(None) == ("400", "300")
    assert shown(192) == ("200", "150")
    assert shown(48) == ("400", "300")


def test_wide_rows_scroll_and_others_do_not() -> None:
    wide, tall = (Page(page_of(Picture(Image.new("RGB", size)))) for size in ((1000, 100), (100, 100)))
    assert wide.attributes("img")[0]["style"] == "min-width:800px"
    assert "scroll" in [attributes.get("class") for attributes in wide.attributes("div")]
    assert "style" not in tall.attributes("img")[0]
    assert tall.attributes("div") == []


def test_alt_falls_back_to_the_caption() -> None:
    html = page_of(Picture(noise(4, 4), "a caption"), Picture(noise(4, 4), "a caption", "what it shows"))
    assert [image["alt"] for image in Page(html).attributes("img")] == ["a caption", "what it shows"]


def test_pictures_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.png"):
        page_of(Picture(tmp_path / "absent.png"))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        page_of(Picture(tmp_path / "broken.png"))
    whole = io.BytesIO()
    noise(60, 60).save(whole, "PNG")
    with pytest.raises(ValueError, match="bytes cannot be read"):
        page_of(Picture(whole.getvalue()[:2000]))


def test_numbers_are_aligned_right_and_words_are_not() -> None:
    table = Table(
        ["name", "mAP", "items", "rate", "empty", "mixed", "np"],
        [
            ["16", 0.5, 12, "1,234 s", None, 1, np.float32(0.5)],
            ["a", None, 7, "5.5 s", None, "bf16", np.int64(3)],
        ],
    )
    page = Page(page_of(table))
    expected = [False, True, True, True, False, False, True]
    assert ["number" in attributes.get("class", "") for attributes in page.attributes("th")] == expected
    assert ["number" in attributes.get("class", "") for attributes in page.attributes("td")] == expected * 2


def test_floats_of_a_column_share_their_decimals() -> None:
    cells = table_cells(
        Table(
            ["share", "rate", "size", "settings", "n"],
            [
                [0.71324, 1234.5, 3.0, 1e-4, 999],
                [1.0, 52.14, 41.256, 300.0, 1200345],
                [None, float("nan"), -7.5, 0.05, -12345],
            ],
        )
    )
    assert cells == [
        ["0.7132", "1,234", "3.00", "0.0001", "999"],
        ["1.0000", "52", "41.26", "300", "1,200,345"],
        ["–", "nan", "-7.50", "0.05", "-12,345"],
    ]


def test_truth_values_and_zeros() -> None:
    rows: list[list[Cell]] = [[True, 0.0, np.bool_(False)], [False, 0.25, np.bool_(True)]]
    assert table_cells(Table(["a", "b", "c"], rows)) == [["yes", "0.0000", "no"], ["no", "0.2500", "yes"]]


def test_ragged_tables_and_foreign_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="row 2 of table 'T' has 1 cells for 2 headers"):
        page_of(Table(["a", "b"], [[1, 2], [1]], caption="T"))
    with pytest.raises(ValueError, match="a str cannot be in a section"):
        render_report("t", [Section("s", ["text"])])  # type: ignore[list-item]


def test_an_empty_report_is_a_page() -> None:
    page = Page(render_report("only a title", []))
    assert page.of("h1") == ["only a title"]
    assert page.attributes("nav") == []
