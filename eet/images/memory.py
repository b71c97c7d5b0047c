"""How much memory decoding an image takes, known from its header."""

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

RGB_BYTES = 4
"""Bytes of a pixel of an RGB image in Pillow."""

_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_ROWS_PER_STRIP, _TIFF_TILE_WIDTH = 258, 259, 278, 322


def decoding_bytes(image: Image.Image, data: bytes, full_size: tuple[int, int]) -> int:
    """The most bytes that decoding takes besides `data`: the image as it is stored, and first the decoder's buffers, then a copy as RGB.

    Args:
        image: opened, not loaded; a JPEG after `draft`.
        data: contents of the file.
        full_size: (width, height) of the image by its header.
    """
    pixels = image.width * image.height
    return pixels * _stored_bytes(image.mode) + max(_decoder_bytes(image, data, full_size[0] * full_size[1]), pixels * RGB_BYTES)


def _stored_bytes(mode: str) -> int:
    """Bytes of a pixel in Pillow's memory."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def _decoder_bytes(image: Image.Image, data: bytes, pixels: int) -> int:
    """Bytes of the decoder's own buffers. Formats that are not named here are decoded row by row."""
    channels = len(image.getbands())
    if isinstance(image, JpegImageFile):
        # If a scan does not hold everything of its pixels, libjpeg keeps the coefficients of the whole image, two bytes each.
        several_scans = "progressive" in image.info or _components_of_first_scan(data) < image.layers
        return 2 * image.layers * pixels if several_scans else 0
    if isinstance(image, TiffImageFile):
        return _strip_bytes(image) if image.tag_v2.get(_TIFF_COMPRESSION, 1) != 1 else 0
    if image.format == "JPEG2000":
        return 6 * channels * pixels  # 32 bits of a channel, and 16 when they are packed
    if image.format == "WEBP":
        # The canvas and its copy as bytes stay until the end; with transparency, the copy as RGB was seen with them.
        return (8 + RGB_BYTES * (2 if "A" in image.getbands() else 1)) * pixels
    return 8 * pixels if image.format == "AVIF" else 0  # the planes, and the pixels made of them


def _strip_bytes(image: TiffImageFile) -> int:
    """Bytes of an unpacked strip; a tile is small."""
    if _TIFF_TILE_WIDTH in image.tag_v2:
        return 0
    rows = min(image.height, int(image.tag_v2.get(_TIFF_ROWS_PER_STRIP, image.height)))
    return rows * image.width * sum(image.tag_v2.get(_TIFF_BITS, (1,))) // 8


def _components_of_first_scan(data: bytes) -> int:
    """Number of components in the first scan of a JPEG; 0 where its segments are damaged."""
    place = 2
    while place + 4 < len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:
            return data[place + 4]
        place += 1 if data[place + 1] == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0
