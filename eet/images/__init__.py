"""Images: decoding (errors are returned as values) and the preprocessing record."""

from eet.images.decoding import DecodeFailure, decode, read_file, read_image
from eet.images.device_jpeg import DeviceJpegDecoder, OrdinaryJpeg, ordinary_jpeg
from eet.images.preprocessing import Preprocessing
from eet.options.choices import Fit

__all__ = [
    "DecodeFailure",
    "DeviceJpegDecoder",
    "Fit",
    "OrdinaryJpeg",
    "Preprocessing",
    "decode",
    "ordinary_jpeg",
    "read_file",
    "read_image",
]
