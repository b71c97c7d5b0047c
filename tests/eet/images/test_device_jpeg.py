"""JPEGs decoded by TorchCodec on a device against Pillow's decoder."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from eet.images import Preprocessing, decode, device_jpeg, ordinary_jpeg
from eet.images.device_jpeg import DeviceJpegDecoder, OrdinaryJpeg

pytest.importorskip("torchcodec", reason="TorchCodec is not installed (pip install -e '.[nvjpeg]')")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MANY = 10**9


def picture(width: int = 90, height: int = 60, mode: str = "RGB") -> Image.Image:
    """Patches of colour: detail that survives the coding."""
    small = np.random.default_rng(width * height).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), **{"quality": 90, **options})
    return buffer.getvalue()


def turned(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def ordinary(data: bytes) -> OrdinaryJpeg:
    found = ordinary_jpeg(data, max_pixels=MANY)
    assert found is not None
    return found


def broken(data: bytes) -> bytes:
    """With a header and an end that are right, and Huffman tables that are none."""
    place = data.index(b"\xff\xc4") + 5
    return data[:place] + b"\xff" * 16 + data[place + 16 :]


@pytest.mark.parametrize("device", DEVICES)
def test_ordinary_jpegs_come_out_as_pillow_shows_them(device):
    files = [jpeg(picture(), **turned(orientation), subsampling=orientation % 3) for orientation in range(1, 9)]
    files += [jpeg(picture(), progressive=True), jpeg(picture(mode="L")), jpeg(picture(200, 310)), jpeg(picture(), quality=40)]
    for data, image_3HW in zip(files, DeviceJpegDecoder(torch.device(device)).decode([ordinary(data) for data in files]), strict=True):
        assert image_3HW.dtype == torch.uint8 and image_3HW.device.type == device
        expected = np.asarray(decode(data)).astype(int)
        difference = np.abs(image_3HW.movedim(0, -1).cpu().numpy().astype(int) - expected)
        assert difference.max() == 0 if device == "cpu" else difference.mean() < 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(500, 375), (300, 900), (180, 120)])
def test_the_view_on_the_device_is_that_of_the_record(size, device):
    data = jpeg(picture(*size))
    preprocessing = Preprocessing.published((64, 48))
    (image_3HW,) = DeviceJpegDecoder(torch.device(device)).decode([ordinary(data)])
    view = preprocessing.view_on_device(image_3HW).cpu().numpy().astype(int)
    expected = np.asarray(preprocessing.view(decode(data))).astype(int)
    assert view.shape == expected.shape == (64, 48, 3)
    assert np.abs(view - expected).max() <= (1 if device == "cpu" else 12)


def test_what_is_no_ordinary_jpeg_is_left_to_the_other_decoder():
    whole = jpeg(picture())
    assert ordinary_jpeg(whole, max_pixels=90 * 60) == OrdinaryJpeg(whole, 90 * 60)
    assert ordinary_jpeg(whole, max_pixels=90 * 60 - 1) is None
    several = jpeg(picture(), format="MPO", save_all=True, append_images=[picture(60, 90)])
    stored_as_rgb = jpeg(picture(), keep_rgb=True)
    assert decode(stored_as_rgb).size == decode(several).size == (90, 60)
    for data in (
        b"",
        b"\xff\xd9",
        b"words \xff\xd9",
        whole[:-2],
        whole[: len(whole) // 2],
        whole[:30] + b"\xff\xd9",
        jpeg(picture(mode="CMYK")),
        stored_as_rgb,
        several,
        jpeg(picture(), format="PNG") + b"\xff\xd9",
    ):
        assert ordinary_jpeg(data, max_pixels=MANY) is None, data[:40]


@pytest.mark.parametrize("device", DEVICES)
def test_one_that_the_decoder_refuses_is_none_and_changes_no_other(device):
    files = [jpeg(picture(90, 60)), broken(jpeg(picture())), jpeg(picture(60, 90))]
    first, refused, last = DeviceJpegDecoder(torch.device(device)).decode([ordinary(data) for data in files])
    assert refused is None
    for data, image_3HW in ((files[0], first), (files[2], last)):
        assert np.abs(image_3HW.movedim(0, -1).cpu().numpy().astype(int) - np.asarray(decode(data))).mean() < 2


def test_so_many_pixels_are_decoded_at_once_and_no_more(monkeypatch):
    monkeypatch.setattr(device_jpeg, "PIXELS_AT_ONCE", 3000)
    decoder = DeviceJpegDecoder(torch.device("cpu"))
    groups, decode_all = [], decoder._decode
    monkeypatch.setattr(decoder, "_decode", lambda files, **options: groups.append(len(files)) or decode_all(files, **options))
    sizes = [(30, 40), (40, 30), (50, 10), (90, 60), (10, 10), (20, 10)]  # 1200, 1200, 500, 5400 (alone), 100, 200
    decoded = decoder.decode([ordinary(jpeg(picture(*size))) for size in sizes])
    assert [(image.shape[2], image.shape[1]) for image in decoded] == sizes
    assert groups == [3, 1, 2]


def test_without_torchcodec_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(RuntimeError, match=r"decoding JPEGs on cpu needs TorchCodec .*pip install -e '\.\[nvjpeg\]'"):
        DeviceJpegDecoder(torch.device("cpu"))
