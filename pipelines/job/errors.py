"""Failures that are shown to the user as one message, without a traceback."""


class JobFailed(Exception):
    """A failure with one clear message for the user; no traceback is shown."""
