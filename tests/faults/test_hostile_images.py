"""Hostile, broken and unusual image files, all in one encode: each gets its status, and every other image its code."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import eet
from eet.gallery import Gallery
from pipelines import encode


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def png(width: int, height: int, *, body: bytes = b"\0" * 100, before: bytes = b"") -> bytes:
    """A PNG whose header says another size than its pixels have."""

    def chunk(kind: bytes, contents: bytes) -> bytes:
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    contents = b"comment\0\0" + zlib.compress(b"\0" * 2**27)
    return struct.pack(">I", len(contents)) + b"zTXt" + contents + struct.pack(">I", zlib.crc32(b"zTXt" + contents))


JPEG, PNG = saved(photo(), "JPEG"), saved(photo(), "PNG")
FRAMES = {"save_all": True, "append_images": [photo().rotate(90), photo().rotate(180)]}
PICTURES: dict[str, tuple[bytes, str]] = {
    "zero-bytes.jpg": (b"", "empty"),
    "html.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not-an-image"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not-an-image"),
    "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n", "not-an-image"),
    "zeros.png": (b"\0" * 4096, "not-an-image"),
    "pickle.jpg": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "not-an-image"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated.png": (PNG[: len(PNG) // 2], "truncated"),
    "header-only.jpg": (JPEG[:20], "decode-error"),
    "signature-only.png": (PNG[:8], "decode-error"),
    "bad-checksum.png": (PNG[:45] + b"\xff" + PNG[46:], "decode-error"),
    "bomb.png": (png(60_000, 60_000), "too-large"),
    "header-lies.png": (png(1000, 1000), "truncated"),
    "text-bomb.png": (png(4, 4, body=b"\0" * 52, before=text_bomb()), "decode-error"),
    "no-width.png": (png(0, 10), "decode-error"),
    "heavy.webp": (saved(Image.new("RGB", (1500, 1500)), "WEBP"), "too-large"),
    "wrong-suffix.png": (JPEG, "ok"),
    "no-real-suffix.gif": (PNG, "ok"),
    "trailing-garbage.jpg": (JPEG + b"\0<?php system($_GET[0]); ?>" * 100, "ok"),
    "progressive.jpg": (saved(photo(), "JPEG", progressive=True), "ok"),
    "cmyk.jpg": (saved(photo(mode="CMYK"), "JPEG"), "ok"),
    "grey.jpg": (saved(photo(mode="L"), "JPEG"), "ok"),
    "turned.jpg": (saved(photo(), "JPEG", exif=turned()), "ok"),
    "broken-exif.jpg": (saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), "ok"),
    "grey-16-bits.png": (saved(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"), "ok"),
    "one-bit.png": (saved(photo(mode="1"), "PNG"), "ok"),
    "transparent.png": (saved(photo(mode="RGBA"), "PNG"), "ok"),
    "palette-with-transparency.png": (saved(photo(mode="P"), "PNG", transparency=3), "ok"),
    "palette-with-transparencies.png": (saved(photo(mode="P"), "PNG", transparency=bytes(range(256))), "ok"),
    "animated.gif": (saved(photo(), "GIF", **FRAMES), "ok"),
    "animated.webp": (saved(photo(), "WEBP", **FRAMES), "ok"),
    "animated.png": (saved(photo(), "PNG", **FRAMES), "ok"),
    "pages.tiff": (saved(photo(), "TIFF", **FRAMES), "ok"),
    "floats-with-nan.tiff": (saved(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), "ok"),
    "one-pixel.png": (saved(Image.new("RGB", (1, 1)), "PNG"), "ok"),
    "one-column.png": (saved(Image.new("RGB", (1, 10_000)), "PNG"), "ok"),
    "one-row.jpg": (saved(Image.new("RGB", (10_000, 1)), "JPEG"), "ok"),
    "line\nbreak.png": (PNG, "ok"),
    "per%20cent?#&.png": (PNG, "ok"),
    "back\\slash 'quotes\".png": (PNG, "ok"),
    "\u202egnp.exe.png": (PNG, "ok"),
    "é-composed.png": (PNG, "ok"),
    "e\u0301-composed.png": (PNG, "ok"),
    "x.tar#0+9.png": (PNG, "ok"),
    "x.parquet#0/0/image.png": (PNG, "ok"),
    "-rf.png": (PNG, "ok"),
    "x" * 251 + ".png": (PNG, "ok"),
    os.fsdecode(b"latin-\xe9.png"): (PNG, "ok"),
}
# Things that are no files. name -> (what makes it, status).
OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe.jpg": (os.mkfifo, "not-a-file"),
    "loop.jpg": (lambda path: path.symlink_to(path.name), "unreadable"),
    "dangling.jpg": (lambda path: path.symlink_to("nothing"), "missing"),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), "not-a-file"),
    "link.png": (lambda path: path.symlink_to("one-pixel.png"), "ok"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All of them in one folder, with links in circles and a folder that is called as an image."""
    root = tmp_path_factory.mktemp("hostile") / "images"
    for name, (data, _) in PICTURES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name, (make, _) in OTHERS.items():
        make(root / name)
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "inside.png").write_bytes(PNG)
    (root / "folder.jpg" / "circle").symlink_to(root)
    (root / ".hidden.jpg").write_bytes(b"not listed")
    return root


def statuses(gallery: Gallery) -> dict[str, str]:
    table = gallery.table(["item_id", "status"])
    return dict(zip(table["item_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def as_id(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def test_each_gets_its_status_in_one_encode(folder, tiny_model, tmp_path, capsys):
    config = encode.EncodeConfig(
        model=str(tiny_model), images=str(folder), out=str(tmp_path / "g"), engine="local", max_error_ratio=1.0, max_pixels=4_000_000,
        rows_per_part=20, batch_size=8, threads=2,
    )  # fmt: skip
    encode.run(config)
    gallery = eet.open_gallery(str(tmp_path / "g"))
    found = statuses(gallery)
    expected = {as_id(name): status for name, (_, status) in (PICTURES | OTHERS).items()} | {"folder.jpg/inside.png": "ok"}
    table = gallery.table(["item_id", "status", "error", "code"]).to_pylist()
    errors = {row["item_id"]: row["error"] for row in table}
    for name in sorted(expected):
        print(f"{found.get(name, 'not listed'):<14} {name!r:.60}  {errors.get(name) or ''!r:.90}")
    assert {name: (found.get(name), status, errors.get(name)) for name, status in expected.items() if found.get(name) != status} == {}
    assert found.keys() == expected.keys()
    assert all(row["error"] is None or ("\n" not in row["error"] and len(row["error"]) <= 400) for row in table)
    assert all((row["error"] is None) == (row["status"] == "ok") for row in table)
    codes = {row["item_id"]: row["code"] for row in table}
    same = [as_id(name) for name, (data, status) in PICTURES.items() if data is PNG]
    assert len(same) > 8 and len({codes[name] for name in same}) == 1, "a name changes no code"
    alone = eet.encode(tiny_model, [str(folder / "one-pixel.png")]).table(["code"])["code"][0].as_py()
    assert codes["one-pixel.png"] == codes["link.png"] == alone, "bad neighbours change no code"
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tiny_model, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.png").chmod(0)
    assert statuses(eet.encode(tiny_model, [str(tmp_path / "a.png")])) == {str(tmp_path / "a.png"): "no-permission"}


def test_cells_and_labels_of_tables(folder, tiny_model, tmp_path):
    cells = [JPEG, b"", None, b"<html>", JPEG[:200], png(60_000, 60_000)]
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), tmp_path / "cells.parquet")
    found = statuses(eet.encode(tiny_model, tmp_path / "cells.parquet"))
    assert list(found.values()) == ["ok", "empty", "empty", "not-an-image", "truncated", "too-large"]

    labels = [1.0, float("nan"), None, -1.0, 3.0, 1.0]
    pq.write_table(pa.table({"image": pa.array([JPEG] * 6), "label": labels}), tmp_path / "labels.parquet")
    labelled = eet.encode(tiny_model, tmp_path / "labels.parquet")
    assert labelled.table(["label"])["label"].to_pylist() == [0, None, None, None, 1, 0]
    assert labelled.manifest.label_names == ("1", "3")

    expected = {
        "one-pixel.png": "ok",
        "../images/one-pixel.png": "ok",
        "nothing.png": "missing",
        "one-pixel.png/x.png": "missing",
        "x" * 300 + ".png": "unreadable",
        "nosuchscheme://x/y.png": "bad-location",
        "folder.jpg": "not-a-file",
    }
    pq.write_table(pa.table({"path": list(expected)}), tmp_path / "paths.parquet")
    config = encode.EncodeConfig(
        model=str(tiny_model), images=str(tmp_path / "paths.parquet"), images_root=str(folder), out=str(tmp_path / "g"), engine="local",
        max_error_ratio=1.0,
    )  # fmt: skip
    encode.run(config)
    assert statuses(eet.open_gallery(str(tmp_path / "g"))) == expected
