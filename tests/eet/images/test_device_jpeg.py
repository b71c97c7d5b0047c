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


def noise_image(width: int = 90, height: int = 60, mode: str = "RGB") -> Image.Image:
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


def first_segment_after(exif: dict, body: bytes) -> bytes:
    """A JPEG whose Exif comes after another APP1 segment."""
    data = jpeg(noise_image(), **exif)
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


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
    files = [jpeg(noise_image(), **turned(orientation), subsampling=orientation % 3) for orientation in range(1, 9)]
    files += [
        jpeg(noise_image(), progressive=True),
        jpeg(noise_image(mode="L")),
        jpeg(noise_image(200, 310)),
        jpeg(noise_image(), quality=40),
    ]
    for data, image_3HW in zip(files, DeviceJpegDecoder(torch.device(device)).decode([ordinary(data) for data in files]), strict=True):
        assert image_3HW.dtype == torch.uint8 and image_3HW.device.type == device
        expected = np.asarray(decode(data)).astype(int)
        difference = np.abs(image_3HW.movedim(0, -1).cpu().numpy().astype(int) - expected)
        assert difference.max() == 0 if device == "cpu" else difference.mean() < 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(500, 375), (300, 900), (180, 120)])
def test_the_view_on_the_device_is_that_of_the_record(size, device):
    data = jpeg(noise_image(*size))
    preprocessing = Preprocessing.published((64, 48))
    (image_3HW,) = DeviceJpegDecoder(torch.device(device)).decode([ordinary(data)])
    view = preprocessing.view_on_device(image_3HW).cpu().numpy().astype(int)
    expected = np.asarray(preprocessing.view(decode(data))).astype(int)
    assert view.shape == expected.shape == (64, 48, 3)
    assert np.abs(view - expected).max() <= (1 if device == "cpu" else 12)


def test_what_is_no_ordinary_jpeg_is_left_to_the_other_decoder():
    whole = jpeg(noise_image())
    assert ordinary_jpeg(whole, max_pixels=90 * 60) == OrdinaryJpeg(whole, 90 * 60)
    assert ordinary_jpeg(whole, max_pixels=90 * 60 - 1) is None
    several = jpeg(noise_image(), format="MPO", save_all=True, append_images=[noise_image(60, 90)])
    stored_as_rgb = jpeg(noise_image(), keep_rgb=True)
    turned_by_xmp = jpeg(noise_image(), xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>')
    assert decode(turned_by_xmp).size == (60, 90), "Pillow does not look into XMP any more"
    turned_after_xmp = first_segment_after(turned(6), b"http://ns.adobe.com/xap/1.0/\0<x/>")
    assert decode(turned_after_xmp).size == (60, 90)
    assert decode(stored_as_rgb).size == decode(several).size == (90, 60)
    for data in (
        b"",
        b"\xff\xd9",
        b"words \xff\xd9",
        whole[:-2],
        whole[: len(whole) // 2],
        whole[:30] + b"\xff\xd9",
        jpeg(noise_image(mode="CMYK")),
        stored_as_rgb,
        turned_by_xmp,
        turned_after_xmp,
        several,
        jpeg(noise_image(), format="PNG") + b"\xff\xd9",
    ):
        assert ordinary_jpeg(data, max_pixels=MANY) is None, data[:40]


@pytest.mark.parametrize("device", DEVICES)
def test_one_that_the_decoder_refuses_is_none_and_changes_no_other(device):
    files = [jpeg(noise_image(90, 60)), broken(jpeg(noise_image())), jpeg(noise_image(60, 90))]
    first, refused, last = DeviceJpegDecoder(torch.device(device)).decode([ordinary(data) for data in files])
    assert refused is None
    for data, image_3HW in ((files[0], first), (files[2], last)):
        assert np.abs(image_3HW.movedim(0, -1).cpu().numpy().astype(int) - np.asarray(decode(data))).mean() < 2


class Nvjpeg:
    """A decoder that fails with TorchCodec's nvJPEG messages for the given files, and decodes the others on the CPU."""

    def __init__(self, monkeypatch, failing: dict[bytes, str] | None = None) -> None:
        self.decoder = DeviceJpegDecoder(torch.device("cpu"))
        self.groups: list[int] = []
        self.failing, self._decode = failing or {}, self.decoder.decode_files
        monkeypatch.setattr(self.decoder, "decode_files", self.decode)
        monkeypatch.setattr(self.decoder, "device", torch.device("cuda"))

    def decode(self, files: list[bytes]) -> list[torch.Tensor]:
        self.groups.append(len(files))
        for file in files:
            if file in self.failing:
                raise RuntimeError(self.failing[file])
        self.decoder.device, device = torch.device("cpu"), self.decoder.device
        try:
            return self._decode(files)
        finally:
            self.decoder.device = device


SIZES = [(30, 40), (40, 30), (50, 10), (90, 60), (10, 10), (20, 10), (70, 30)]


def test_so_many_pixels_are_decoded_at_once_and_no_more(monkeypatch):
    monkeypatch.setattr(device_jpeg, "PIXELS_AT_ONCE", 3000)
    nvjpeg = Nvjpeg(monkeypatch)
    decoded = nvjpeg.decoder.decode([ordinary(jpeg(noise_image(*size))) for size in SIZES])  # 1200, 1200, 500, 5400 (alone), 100, 200, 2100
    assert [(image.shape[2], image.shape[1]) for image in decoded] == SIZES
    assert nvjpeg.groups == [3, 1, 3]


@pytest.mark.parametrize(
    "message", ["nvjpegDecode failed: 3", "Failed to decode batch: 6", "Failed to get image info: 4", "Unknown chroma subsampling"]
)
def test_an_nvjpeg_error_of_an_image_affects_that_image_alone(monkeypatch, message):
    files = [jpeg(noise_image(*size)) for size in SIZES]
    nvjpeg = Nvjpeg(monkeypatch, {files[4]: message})
    decoded = list(nvjpeg.decoder.decode([ordinary(data) for data in files]))
    assert [image is None for image in decoded] == [False] * 4 + [True] + [False] * 2
    assert len([size for size in nvjpeg.groups if size == 1]) <= 4, "the others of its group are decoded together"


@pytest.mark.parametrize("message", ["nvjpegDecode failed: 5", "CUDA error: out of memory", "Failed to create nvjpeg state: 6"])
def test_an_error_of_the_device_is_not_taken_for_a_bad_image(monkeypatch, message):
    data = jpeg(noise_image())
    with pytest.raises(RuntimeError, match=message):
        list(Nvjpeg(monkeypatch, {data: message}).decoder.decode([ordinary(data)]))


def test_of_an_unclear_fault_a_probe_tells_whose_it_is(monkeypatch):
    data = jpeg(noise_image())
    nvjpeg = Nvjpeg(monkeypatch, {data: "nvjpegDecode failed: 6"})
    nvjpeg.failing[nvjpeg.decoder.probe] = "nvjpegDecode failed: 8"
    with pytest.raises(RuntimeError, match="nvjpegDecode failed: 8"):
        list(nvjpeg.decoder.decode([ordinary(data)]))


@pytest.mark.gpu
def test_what_the_scan_lacks_is_the_same_each_time():
    """Of memory that nvJPEG leaves unwritten the code would be another every time."""
    whole = jpeg(noise_image(400, 300))
    cut = ordinary(whole[: len(whole) // 2] + b"\xff\xd9")
    decoder = DeviceJpegDecoder(torch.device("cuda"))
    first, *others = (next(decoder.decode([cut])) for _ in range(4))
    torch.full((64, 3, 400, 300), 77, device="cuda", dtype=torch.uint8)
    assert all((image is None) == (first is None) and (image is None or torch.equal(image, first)) for image in others)


def test_a_torchcodec_that_decodes_nothing_here_is_said_at_once(monkeypatch):
    import torchcodec.decoders

    def refuse(*_, **__):
        raise RuntimeError("decode_jpeg: torchcodec was not compiled with nvJPEG support")

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", refuse)
    with pytest.raises(RuntimeError, match="TorchCodec decodes no JPEG on cpu: .*not compiled with nvJPEG"):
        DeviceJpegDecoder(torch.device("cpu"))


def test_without_torchcodec_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(RuntimeError, match=r"decoding JPEGs on cpu needs TorchCodec .*pip install -e '\.\[nvjpeg\]'"):
        DeviceJpegDecoder(torch.device("cpu"))
