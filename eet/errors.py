"""Errors that are the user's to mend. Each says what was given, what is allowed, and what to do. Any other exception is a fault of EET."""


class EetError(Exception):
    """What the user can mend. The command line shows its message without a traceback."""


class InputError(EetError, ValueError):
    """A value, a file or a combination of them that cannot be used."""


class NotFoundError(EetError, FileNotFoundError):
    """A file or folder that was named and is not there."""


class DamagedError(EetError, ValueError):
    """Something that EET wrote and that is not whole any more."""
