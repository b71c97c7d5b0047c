"""Failures of a job, and whose fault an error is."""

import errno

from eet.errors import EetError

# For example a full disk, a folder without write permission or a name that is too long: a traceback would not help.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


class JobFailed(EetError):
    """A job ended early. The message gives the reason and what to do."""


def is_the_users(error: BaseException | None) -> bool:
    """Whether the user can correct the error; otherwise it is a bug in EET, and the traceback is shown."""
    return isinstance(error, EetError) or (isinstance(error, OSError) and error.errno in _REFUSED)
