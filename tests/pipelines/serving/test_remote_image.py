"""Images at web addresses: only public hosts are asked, and never more is read than allowed."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eet.errors import InputError
from pipelines.serving import remote_image
from pipelines.serving.remote_image import is_public, read_remote_image

PUBLIC = "93.184.215.14"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/")
            self.end_headers()
        elif self.path == "/slow":
            while not self.server.ended.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"H")
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{self.headers['Host']} {self.path}".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def connected_to(monkeypatch) -> Iterator[list[tuple[str, int]]]:
    """Every host has a public address, and every connection ends at a server of the test. Yields the addresses that were asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.ended = True, threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # ends as soon as it is asked to
    asked: list[tuple[str, int]] = []

    def connect_here(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        own = socket.socket()
        own.settimeout(timeout)
        own.connect(server.server_address)
        return own

    monkeypatch.setattr(remote_image.socket, "getaddrinfo", lambda host, port, type: [(0, 0, 0, "", (PUBLIC, port))])
    monkeypatch.setattr(remote_image.socket, "create_connection", connect_here)
    yield asked
    server.ended.set()  # type: ignore[attr-defined]
    server.shutdown()


def test_the_checked_address_is_the_one_that_is_asked(connected_to):
    assert read_remote_image("http://birds.example:8080/a.jpg?size=2#x", max_bytes=100) == b"birds.example:8080 /a.jpg?size=2"
    assert read_remote_image("http://birds.example", max_bytes=100) == b"birds.example /"
    assert connected_to == [(PUBLIC, 8080), (PUBLIC, 80)]


def test_what_is_no_image_of_this_size_is_refused(connected_to, monkeypatch):
    with pytest.raises(InputError, match="at most 10 bytes"):
        read_remote_image("http://birds.example/a.jpg", max_bytes=10)
    with pytest.raises(InputError, match="status 302"):
        read_remote_image("http://birds.example/moved", max_bytes=100)
    monkeypatch.setattr(remote_image, "LONGEST_S", 0.5)
    with pytest.raises(InputError, match=r"birds.example (took longer|cannot be read)"):
        read_remote_image("http://birds.example/slow", max_bytes=100)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "s3://bucket/a.jpg", "ftp://birds.example/a", "/etc/passwd", "birds.example/a.jpg", "http://", "http://[::1",
        "http://user:secret@birds.example/a.jpg", "http://birds.example/a b.jpg", "http://birds.example/a\r\nHost: other", "http://birds.example:99999/",
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused_before_anyone_is_asked(connected_to, url):
    with pytest.raises(InputError) as refused:
        read_remote_image(url, max_bytes=100)
    assert connected_to == [] and "secret" not in str(refused.value)


@pytest.mark.parametrize("numbers", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:169.254.169.254"], ["fe80::1%eth0"], []])
def test_a_host_with_an_address_that_is_not_public_is_refused(connected_to, monkeypatch, numbers):
    monkeypatch.setattr(remote_image.socket, "getaddrinfo", lambda host, port, type: [(0, 0, 0, "", (one, port)) for one in numbers])
    with pytest.raises(InputError, match="is not public"):
        read_remote_image("https://birds.example/a.jpg", max_bytes=100)
    assert connected_to == []


@pytest.mark.parametrize(
    ("number", "public"),
    [
        (PUBLIC, True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True),
        ("127.0.0.1", False), ("0.0.0.0", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("100.64.0.1", False),
        ("169.254.169.254", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False), ("fc00::1", False),
        ("fe80::1%eth0", False), ("ff02::1", False), ("::ffff:127.0.0.1", False), ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False),
    ],
)  # fmt: skip
def test_public_addresses(number, public):
    assert is_public(number) == public
