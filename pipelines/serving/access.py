"""Who may ask, and the headers of every answer.

Without a token only this machine may ask: the name of the host in a request must be one of this machine's, so that a page elsewhere cannot
point a name of its own here (DNS rebinding). With a token, each request needs it, or the cookie that the login form sets.
"""

import base64
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eet.errors import InputError

COOKIE = "eet_session"
LOGIN = "/login"
OPEN_PATHS = ("/healthz", "/readyz", LOGIN)
"""Paths that need no token: a probe has none."""
LEAST_TOKEN = 16
"""Characters of the shortest token."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKEN = re.compile(rf"[\x21-\x7e]{{{LEAST_TOKEN},}}")


def read_token(file: str) -> str:
    """The token in a file. InputError where others may read the file, or it holds no token."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
        with open(descriptor, encoding="utf-8") as opened:
            status = os.fstat(descriptor)
            mode = stat.S_IMODE(status.st_mode)
            token = opened.read(10_000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file} cannot be read: {error}") from error
    # Kubernetes mounts a Secret as a file of root that the pod's own group may read: who runs as another user has no other way to read it.
    of_others = 0o037 if status.st_uid == 0 != os.geteuid() else 0o077
    if mode & of_others:
        raise InputError(f"--token-file {file} has mode {mode:04o}, so that others can read it: chmod 600 {file}")
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"--token-file {file} holds no token: write one line of {LEAST_TOKEN} or more letters, digits or signs into it, such as "
            f"`python -c 'import secrets; print(secrets.token_urlsafe(32))' > {file}`"
        )
    return token


class Token:
    """A token that requests are compared with, in constant time."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.cookie = hmac.new(self._token, b"eet serve: cookie of the page", hashlib.sha256).hexdigest()
        """The value of the cookie: known only to who knows the token, which it does not reveal."""

    def is_right(self, given: str) -> bool:
        return hmac.compare_digest(self._token, given.encode())

    def admits(self, headers: Headers) -> bool:
        """Whether a request has the token (`Authorization: Bearer TOKEN`) or the cookie."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_right(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(self.cookie.encode(), cookie.value.encode())


class Access:
    """ASGI middleware: refuses requests that may not ask, and adds the security headers.

    Args:
        app: what it protects.
        token: None to admit requests of this machine only.
        hosts: further names of this machine, where there is no token.
        policy: Content-Security-Policy of the page.
        login_page: shown in place of the page to who has no cookie.
        on_answer: called with the request's scope and the status of the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: Token | None,
        hosts: Iterable[str] = (),
        policy: str,
        login_page: str,
        on_answer: Callable[[Scope, int], object],
    ) -> None:
        self._app, self._token, self._on_answer = app, token, on_answer
        self._hosts = {*LOOPBACK, *hosts}
        self._login_page = login_page
        self._headers = {
            "content-security-policy": policy,
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
                self._on_answer(scope, message["status"])
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._token is None and _hostname(host) not in self._hosts:
            return _refused(421, f"this server does not answer to the name {host!r:.100}")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return _refused(403, "this request comes from a page of another site")
        if headers.get("sec-fetch-site") == "cross-site" and path != "/":
            return _refused(403, "this request comes from a page of another site")
        if self._token is None or path in OPEN_PATHS or self._token.admits(headers):
            return None
        if path == "/":
            return HTMLResponse(self._login_page, 401)
        return _refused(401, "give the token: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})


def content_policy(html: str) -> str:
    """The Content-Security-Policy of a page whose only scripts and styles are those in it."""
    inline = {kind: _hashes(html, kind) for kind in ("script", "style")}
    return (
        f"default-src 'none'; script-src {inline['script']}; style-src {inline['style']}; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, kind: str) -> str:
    found = re.findall(rf"<{kind}>(.*?)</{kind}>", html, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)
