"""The memory that decoding takes is bounded before it starts, and the bound holds."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eet.images.decoding import BYTES_PER_PIXEL, DecodeFailure, decode, decode_reduced
from eet.images.memory import decoding_bytes

SIDE = 1600
NOISE = 8 * 2**20
TURNED = Image.Exif()
TURNED[0x0112] = 6
# name -> (mode, format, options of saving)
CASES: dict[str, tuple[str, str, dict]] = {
    **{f"PNG {mode}": (mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "PNG RGB transparent": ("RGB", "PNG", {"transparency": (0, 0, 0)}),
    "PNG P transparent": ("P", "PNG", {"transparency": 0}),
    "PNG RGBA turned": ("RGBA", "PNG", {"exif": TURNED}),
    **{f"JPEG {mode}": (mode, "JPEG", {}) for mode in ("L", "RGB", "CMYK")},
    "JPEG RGB progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    **{f"WEBP {mode}": (mode, "WEBP", {}) for mode in ("RGB", "RGBA")},
    **{f"AVIF {mode}": (mode, "AVIF", {"speed": 10}) for mode in ("RGB", "RGBA")},
    **{f"JPEG2000 {mode}": (mode, "JPEG2000", {}) for mode in ("L", "RGB", "RGBA")},
    "GIF P": ("P", "GIF", {}),
    "BMP RGB": ("RGB", "BMP", {}),
    "PPM RGB": ("RGB", "PPM", {}),
    **{f"TIFF {mode}": (mode, "TIFF", {}) for mode in ("F", "I", "RGBA", "I;16")},
    "TIFF RGB one strip": ("RGB", "TIFF", {"compression": "tiff_lzw", "strip_size": 2**31 - 1}),
    "TIFF RGB strips": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
}

MEASURE = """
import os, sys
from pathlib import Path
from eet.images.decoding import decode
def peak(clear):
    if clear:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
for name in sys.argv[1:]:
    if os.fork() == 0:  # each from the same state of the heap
        data = Path(name).read_bytes()
        decode(data, max_pixels=10)
        before = peak(True)
        result = decode(data, max_pixels=10**9)
        print(peak(False) - before, result.size, flush=True)
        os._exit(0)
    os.wait()
"""


def saved(mode: str, kind: str, options: dict, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def bound(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return decoding_bytes(image, data, image.size)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is reset through /proc")
def test_decoding_takes_no_more_than_was_computed(tmp_path):
    available = {name: case for name, case in CASES.items() if case[1] in Image.SAVE}
    files = []
    for number, (mode, kind, options) in enumerate(available.values()):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(saved(mode, kind, options, SIDE))
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    wrong = []
    for name, file, line in zip(available, files, lines, strict=True):
        taken, computed = int(line.split()[0]), bound(file.read_bytes())
        print(f"{name:<22} {taken / SIDE**2:5.1f} bytes a pixel, computed {computed / SIDE**2:5.1f}")
        if not taken - NOISE <= computed <= 2 * taken + NOISE:
            wrong.append(name)
    assert not wrong, wrong


def test_an_image_that_takes_too_much_is_refused_with_the_numbers():
    pixels = 100 * 100
    results = {name: decode(saved(*case, 100), max_pixels=pixels) for name, case in CASES.items() if case[1] in Image.SAVE}
    allowed = {name for name, result in results.items() if isinstance(result, Image.Image)}
    assert {"PNG RGBA", "PNG RGBA turned", "PNG RGB transparent", "JPEG CMYK", "TIFF F", "TIFF RGBA", "GIF P", "PPM RGB"} <= allowed
    data = saved("RGB", "WEBP", {}, 100)
    failure = decode(data, max_pixels=pixels)
    assert isinstance(failure, DecodeFailure) and failure.status == "too-large"
    assert f"100 x 100 pixels of WEBP RGB take {bound(data)} bytes to decode; {BYTES_PER_PIXEL * pixels} are allowed" in failure.error
    assert not isinstance(decode(data, max_pixels=3 * pixels), DecodeFailure)


def test_a_jpeg_at_reduced_scale_takes_less():
    data = saved("RGB", "JPEG", {"progressive": True}, 1600)
    assert not isinstance(decode_reduced(data, (200, 200), max_pixels=1600 * 1600), DecodeFailure)
    assert isinstance(decode(data, max_pixels=1600 * 1600), DecodeFailure)


def test_large_images_are_converted_in_strips_as_small_ones_at_once():
    rng = np.random.default_rng(0)
    rgba_HW4 = rng.integers(0, 256, (700, 300, 4), np.uint8)
    floats_HW = rng.normal(size=(700, 300)).astype(np.float32)
    floats_HW[690, 5], floats_HW[3, 5] = -40, 9  # the least lies in the last strip, the greatest in the first
    grey_HW = rng.integers(0, 65536, (700, 300)).astype(np.uint16)
    palette = Image.fromarray(rgba_HW4[:, :, 0]).convert("P")
    for image, kind, options in (
        (Image.fromarray(rgba_HW4), "PNG", {}),
        (Image.fromarray(floats_HW), "TIFF", {}),
        (Image.fromarray(grey_HW), "PNG", {}),
        (palette, "PNG", {"transparency": 7}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        whole = decode(buffer.getvalue())
        assert isinstance(whole, Image.Image)
        if image.mode == "RGBA":
            alpha_HW1 = rgba_HW4[:, :, 3:].astype(float) / 255
            expected = rgba_HW4[:, :, :3] * alpha_HW1 + 255 * (1 - alpha_HW1)
        elif image.mode == "F":
            expected = np.rint((floats_HW.astype(float) + 40) * 255 / 49)[:, :, None].repeat(3, 2)
        elif image.mode == "P":
            seen = np.asarray(image.convert("RGB"))
            expected = np.where(np.asarray(image)[:, :, None] == 7, 255, seen)
        else:
            expected = np.rint(grey_HW / 257)[:, :, None].repeat(3, 2)
        assert np.abs(np.asarray(whole) - expected).max() <= 1, image.mode
