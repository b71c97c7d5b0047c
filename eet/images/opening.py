"""Opening an image by Pillow's readers, without the limit of pixels that `Image.open` has for the whole process."""

import io
import logging
import re
import struct
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

# All readers are imported now, by one thread, and not by the first images of several.
Image.init()
# A faulty TIFF is reported as a value; without a handler Python would also print Pillow's log line on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def open_image(data: bytes, formats: Sequence[str]) -> ImageFile:
    """As `PIL.Image.open`, which reads a header and no pixel, but the caller checks the size.

    Pillow's own limit is one number for the process, `PIL.Image.MAX_IMAGE_PIXELS`, half refusal and half warning. It belongs to the
    program that uses EET and is left as it is, so the readers are called without the check. Three readers make the check again by
    themselves (GIF, WebP and TIFF), and then refuse more than twice that number. Safe in several threads.

    Raises UnidentifiedImageError where the data are in none of the formats, and almost anything on damaged data.
    """
    _silence_pillow()
    prefix = data[:16]
    for name in formats:
        reader, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(prefix)
            if accepted and not isinstance(accepted, str):  # a sentence says which library is missing
                image = reader(io.BytesIO(data), "")
                assert isinstance(image, ImageFile)
                return image
        except (SyntaxError, IndexError, TypeError, struct.error):  # what a reader says of another format
            continue
    raise UnidentifiedImageError(f"in none of the formats {', '.join(formats)}")


def _silence_pillow() -> None:
    """Pillow warns of broken EXIF and TIFF tags. `warnings.catch_warnings` would swap the process's filters under the
    other threads, so the filter for Pillow's modules is put in place once and left there; the check finds it gone where
    a test runner has reset the filters.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
