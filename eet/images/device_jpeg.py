"""Ordinary JPEGs decoded on a device, many at once, by TorchCodec: nvJPEG on a GPU, libjpeg-turbo on a CPU."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from eet.images.decoding import silence_pillow

PIXELS_AT_ONCE = 2**28  # of pictures that are decoded together: 0.8 GB of RGB
_END_OF_IMAGE = b"\xff\xd9"
_RGB_COMPONENTS = [ord(letter) for letter in "RGB"]


class OrdinaryJpeg(NamedTuple):
    """A file that nvJPEG decodes as libjpeg does, to a few levels. pixels: width x height."""

    data: bytes
    pixels: int


def ordinary_jpeg(data: bytes, *, max_pixels: int) -> OrdinaryJpeg | None:
    """The JPEG in `data`, or None for whatever another decoder should see: another format, CMYK, RGB stored as such, a file that does not
    end as a whole one does, one of more than `max_pixels`, and anything that is no picture. Reads the header alone.
    """
    if not data.endswith(_END_OF_IMAGE):
        return None
    silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            # The reader of JPEGs also takes those of several pictures, and gives them another class.
            ordinary = type(image) is JpegImageFile and image.mode in ("L", "RGB") and image.bits == 8 and not _stores_rgb(image)
            pixels = image.width * image.height
    except Exception:  # damaged headers raise almost anything
        return None
    return OrdinaryJpeg(data, pixels) if ordinary and 0 < pixels <= max_pixels else None


def _stores_rgb(image: JpegImageFile) -> bool:
    """Whether the three components are red, green and blue, and not brightness and colour (Adobe's marker, or their names)."""
    return image.mode == "RGB" and (
        image.info.get("adobe_transform") == 0 or [component[0] for component in image.layer] == _RGB_COMPONENTS
    )


class DeviceJpegDecoder:
    """Decodes ordinary JPEGs on a device.

    RuntimeError where TorchCodec is not installed. Safe in several threads.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from torchcodec.decoders import decode_jpeg
        except ImportError as error:
            raise RuntimeError(f"decoding JPEGs on {device} needs TorchCodec ({error}): pip install -e '.[nvjpeg]'") from error
        self.device, self._decode = device, decode_jpeg

    def decode(self, jpegs: Sequence[OrdinaryJpeg]) -> Iterator[Tensor | None]:
        """Each upright as uint8 (3, H, W) on the device, at full size, in order; None for one that the decoder refuses.

        At most `PIXELS_AT_ONCE` (or one picture) are held at a time.
        """
        for group in _groups(jpegs):
            yield from self._decoded([jpeg.data for jpeg in group])

    def _decoded(self, files: list[bytes]) -> list[Tensor | None]:
        try:
            return list(self._decode(files, mode="RGB", device=self.device))
        except RuntimeError:  # for one of them none is given
            return [None] if len(files) == 1 else [self._decoded([file])[0] for file in files]


def _groups(jpegs: Sequence[OrdinaryJpeg]) -> Iterator[list[OrdinaryJpeg]]:
    """In order, each of as many as may be decoded together."""
    group: list[OrdinaryJpeg] = []
    for jpeg in jpegs:
        if group and sum(one.pixels for one in group) + jpeg.pixels > PIXELS_AT_ONCE:
            yield group
            group = []
        group.append(jpeg)
    if group:
        yield group
