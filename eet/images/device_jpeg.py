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

PIXELS_AT_ONCE = 2**28  # of images that are decoded together: 0.8 GB of RGB
_END_OF_IMAGE = b"\xff\xd9"
_EXIF = b"Exif\0\0"
_RGB_COMPONENTS = [ord(letter) for letter in "RGB"]

# TorchCodec's messages about nvJPEG, and nvJPEG's status numbers (nvjpegStatus_t). Refused: bad JPEG, not supported, not implemented,
# incomplete. Unclear: execution failed and internal error can be caused by the image or by the device.
_NVJPEG_STATUS = re.compile(r"(?:Failed to get image info|nvjpegDecode failed|Failed to decode batch): (\d+)")
_UNKNOWN_CHROMA = "Unknown chroma subsampling"
_REFUSED, _UNCLEAR = (2, 3, 4, 9, 10), (6, 8)


class OrdinaryJpeg(NamedTuple):
    """A JPEG file that nvJPEG decodes like libjpeg, up to a few levels of 255.

    Attributes:
        data: contents of the file.
        pixels: width x height.
    """

    data: bytes
    pixels: int


def ordinary_jpeg(data: bytes, *, max_pixels: int) -> OrdinaryJpeg | None:
    """The JPEG in `data`, or None where another decoder must handle it. Reads only the header.

    None for: another format, CMYK, RGB stored without conversion, an orientation that TorchCodec does not find, a truncated file, more than
    `max_pixels` pixels, and data that are no image.
    """
    if not data.endswith(_END_OF_IMAGE):
        return None
    try:
        with open_image(data, ("JPEG",)) as image:
            # Pillow's JPEG reader also opens files of several images, as another class.
            if type(image) is not JpegImageFile or image.mode not in ("L", "RGB") or image.bits != 8:
                return None
            if _stores_rgb(image) or orientation_of(image) != _orientation_in_first_exif(image):
                return None
            pixels = image.width * image.height
    except Exception:  # damaged headers raise many kinds of exception
        return None
    return OrdinaryJpeg(data, pixels) if 0 < pixels <= max_pixels else None


def _stores_rgb(image: JpegImageFile) -> bool:
    """Whether the three components are RGB, not YCbCr, by Adobe's marker or by their names."""
    return image.mode == "RGB" and (
        image.info.get("adobe_transform") == 0 or [component[0] for component in image.layer] == _RGB_COMPONENTS
    )


def _orientation_in_first_exif(image: JpegImageFile) -> int:
    """The orientation as TorchCodec reads it: only from Exif in the first APP1 segment, not from a later one or from XMP."""
    first = next((body for marker, body in image.applist if marker == "APP1"), b"")
    if not first.startswith(_EXIF):
        return 1
    exif = Image.Exif()
    exif.load(first)
    return exif.get(ExifTags.Base.Orientation, 1)


class DeviceJpegDecoder:
    """Decodes ordinary JPEGs on a device. Thread-safe.

    Raises:
        RuntimeError: TorchCodec is not installed, or was built without nvJPEG.
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
        """Decodes JPEGs at full size; at most `PIXELS_AT_ONCE` pixels (or one image) are held at a time.

        Returns:
            Upright images, uint8 (3, H, W) on the device, in order; None for each one that the decoder refuses.

        Raises:
            RuntimeError: the device fails, for example for lack of memory.
        """
        for group in _groups(jpegs):
            yield from self._decoded([jpeg.data for jpeg in group])

    def _decoded(self, files: list[bytes]) -> list[Tensor | None]:
        try:
            return [*self.decode_files(files)]
        except RuntimeError as error:  # one bad file fails the whole call
            if len(files) == 1:
                if self._is_bad_image(error):
                    return [None]
                raise
        half = len(files) // 2
        return self._decoded(files[:half]) + self._decoded(files[half:])

    def decode_files(self, files: list[bytes]) -> list[Tensor]:
        # As tensors: TorchCodec converts bytes under warnings.catch_warnings, which replaces the warning filters of all threads.
        tensors = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
        return list(self._decode_jpeg(tensors, mode="RGB", device=self.device))

    def _is_bad_image(self, error: RuntimeError) -> bool:
        """Whether a file was refused because of its contents, not because the device fails or lacks memory."""
        if self.device.type == "cpu" or _UNKNOWN_CHROMA in str(error):
            return not isinstance(error, torch.OutOfMemoryError)
        status = _NVJPEG_STATUS.search(str(error))
        if status is None:
            return False
        if int(status[1]) in _UNCLEAR:
            self.decode_files([self.probe])  # raises where the device can decode nothing any more
            return True
        return int(status[1]) in _REFUSED


def _groups(jpegs: Sequence[OrdinaryJpeg]) -> Iterator[list[OrdinaryJpeg]]:
    """Groups of JPEGs, in order, each within `PIXELS_AT_ONCE`."""
    group: list[OrdinaryJpeg] = []
    for jpeg in jpegs:
        if group and sum(one.pixels for one in group) + jpeg.pixels > PIXELS_AT_ONCE:
            yield group
            group = []
        group.append(jpeg)
    if group:
        yield group
