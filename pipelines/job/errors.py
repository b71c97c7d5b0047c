"""Failures of a job."""

from eet.errors import EetError


class JobFailed(EetError):
    """A job that ended early, with one clear message for the user."""
