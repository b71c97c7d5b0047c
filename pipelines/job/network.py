"""Whether a server answers: checked before work starts, as libraries try for minutes, and report the failure by a traceback."""

import socket

CONNECT_S = 5.0
"""Seconds in which a server must accept a connection."""


def why_unreachable(host: str, port: int) -> str | None:
    """Why no connection to a server is possible; None where it accepts one."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        return str(error)
    return None
