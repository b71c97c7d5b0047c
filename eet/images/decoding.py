"""From a location or from bytes to an RGB image as a person sees it. A picture that cannot be read is a value, not an
exception.

Among a hundred million pictures some are cut off, empty, mislabelled or hostile. Each becomes a `DecodeFailure`, which
an encode job stores as the row's status, so that one bad picture neither stops the job nor disappears from it.
"""

import errno
import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from eet.errors import InputError
from eet.images.opening import open_image
from eet.storage import one_line, read_bytes

DEFAULT_MAX_PIXELS = 200_000_000

# Raster photographs only: some of Pillow's other readers start programs (EPS calls Ghostscript) or render at a size of
# their choice.
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
    """Why there is no image.

    `status`: a short reason, one of missing, no-permission, not-a-file, bad-location, unreadable (the file could not be
    read); empty, not-an-image, truncated, too-large, decode-error (its contents could not be decoded). `error`: one
    line of UTF-8 text for a person; the same bytes always give the same line.
    """

    status: str
    error: str


class ReducedImage(NamedTuple):
    """A picture, perhaps decoded at a fraction of its size. extent: (left, top, right, bottom) that it takes of the image, in the image's
    pixels: at a half, a picture 1001 wide fills 500.5 of 501 columns.
    """

    image: Image.Image
    extent: tuple[float, float, float, float]


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
    """Decode the bytes of a picture file into an 8-bit RGB image, as a viewer would show it.

    The first frame, turned as its EXIF orientation says, transparency laid over white, 16-bit values scaled to 8,
    floating-point values taken as 0 to 1 where they lie there and stretched from their least to their greatest where
    not; grey, palette and CMYK converted. Colour profiles are not applied, as in the training pipelines of the
    published models.

    Reads JPEG, MPO, PNG, GIF, WebP, TIFF, BMP, JPEG 2000, AVIF (where Pillow has it) and PPM. A picture of more than
    `max_pixels` (width x height, by its header) is refused before it is decoded; a GIF, a WebP and a TIFF also if
    it has more than twice `PIL.Image.MAX_IMAGE_PIXELS`. Bad data never raises and never warns. Safe in several threads.

    Raises ValueError only for a `max_pixels` below 1.
    """
    decoded = decode_reduced(data, None, max_pixels=max_pixels)
    return decoded if isinstance(decoded, DecodeFailure) else decoded.image


def decode_reduced(
    data: bytes, least_size: tuple[int, int] | None, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ReducedImage | DecodeFailure:
    """As `decode`, but a JPEG at the least of 1, 1/2, 1/4 and 1/8 of its size that is not below `least_size` (width, height, upright).

    The decoder then computes only so many pixels, from the low frequencies of each block (libjpeg's scaled inverse DCT). `max_pixels` is of
    the full size. None, and any other format: the full size.
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
                return DecodeFailure("decode-error", f"The picture has no pixels: {width} x {height}.")
            reduced = None
            if least_size is not None and isinstance(image, JpegImageFile):
                reduced = image.draft(None, least_size[::-1] if orientation_of(image) >= 5 else least_size)
            image.load()
            # After load(): a PNG keeps its EXIF behind the pixels, and the TIFF reader turns the image itself and then clears the tag.
            stored_width, stored_height = image.size if reduced is None else reduced[1][2:]
            orientation = orientation_of(image)
            turn = _TRANSPOSITIONS.get(orientation)
            rgb = _to_rgb(image if turn is None else image.transpose(turn))
        # Orientation and transparency are spent: left in place, the next reader of this image would apply them a second
        # time.
        rgb.info = {}
        return ReducedImage(rgb, _extent(rgb, stored_width, stored_height, orientation))
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES):
            return DecodeFailure(
                "decode-error",
                f"The file starts as a picture does, but its header is damaged or cut off ({len(data)} bytes).",
            )
        return DecodeFailure(
            "not-an-image",
            f"The {len(data)} bytes are in no picture format that is read here ({', '.join(_readable_formats())}).",
        )
    except Image.DecompressionBombError as error:
        return DecodeFailure("too-large", f"{one_line(error)} PIL.Image.MAX_IMAGE_PIXELS is half of that limit.")
    except MemoryError:
        return DecodeFailure("too-large", "There is not enough memory to decode the picture.")
    except Exception as error:  # Pillow's readers raise almost anything on damaged data, AssertionError included
        line = one_line(error)
        cut_off = isinstance(error, EOFError) or "truncated" in line.lower()
        return DecodeFailure("truncated" if cut_off else "decode-error", line)


def read_image(location: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
    """Read and decode one picture from a local path or a URI (see `resolve`). Failing to read is a `DecodeFailure` too.

    Raises ValueError only for a `max_pixels` below 1.
    """
    data = read_file(location)
    return data if isinstance(data, DecodeFailure) else decode(data, max_pixels=max_pixels)


def read_file(location: str) -> bytes | DecodeFailure:
    """The bytes at a local path or a URI, or why there are none."""
    try:
        return read_bytes(location)
    except OSError as error:
        return DecodeFailure(_read_status(error), one_line(error))


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def as_shown(image: Image.Image) -> Image.Image:
    """Any PIL image in 8-bit RGB, as `decode` gives it: upright, transparency laid over white, 16-bit values scaled to 8. One that is so
    already is returned itself.
    """
    image.load()  # a PNG keeps its EXIF behind the pixels
    turn = _TRANSPOSITIONS.get(orientation_of(image))
    if turn is None and image.mode == "RGB" and not image.has_transparency_data:
        return image
    return _to_rgb(image if turn is None else image.transpose(turn))


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them (EXIF 2.3, 4.6.4, tag 0x0112); 1, upright, where nothing says otherwise."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata is no reason to lose a picture whose pixels are whole
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else 1


def _extent(image: Image.Image, width: float, height: float, orientation: int) -> tuple[float, float, float, float]:
    """Of an upright image whose stored form is `width` x `height` from its first corner on, which turning may have moved."""
    if orientation >= 5:
        width, height = height, width
    left = image.width - width if orientation in (2, 3, 6, 7) else 0.0
    top = image.height - height if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width, top + height


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_grey8(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _to_grey8(image: Image.Image) -> Image.Image:
    """16-bit (mode I;16 and its kin), 32-bit integer (mode I: Pillow puts 16-bit greys there too) or float greys, as
    8-bit greys.
    """
    values_HW = np.asarray(image)
    if image.mode == "F":
        values_HW = np.nan_to_num(values_HW.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values_HW.min()), float(values_HW.max())
        if 0.0 <= low and high <= 1.0:
            low, high = 0.0, 1.0
        grey_HW = np.rint((values_HW - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values_HW))
    else:
        # 65535 = 255 x 257, so this is the nearest 8-bit value
        grey_HW = (np.clip(values_HW, 0, 65535).astype(np.uint32) + 128) // 257
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
