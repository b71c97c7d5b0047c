import io
import logging
import math
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from eet.images import ordinary_jpeg
from eet.images.decoding import DecodeFailure, decode, decode_reduced, read_image
from eet.storage import read_bytes


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def pixels(result: Image.Image | DecodeFailure) -> np.ndarray:
    assert isinstance(result, Image.Image), result
    assert result.mode == "RGB"
    return np.asarray(result)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def orientation_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000"])
def test_lossless_formats_give_their_pixels_back(kind):
    source = photo(16, 8).quantize(32).convert("RGB")
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    np.testing.assert_array_equal(pixels(decode(encoded(source, kind, **options))), np.asarray(source))


def test_one_pixel():
    assert pixels(decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"))).tolist() == [[[1, 2, 3]]]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_zero_bytes():
    assert decode(b"").status == "empty"


@pytest.mark.parametrize("data", [b"this is a text file, whatever its name\n", b"<svg></svg>", b"\0" * 64, EPS])
def test_what_is_not_an_image_says_so_without_naming_an_address(data):
    failure = decode(data)
    assert failure.status == "not-an-image"
    assert "0x" not in failure.error  # the same bytes give the same line on every run


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"])
def test_a_file_cut_off_anywhere_is_a_failure_of_one_line(kind):
    data = encoded(photo(64, 48), kind)
    for length in [*range(1, 40), *np.linspace(40, len(data) * 0.9, 40).astype(int)]:
        result = decode(data[:length])
        assert isinstance(result, DecodeFailure), (kind, length)
        assert result.error and "\n" not in result.error


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_off_in_its_pixels_is_truncated(kind):
    data = encoded(photo(64, 48), kind)
    assert decode(data[: len(data) * 2 // 3]).status == "truncated"


def test_damaged_bytes_never_raise():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"):
        data = np.frombuffer(encoded(photo(24, 24), kind), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            assert isinstance(decode(damaged.tobytes(), max_pixels=1_000_000), Image.Image | DecodeFailure)


def test_a_decompression_bomb_is_refused_by_its_header_at_once():
    start = time.perf_counter()
    failure = decode(png_bomb(60_000, 60_000))
    assert time.perf_counter() - start < 1
    assert failure.status == "too-large"
    assert "60000 x 60000" in failure.error


def test_max_pixels_is_the_only_limit(monkeypatch):
    data = encoded(Image.new("1", (500, 400)), "PNG")
    assert pixels(decode(data, max_pixels=200_000)).shape == (400, 500, 3)
    assert decode(data, max_pixels=199_999).status == "too-large"

    def load(image):
        raise OSError("the pixels would be decoded now")

    # more than twice Pillow's own default limit, where Pillow itself refuses, but the caller allows it
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert decode(png_bomb(20_000, 20_000), max_pixels=10**9).error == "the pixels would be decoded now"
    with pytest.raises(ValueError, match="max_pixels is 0"):
        decode(data, max_pixels=0)


@pytest.mark.slow
def test_pillows_own_limit_is_left_to_the_program_that_imports_us():
    script = (
        "import PIL.Image as pillow; before = pillow.MAX_IMAGE_PIXELS; import eet.images, eet.vit; assert pillow.MAX_IMAGE_PIXELS == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pillows_own_limit_refuses_nothing_that_the_caller_allows(monkeypatch):
    files = {kind: encoded(photo(), kind) for kind in ("JPEG", "MPO", "PNG", "BMP", "JPEG2000", "PPM")}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind, data in files.items():
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        assert pixels(decode(data)).shape == (30, 40, 3), kind
    assert ordinary_jpeg(files["JPEG"], max_pixels=1200) is not None


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_what_a_reader_itself_refuses_is_too_large(monkeypatch, kind):
    data = encoded(photo(), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    failure = decode(data)
    assert failure.status == "too-large" and "MAX_IMAGE_PIXELS" in failure.error


def test_cmyk_jpeg():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    result = pixels(decode(encoded(red, "JPEG", quality=100)))
    np.testing.assert_allclose(result, np.broadcast_to([255, 0, 0], result.shape), atol=4)


def test_grey():
    grey = photo(mode="L")
    np.testing.assert_array_equal(pixels(decode(encoded(grey, "PNG"))), np.repeat(np.asarray(grey)[:, :, None], 3, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 100, 200, 257, 32768, 65407, 65535]], np.uint16)
    result = pixels(decode(encoded(Image.fromarray(values), kind)))
    assert result[0, :, 0].tolist() == [round(int(value) * 255 / 65535) for value in values[0]]


def test_16_bit_ppm_and_rgb_png():
    grey = b"P5 2 1 65535\n" + struct.pack(">HH", 65535, 32768)
    assert pixels(decode(grey))[0, :, 0].tolist() == [255, 128]
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    idat = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 32896, 0))
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", idat) + png_chunk(b"IEND", b"")
    assert pixels(decode(png)).tolist() == [[[255, 128, 0]]]


def test_float_tiff():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert pixels(decode(encoded(unit, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[-10.0, np.nan, 10.0]], np.float32))
    assert pixels(decode(encoded(wide, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_lies_over_white():
    rgba = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8))
    assert pixels(decode(encoded(rgba, "PNG"))).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]
    grey_alpha = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8))
    assert grey_alpha.mode == "LA"
    assert pixels(decode(encoded(grey_alpha, "PNG")))[0, :, 0].tolist() == [7, 255]


def test_palette_png_with_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    one_clear = encoded(palette, "PNG", transparency=1)
    assert pixels(decode(one_clear)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    alphas = encoded(palette, "PNG", transparency=bytes([255, 0, 0]))
    assert pixels(decode(alphas)).tolist() == [[[255, 0, 0], [255, 255, 255], [255, 255, 255]]]


def test_colour_key_transparency():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert pixels(decode(encoded(image, "PNG", transparency=(1, 2, 3)))).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as check:
        assert check.n_frames == 3
    np.testing.assert_array_equal(pixels(decode(data)), np.broadcast_to([255, 0, 0], (4, 5, 3)))


# How the stored pixels are seen under each orientation: EXIF 2.3, section 4.6.4, tag 0x0112.
SEEN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SEEN)
def test_exif_orientation_is_applied_once_pixel_by_pixel(orientation, kind):
    source = photo(3, 2)
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decode(encoded(source, kind, exif=orientation_exif(orientation), **options))
    np.testing.assert_array_equal(pixels(result), SEEN[orientation](np.asarray(source)))
    assert not result.getexif() and not result.info  # nothing is left that a second reader would apply again


def test_exif_orientation_of_a_jpeg():
    source = np.zeros((32, 64, 3), np.uint8)
    source[:, :16] = 255  # a white band at the stored left: after a quarter turn clockwise it is on top
    result = pixels(decode(encoded(Image.fromarray(source), "JPEG", quality=95, exif=orientation_exif(6))))
    assert result.shape == (64, 32, 3)
    assert result[:14].min() > 240 and result[20:].max() < 15


def test_broken_exif_loses_no_image_and_warns_nobody(recwarn):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage, and no tag of it whole"
    data = encoded(photo(), "JPEG", exif=exif)
    assert isinstance(decode(data), Image.Image)
    for kind in ("PNG", "WEBP"):
        assert isinstance(decode(encoded(photo(), kind, exif=b"Exif\0\0no TIFF header")), Image.Image)
    assert not recwarn.list


def test_nothing_is_printed_where_logging_is_not_set_up(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    samples_per_pixel = struct.pack("<HHIHH", 277, 3, 1, 3, 0)
    data = encoded(photo(), "TIFF").replace(samples_per_pixel, struct.pack("<HHIHH", 277, 3, 1, 9, 0))
    assert decode(data).status == "decode-error"
    assert capsys.readouterr() == ("", "")


def test_warnings_as_errors_change_nothing(capfd):
    tiff = encoded(photo(), "TIFF", compression="tiff_lzw")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in range(8, len(tiff), 37):
            assert isinstance(decode(tiff[:length]), Image.Image | DecodeFailure)
        assert isinstance(decode(encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")), Image.Image)
    assert capfd.readouterr() == ("", "")


def test_threads_agree_with_one_thread():
    files = [encoded(photo(50 + n, 40), kind) for n in range(6) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP")]
    files += [data[: len(data) // 2] for data in files] + [png_bomb(50_000, 50_000), b"", b"text"]

    def outcome(data):
        result = decode(data)
        return result if isinstance(result, DecodeFailure) else result.tobytes()

    expected = [outcome(data) for data in files]
    results: list[list] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda into=into: into.extend(map(outcome, files))) for into in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == expected for result in results)


def test_text_named_jpg_and_missing_file(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    assert read_image(str(tmp_path / "text.jpg")).status == "not-an-image"
    failure = read_image(str(tmp_path / "absent.jpg"))
    assert failure.status == "missing" and "absent.jpg" in failure.error
    assert read_image(str(tmp_path / "text.jpg" / "below.jpg")).status == "missing"
    with pytest.raises(FileNotFoundError):
        read_bytes(str(tmp_path / "absent.jpg"))


def test_folders_pipes_and_nonsense_are_failures_and_never_block(tmp_path):
    assert read_image(str(tmp_path)).status == "not-a-file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_image(str(tmp_path / "pipe.jpg")).status == "not-a-file"
    assert read_image("nul\0byte.jpg").status == "bad-location"
    assert read_image("nosuchscheme://host/a.jpg").status == "bad-location"
    assert read_image(str(tmp_path / ("long" * 100))).status == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)
    assert read_image(str(path)).status == "no-permission"


def test_a_refusal_by_the_operating_system_or_by_s3_is_no_permission(monkeypatch):
    for error in (PermissionError(13, "Permission denied", "x"), OSError("AWS Error ACCESS_DENIED during HeadObject")):

        def refuse(location, error=error):
            raise error

        monkeypatch.setattr("eet.images.decoding.read_bytes", refuse)
        assert read_image("x").status == "no-permission"


def test_names_that_are_not_utf8(tmp_path):
    source = photo()
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9 100%.png")
    with open(name, "wb") as file:
        file.write(encoded(source, "PNG"))
    np.testing.assert_array_equal(pixels(read_image(os.fsdecode(name))), np.asarray(source))
    uri = f"file://{tmp_path}/caf%E9%20100%25.png"
    np.testing.assert_array_equal(pixels(read_image(uri)), np.asarray(source))
    failure = read_image(os.fsdecode(name) + "x")
    assert failure.status == "missing"
    failure.error.encode()  # the line can be stored
    read_image("nosuchscheme://host/caf\udce9.jpg").error.encode()


def test_any_fsspec_store(tmp_path):
    import fsspec

    data = encoded(photo(), "PNG")
    fsspec.filesystem("memory").pipe("/test-decoding/a.png", data)
    assert read_bytes("memory://test-decoding/a.png") == data
    assert read_image("memory://test-decoding/b.png").status == "missing"


# ---- JPEGs decoded at a fraction of their size


def waves(width: int, height: int) -> Image.Image:
    """Detail of 64 pixels a wave, another in every direction, and no symmetry."""
    y, x = np.mgrid[0:height, 0:width] / 64 * 2 * np.pi
    return Image.fromarray(
        np.rint(127 + 60 * np.stack([np.sin(x) + np.sin(y / 2), np.sin(x + y), np.cos(y) + np.sin(x / 3)], -1)).astype(np.uint8)
    )


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((800, 600), (100, 75), (100, 75)),
        ((800, 600), (101, 75), (200, 150)),
        ((800, 600), (100, 76), (200, 150)),
        ((800, 600), (400, 10), (400, 300)),
        ((800, 600), (401, 10), (800, 600)),
        ((1601, 807), (100, 100), (201, 101)),  # a column and a row that the image fills in part
        ((30, 20), (400, 400), (30, 20)),
    ],
)
def test_a_jpeg_is_decoded_at_the_least_scale_that_is_not_below_the_size_asked_for(size, least, expected):
    data = encoded(waves(*size), "JPEG", quality=95)
    image, (left, top, right, bottom) = decode_reduced(data, least)
    assert image.mode == "RGB" and image.size == expected
    scale = round(size[0] / expected[0])
    assert (left, top, right, bottom) == (0, 0, size[0] / scale, size[1] / scale)
    if scale == 1:
        np.testing.assert_array_equal(pixels(image), pixels(decode(data)))
    else:
        whole = size[0] // scale, size[1] // scale
        means = np.asarray(decode(data).crop((0, 0, whole[0] * scale, whole[1] * scale)).reduce(scale)).astype(int)
        assert np.abs(pixels(image)[: whole[1], : whole[0]] - means).max() <= 6


@pytest.mark.parametrize("orientation", SEEN)
def test_a_reduced_jpeg_stands_upright_and_says_where_the_image_lies_in_it(orientation):
    """The mean of each reduced pixel's place in the whole image, which begins where the extent says, not where the image does."""
    data = encoded(waves(1005, 611), "JPEG", quality=95, exif=orientation_exif(orientation))
    whole = pixels(decode(data)).astype(float)
    least = (200, 80) if whole.shape[1] > whole.shape[0] else (80, 200)  # a quarter; a half, were width and height confused
    image, (left, top, right, bottom) = decode_reduced(data, least)
    reduced = pixels(image)
    scale = 4
    assert (right - left, bottom - top) == (whole.shape[1] / scale, whole.shape[0] / scale)
    assert image.size == (math.ceil(right - left), math.ceil(bottom - top)) and min(left, top) >= 0
    assert right <= image.width and bottom <= image.height
    for row, column in ((20, 30), (60, 70), (90, 40)):
        y, x = round((row - top) * scale), round((column - left) * scale)
        expected = whole[y : y + scale, x : x + scale].mean(axis=(0, 1))
        np.testing.assert_allclose(reduced[row, column], expected, atol=6)


def test_a_reduced_jpeg_may_be_of_any_colour_space():
    grey = decode_reduced(encoded(photo(400, 300, "L").resize((400, 300)), "JPEG"), (50, 30)).image
    assert grey.size == (50, 38) and np.ptp(pixels(grey), axis=2).max() == 0
    red = Image.new("CMYK", (800, 800), (0, 255, 255, 0))
    cmyk = pixels(decode_reduced(encoded(red, "JPEG", quality=100), (100, 100)).image)
    np.testing.assert_allclose(cmyk, np.broadcast_to([255, 0, 0], (100, 100, 3)), atol=4)
    several = encoded(waves(640, 480), "MPO", save_all=True, append_images=[photo(640, 480)])
    np.testing.assert_allclose(
        pixels(decode_reduced(several, (80, 60)).image), pixels(decode_reduced(encoded(waves(640, 480), "JPEG"), (80, 60)).image)
    )


def test_limits_and_faults_of_a_reduced_jpeg_are_those_of_the_whole():
    data = encoded(photo(400, 300), "JPEG")
    assert decode_reduced(data, (50, 30), max_pixels=119_999) == decode(data, max_pixels=119_999)
    assert decode_reduced(data, (50, 30), max_pixels=119_999).status == "too-large"
    assert decode_reduced(data[: len(data) * 2 // 3], (50, 30)).status == "truncated"
    for length in range(0, 600, 7):
        assert decode_reduced(data[:length], (50, 30)) == decode(data[:length])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_are_never_reduced(kind):
    data = encoded(photo(400, 300), kind, **({} if kind == "GIF" else {"exif": orientation_exif(6)}))
    image, extent = decode_reduced(data, (50, 30))
    np.testing.assert_array_equal(pixels(image), pixels(decode(data)))
    assert extent == (0, 0, *image.size) and image.size == ((400, 300) if kind == "GIF" else (300, 400))
