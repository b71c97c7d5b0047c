"""Errors that the user can correct. Each message says what was given, what is allowed, and what to do.

Any other exception is a bug in EET.
"""


class EetError(Exception):
    """A mistake that the user can correct. The command line prints its message without a traceback."""


class InputError(EetError, ValueError):
    """An invalid value or file, or a combination of values that cannot be used together. Also a ValueError."""


class NotFoundError(EetError, FileNotFoundError):
    """A named file or folder does not exist. Also a FileNotFoundError."""


class DamagedError(EetError, ValueError):
    """Data written by EET is incomplete or was changed since. Also a ValueError."""
