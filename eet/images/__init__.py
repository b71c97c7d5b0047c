"""Pictures: decoding (an error is a value) and the preprocessing record."""

from eet.images.decoding import DecodeFailure, decode, read_bytes, read_image
from eet.images.preprocessing import Preprocessing

__all__ = ["DecodeFailure", "Preprocessing", "decode", "read_bytes", "read_image"]
