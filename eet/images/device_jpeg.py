"""Ordinary JPEGs decoded on a device, many at once, by TorchCodec: nvJPEG on a GPU, libjpeg-turbo on a CPU."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from eet.images.decoding import orientation_of
from eet.images.opening import open_image

PIXELS_AT_ONCE = 2**28  # of pictures that are decoded together: 0.8 GB of RGB
_END_OF_IMAGE = b"\xff\xd9"
_EXIF = b"Exif\0\0"
_RGB_COMPONENTS = [ord(letter) for letter in "RGB"]

# What TorchCodec says of nvJPEG, and nvJPEG's numbers (nvjpegStatus_t): bad, not supported, not implemented, incomplete; execution failed
# and internal error are of the picture or of the device.
_NVJPEG_STATUS = re.compile(r"(?:Failed to get image info|nvjpegDecode failed|Failed to decode batch): (\d+)")
_UNKNOWN_CHROMA = "Unknown chroma subsampling"
_REFUSED, _UNCLEAR = (2, 3, 4, 9, 10), (6, 8)


class OrdinaryJpeg(NamedTuple):
    """A file that nvJPEG decodes as libjpeg does, to a few levels. pixels: width x height."""

    data: bytes
    pixels: int


def ordinary_jpeg(data: bytes, *, max_pixels: int) -> OrdinaryJpeg | None:
    """The JPEG in `data`, or None for whatever another decoder should see: another format, CMYK, RGB stored as such, a turn that TorchCodec
    does not find, a file that does not end as a whole one does, one of more than `max_pixels`, and anything that is no picture.

    Reads the header alone.
    """
    if not data.endswith(_END_OF_IMAGE):
        return None
    try:
        with open_image(data, ("JPEG",)) as image:
            # The reader of JPEGs also takes those of several pictures, and gives them another class.
            if type(image) is not JpegImageFile or image.mode not in ("L", "RGB") or image.bits != 8:
                return None
            if _stores_rgb(image) or orientation_of(image) != _orientation_in_first_exif(image):
                return None
            pixels = image.width * image.height
    except Exception:  # damaged headers raise almost anything
        return None
    return OrdinaryJpeg(data, pixels) if 0 < pixels <= max_pixels else None


def _stores_rgb(image: JpegImageFile) -> bool:
    """Whether the three components are red, green and blue, and not brightness and colour (Adobe's marker, or their names)."""
    return image.mode == "RGB" and (
        image.info.get("adobe_transform") == 0 or [component[0] for component in image.layer] == _RGB_COMPONENTS
    )


def _orientation_in_first_exif(image: JpegImageFile) -> int:
    """As TorchCodec reads it: from Exif in the first APP1 segment alone, neither from a later one nor from XMP."""
    first = next((body for marker, body in image.applist if marker == "APP1"), b"")
    if not first.startswith(_EXIF):
        return 1
    exif = Image.Exif()
    exif.load(first)
    return exif.get(ExifTags.Base.Orientation, 1)


class DeviceJpegDecoder:
    """Decodes ordinary JPEGs on a device.

    RuntimeError where it cannot: TorchCodec is not installed, or was built without nvJPEG. Safe in several threads.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from torchcodec.decoders import decode_jpeg
        except (ImportError, OSError) as error:  # OSError: built for another torch
            raise RuntimeError(f"decoding JPEGs on {device} needs TorchCodec ({error}): pip install -e '.[nvjpeg]'") from error
        self.device, self._decode_jpeg = device, decode_jpeg
        probe = io.BytesIO()
        Image.new("RGB", (16, 16), "grey").save(probe, "JPEG")
        self.probe = probe.getvalue()
        try:
            self.decode_files([self.probe])
        except RuntimeError as error:
            raise RuntimeError(f"TorchCodec decodes no JPEG on {device}: {error}") from error

    def decode(self, jpegs: Sequence[OrdinaryJpeg]) -> Iterator[Tensor | None]:
        """Each upright as uint8 (3, H, W) on the device, at full size, in order; None for one that the decoder refuses.

        At most `PIXELS_AT_ONCE` (or one picture) are held at a time. RuntimeError where it is not a picture that is at fault, such as a
        device without memory.
        """
        for group in _groups(jpegs):
            yield from self._decoded([jpeg.data for jpeg in group])

    def _decoded(self, files: list[bytes]) -> list[Tensor | None]:
        try:
            return [*self.decode_files(files)]
        except RuntimeError as error:  # for one of them none is given
            if len(files) == 1:
                if self._is_the_pictures(error):
                    return [None]
                raise
        half = len(files) // 2
        return self._decoded(files[:half]) + self._decoded(files[half:])

    def decode_files(self, files: list[bytes]) -> list[Tensor]:
        # As tensors: of bytes TorchCodec makes them under warnings.catch_warnings, which swaps the filters of all threads.
        tensors = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
        return list(self._decode_jpeg(tensors, mode="RGB", device=self.device))

    def _is_the_pictures(self, error: RuntimeError) -> bool:
        """Whether a single file was refused for what is in it, and not for want of memory or of a device that works."""
        if self.device.type == "cpu" or _UNKNOWN_CHROMA in str(error):
            return not isinstance(error, torch.OutOfMemoryError)
        told = _NVJPEG_STATUS.search(str(error))
        if told is None:
            return False
        if int(told[1]) in _UNCLEAR:
            self.decode_files([self.probe])  # raises where nothing can be decoded any more
            return True
        return int(told[1]) in _REFUSED


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
