"""The address of a Ray cluster: whether one is connected and whether one answers, without importing Ray."""

import sys
from urllib.parse import urlsplit

from eet.errors import InputError
from pipelines.job.network import why_unreachable

CLIENT_PORT = 10001
"""The port of ray://HOST, by Ray's convention."""


def is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def check_address(address: str) -> None:
    """InputError where nothing answers at HOST:PORT or ray://HOST:PORT, after seconds: Ray itself tries for minutes.

    Jobs call it before long work that precedes `connected`.
    """
    scheme, separator, rest = address.rpartition("://")
    if is_connected() or (separator and scheme != "ray"):
        return
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or (CLIENT_PORT if separator else None)
    except ValueError as error:
        raise InputError(f"--address {address}: {error}. Use 'local' for this machine, or HOST:PORT") from error
    if host and port and (reason := why_unreachable(host, port)):
        raise InputError(f"nothing answers at --address {address} ({reason}): start a Ray cluster there, or use --address local")
