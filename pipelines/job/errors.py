"""Failures of a job."""

from eet.errors import EetError


class JobFailed(EetError):
    """A job ended early. The message gives the reason and what to do."""
