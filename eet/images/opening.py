"""Opening an image with Pillow's readers, without the process-wide pixel limit of `Image.open`."""

import io
import logging
import re
import struct
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

# All readers are imported now, by one thread, not by several threads at their first image.
Image.init()
# A faulty TIFF is reported as a value; without a handler Python would also print Pillow's log line to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def open_image(data: bytes, formats: Sequence[str]) -> ImageFile:
    """Like `PIL.Image.open`, which reads the header only, but the caller must check the size. Thread-safe.

    Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`, is one number for the process. It belongs to the program that uses EET and stays as it
    is, so the readers are called without that check. Three readers (GIF, WebP and TIFF) check again by themselves, and refuse more than
    twice that number.

    Raises:
        UnidentifiedImageError: the data are in none of the formats.
        Exception: of almost any kind, on damaged data.
    """
    _silence_pillow()
    prefix = data[:16]
    for name in formats:
        reader, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(prefix)
            if accepted and not isinstance(accepted, str):  # a string names a missing library
                image = reader(io.BytesIO(data), "")
                assert isinstance(image, ImageFile)
                return image
        except (SyntaxError, IndexError, TypeError, struct.error):  # a reader's reaction to another format
            continue
    raise UnidentifiedImageError(f"in none of the formats {', '.join(formats)}")


def _silence_pillow() -> None:
    """Silences Pillow's warnings about broken EXIF and TIFF tags.

    `warnings.catch_warnings` would replace the filters of all threads, so a filter for Pillow's modules is installed once and stays.
    It is installed again if something, such as a test runner, has reset the filters.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
