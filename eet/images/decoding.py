"""Reading and decoding images to upright RGB. A failure is returned as a value, not raised.

Among a hundred million images some are truncated, empty, not images or malicious. Each becomes a `DecodeFailure`, which
an encode job stores as the status of its row, so that one bad image neither stops the job nor gets lost.
"""

import errno
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from eet.errors import InputError
from eet.images.memory import decoding_bytes
from eet.images.opening import open_image
from eet.storage import one_line, read_bytes

DEFAULT_MAX_PIXELS = 200_000_000
BYTES_PER_PIXEL = 8
"""Decoding takes at most so many bytes for each of `max_pixels`, besides the file's own: 1.6 GB by default, in each thread that decodes."""
_STRIP_PIXELS = 2**16

# Raster formats only: some of Pillow's other readers start programs (EPS calls Ghostscript) or choose their own size.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodeFailure:
    """Why an image could not be read or decoded.

    Attributes:
        status: a short reason. The file could not be read: missing, no-permission, not-a-file, bad-location, unreadable. Its contents
            could not be decoded: empty, not-an-image, truncated, too-large, decode-error.
        error: one line of UTF-8 text for the user; the same bytes always give the same line.
    """

    status: str
    error: str


class ReducedImage(NamedTuple):
    """A decoded image, possibly at a fraction of its size.

    Attributes:
        image: the decoded image.
        extent: (left, top, right, bottom) of the original within `image`, in its pixels: at half size, an original 1001 pixels wide
            fills 500.5 of 501 columns.
    """

    image: Image.Image
    extent: tuple[float, float, float, float]


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
    """Decodes the bytes of an image file into an upright 8-bit RGB image.

    The first frame is taken and turned by its EXIF orientation. Transparency is laid over white. 16-bit values are scaled to 8 bits;
    floating-point values are taken as 0 to 1, or stretched from their minimum to their maximum if they exceed that range. Grey,
    palette and CMYK images are converted. Colour profiles are not applied, as in the training of the published models.

    Formats: JPEG, MPO, PNG, GIF, WebP, TIFF, BMP, JPEG 2000, AVIF (where Pillow has it) and PPM. Bad data never raises and never
    warns. Thread-safe.

    Args:
        data: contents of the file.
        max_pixels: an image with more pixels (width x height, by its header) is refused before it is decoded, and one whose decoding
            takes more than `BYTES_PER_PIXEL` bytes for each of them: half as many pixels of WebP (two fifths with transparency), a third of
            JPEG 2000, two thirds of AVIF, and four fifths of progressive JPEG at full size. A GIF, WebP or TIFF is refused also if it has
            more than twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        InputError: `max_pixels` is below 1.
    """
    decoded = decode_reduced(data, None, max_pixels=max_pixels)
    return decoded if isinstance(decoded, DecodeFailure) else decoded.image


def decode_reduced(
    data: bytes, least_size: tuple[int, int] | None, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ReducedImage | DecodeFailure:
    """As `decode`, but decodes a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that is not below `least_size`.

    The decoder then computes fewer pixels, from the low frequencies of each block (libjpeg's scaled inverse DCT).

    Args:
        data: contents of the file.
        least_size: (width, height) of the upright image; None for the full size. Other formats are always decoded at full size.
        max_pixels: limit for the full size.

    Raises:
        InputError: `max_pixels` is below 1.
    """
    if max_pixels < 1:
        raise InputError(f"max_pixels is {max_pixels}; it is the largest width x height to decode, at least 1.")
    if not data:
        return DecodeFailure("empty", "The file holds no bytes.")
    try:
        with open_image(data, _readable_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                return DecodeFailure("too-large", f"{width} x {height} pixels; at most {max_pixels} are allowed.")
            if width < 1 or height < 1:
                return DecodeFailure("decode-error", f"The image has no pixels: {width} x {height}.")
            reduced = None
            if least_size is not None and isinstance(image, JpegImageFile):
                reduced = image.draft(None, least_size[::-1] if orientation_of(image) >= 5 else least_size)
            needed, allowed = decoding_bytes(image, data, (width, height)), max_pixels * BYTES_PER_PIXEL
            if needed > allowed:
                return DecodeFailure(
                    "too-large",
                    f"{width} x {height} pixels of {image.format} {image.mode} take {needed} bytes to decode; {allowed} are allowed "
                    f"({BYTES_PER_PIXEL} for each of {max_pixels} pixels).",
                )
            image.load()
            # After load(): a PNG stores its EXIF after the pixels, and the TIFF reader turns the image itself and then clears the tag.
            stored_width, stored_height = image.size if reduced is None else reduced[1][2:]
            orientation = orientation_of(image)
            rgb = _to_rgb(image)
            image.close()  # frees its pixels before they are copied again
        if (turn := _TRANSPOSITIONS.get(orientation)) is not None:
            rgb = rgb.transpose(turn)
        # Orientation and transparency have been applied; left in place, they would be applied a second time.
        rgb.info = {}
        return ReducedImage(rgb, _extent(rgb, stored_width, stored_height, orientation))
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES):
            return DecodeFailure(
                "decode-error",
                f"The file starts like an image, but its header is damaged or cut off ({len(data)} bytes).",
            )
        return DecodeFailure(
            "not-an-image",
            f"The {len(data)} bytes are in no supported image format ({', '.join(_readable_formats())}).",
        )
    except Image.DecompressionBombError as error:
        return DecodeFailure("too-large", f"{one_line(error)} PIL.Image.MAX_IMAGE_PIXELS is half of that limit.")
    except MemoryError:
        return DecodeFailure("too-large", "There is not enough memory to decode the image.")
    except Exception as error:  # on damaged data Pillow raises many kinds of exception, even AssertionError
        line = one_line(error)
        cut_off = isinstance(error, EOFError) or "truncated" in line.lower()
        return DecodeFailure("truncated" if cut_off else "decode-error", line)


def read_image(location: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
    """Reads and decodes one image. A file that cannot be read is a `DecodeFailure` too.

    Args:
        location: a local path or a URI, see `eet.storage.resolve`.
        max_pixels: see `decode`.

    Raises:
        InputError: `max_pixels` is below 1.
    """
    data = read_file(location)
    return data if isinstance(data, DecodeFailure) else decode(data, max_pixels=max_pixels)


def read_file(location: str) -> bytes | DecodeFailure:
    """The bytes at a local path or a URI, or why they cannot be read."""
    try:
        return read_bytes(location)
    except OSError as error:
        return DecodeFailure(_read_status(error), one_line(error))


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def as_shown(image: Image.Image) -> Image.Image:
    """Converts any PIL image to what `decode` returns: 8-bit RGB, upright, transparency laid over white, 16-bit values scaled to 8.

    An image that needs no conversion is returned itself.
    """
    image.load()  # a PNG stores its EXIF after the pixels
    turn = _TRANSPOSITIONS.get(orientation_of(image))
    if turn is None and image.mode == "RGB" and not image.has_transparency_data:
        return image
    return _to_rgb(image if turn is None else image.transpose(turn))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8 (EXIF 2.3, 4.6.4, tag 0x0112); 1, upright, where it is missing or invalid."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata is no reason to lose an image whose pixels are whole
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else 1


def _extent(image: Image.Image, width: float, height: float, orientation: int) -> tuple[float, float, float, float]:
    """The extent in an upright image, whose stored form had `width` x `height` valid pixels from its first corner on."""
    if orientation >= 5:
        width, height = height, width
    left = image.width - width if orientation in (2, 3, 6, 7) else 0.0
    top = image.height - height if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width, top + height


def _to_rgb(image: Image.Image) -> Image.Image:
    is_number = image.mode.startswith("I") or image.mode == "F"
    if not is_number and not image.has_transparency_data:
        return image.convert("RGB")
    # In strips, because each of the steps makes a copy.
    span = _span(image) if image.mode == "F" else (0.0, 0.0)
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        if is_number:
            strip = _to_grey8(strip, span)
        if strip.has_transparency_data:
            rgba = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rgb.paste(strip.convert("RGB"), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(top, strip) of an image, from top to bottom."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _floats(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _span(image: Image.Image) -> tuple[float, float]:
    """The values of a floating-point image that become black and white."""
    ends = [(float(values_HW.min()), float(values_HW.max())) for values_HW in (_floats(strip) for _, strip in _strips(image))]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return (0.0, 1.0) if 0.0 <= low and high <= 1.0 else (low, high)


def _to_grey8(image: Image.Image, span: tuple[float, float]) -> Image.Image:
    """Converts greys of 16 bits (modes I;16...), 32 bits (mode I, which Pillow also uses for 16-bit greys) or floats to 8 bits.

    span: of floats, the values that become black and white.
    """
    if image.mode == "F":
        low, high = span
        values_HW = _floats(image)
        grey_HW = np.rint((values_HW - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values_HW))
    else:
        # 65535 = 255 x 257, so this is the nearest 8-bit value
        grey_HW = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
    return Image.fromarray(grey_HW.astype(np.uint8))


def _read_status(error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "missing"
    # pyarrow reports a refusal by S3 as a plain OSError
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error):
        return "no-permission"
    if isinstance(error, IsADirectoryError) or error.errno == errno.ENODEV:
        return "not-a-file"
    return "bad-location" if error.errno == errno.EINVAL else "unreadable"
