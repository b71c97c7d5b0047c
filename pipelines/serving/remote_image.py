"""Images at web addresses, which a query may name where `--url-queries` allows it.

Only public addresses are asked. The address that was checked is the one that is connected to, so that a name cannot point elsewhere in
between (DNS rebinding). Redirects are not followed, and no proxy, cookie or storage layer is used.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from contextlib import suppress
from threading import Timer
from typing import NamedTuple
from urllib.parse import urlsplit

from eet.errors import InputError

CONNECT_S, LONGEST_S = 5.0, 15.0
"""Seconds for a connection and for each piece of the answer, and for all of it."""
PIECE_BYTES = 2**16
PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _Address(NamedTuple):
    scheme: str
    host: str
    port: int
    target: str


def read_remote_image(url: str, *, max_bytes: int) -> bytes:
    """The bytes at a web address.

    Args:
        url: http:// or https://, of a host all of whose addresses are public.
        max_bytes: most bytes that are taken.

    Raises:
        InputError: the address is not allowed, does not answer in time, or answers with something else than a file of this size.
    """
    address = _parsed(url)
    connection = _Connection(address, _public_address(address))
    started, stop = time.monotonic(), Timer(LONGEST_S, connection.stop)
    stop.daemon = True
    stop.start()
    try:
        connection.request("GET", address.target, headers={"Accept": "image/*", "User-Agent": "eet", "Connection": "close"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise InputError(f"{address.host} answers with status {answer.status}: give the address of the image itself")
        taken = bytearray()
        while piece := answer.read1(PIECE_BYTES):
            taken += piece
            if len(taken) > max_bytes:
                raise InputError(f"the file at {address.host} is too large: at most {max_bytes} bytes are taken")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{address.host} cannot be read ({type(error).__name__}): save the image, and give the file") from error
    finally:
        stop.cancel()
        connection.close()
    if time.monotonic() - started >= LONGEST_S:
        raise InputError(f"{address.host} took longer than {LONGEST_S:g} seconds: save the image, and give the file")
    return bytes(taken)


def _parsed(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url!r:.200} is no web address: {error}") from error
    if scheme not in PORTS or not host:
        raise InputError(f"{url!r:.200} is no web address: use http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise InputError("the web address holds a name or password: leave it out")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(ord(letter) <= 32 for letter in target):
        raise InputError("the web address has letters that must be escaped (%20 for a space)")
    return _Address(scheme, host, port or PORTS[scheme], target)


def _public_address(address: _Address) -> str:
    """The address to connect to. InputError unless all addresses of the host are public."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"no address is known for the host {address.host!r:.200}") from error
    numbers = [str(entry[4][0]) for entry in found]
    if not numbers or not all(map(is_public, numbers)):
        raise InputError(f"the host {address.host!r:.200} is not public: only images on public hosts are read; give the file")
    return numbers[0]


def is_public(number: str) -> bool:
    """Whether an IP address is one of the public internet, also where it holds an IPv4 address."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        held = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        held += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
        if not all(is_public(str(one)) for one in held if one is not None):
            return False
        if address.ipv4_mapped is not None:
            return True
    return address.is_global and not address.is_multicast


class _Connection(http.client.HTTPConnection):
    """A connection to one address, which names the host in the request and checks its certificate."""

    def __init__(self, address: _Address, number: str) -> None:
        super().__init__(address.host, address.port, timeout=CONNECT_S)
        self._secure, self._number = address.scheme == "https", number
        self.default_port = PORTS[address.scheme]

    def connect(self) -> None:
        self.sock = socket.create_connection((self._number, self.port), timeout=CONNECT_S)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def stop(self) -> None:
        """Ends a read that waits, from another thread."""
        with suppress(OSError, AttributeError):  # not connected
            self.sock.shutdown(socket.SHUT_RDWR)
