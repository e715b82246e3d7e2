"""Who may talk to the server: host, token, origin, size; and what a browser may do with answers.

A page in the user's browser can send requests to 127.0.0.1, and a name under an attacker's control
can be made to point there. So each request must carry the token and a host name of this server,
and each one that could change something must come from a page of this server.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewmask.errors import Problem

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MEGABYTE = 1_000_000
MAX_BODY = 16 * MEGABYTE
MAX_UPLOAD = 100 * MEGABYTE
UPLOADS = "/api/tries"

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Set on every answer that does not set them itself."""

LOCKED_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>fewmask</title>
<h1>This page needs its token</h1>
<p>Open the address that <code>fewmask ui</code> has printed, or give its token here.</p>
<form method="get"><label>Token <input type="password" name="token" required autofocus></label>
<button>Open</button></form></html>"""


@dataclass(frozen=True)
class Rules:
    """What the gate asks for.

    Attributes:
        token: Secret that each request carries, as a cookie or ``Authorization: Bearer``.
        port: Of the server; part of the cookie's name, since cookies know no ports.
        hosts: Names by which the server may be called beside those of the loopback device.
        any_address: Whether an IP address in place of a name is right too. (No name can be made to
            point elsewhere where there is none.)
    """

    token: str
    port: int
    hosts: frozenset[str] = field(default_factory=frozenset)
    any_address: bool = False

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"fewmask-{self.port}"

    def knows_host(self, header: str) -> bool:
        """Whether a ``Host`` header names this server; behind a tunnel any port will do.

        >>> rules = Rules("token", 8000)
        >>> [rules.knows_host(h) for h in ("localhost:9000", "[::1]:8000", "evil.test", "")]
        [True, True, False, False]
        """
        found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]@/]+))(?::\d*)?", header.lower())
        if found is None:
            return False
        name = found[1] or found[2]
        return name in LOOPBACK | self.hosts or (self.any_address and _is_address(name))

    def is_token(self, text: str | None) -> bool:
        """Whether a text is the token, in a time that does not depend on it."""
        return text is not None and hmac.compare_digest(text.encode(), self.token.encode())


class Gate:
    """ASGI middleware that lets nothing else through.

    Args:
        app: What stands behind it.
        rules: What it asks for.
    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on; sockets other than HTTP are closed."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        limit = MAX_UPLOAD if scope["path"] == UPLOADS else MAX_BODY
        refusal = self._refusal(scope, limit)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        await self.app(scope, _counted(receive, limit), guarded)

    def _refusal(self, scope: Scope, limit: int) -> Response | None:
        headers, rules = Headers(scope=scope), self.rules
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not rules.knows_host(hosts[0]):
            return refused(403, "HOST", "Host header", hosts, "the name of this server",
                           "open the address that `fewmask ui` has printed")  # fmt: skip
        if scope["method"] == "GET" and b"token=" in scope["query_string"]:
            redirect = self._opened(scope)
            if redirect is not None:
                return redirect
        bearer = headers.get("authorization", "")
        by_header = bearer[:7].lower() == "bearer " and rules.is_token(bearer[7:])
        if not by_header and not rules.is_token(_cookie(headers.getlist("cookie"), rules.cookie)):
            if "text/html" in headers.get("accept", "") and scope["method"] == "GET":
                return HTMLResponse(LOCKED_PAGE, 401)
            return refused(401, "TOKEN", "request", "no token or a wrong one", "the token",
                           "open the address that `fewmask ui` has printed, or send it as "
                           "`Authorization: Bearer TOKEN`")  # fmt: skip
        if scope["method"] not in SAFE_METHODS:
            origins, own = headers.getlist("origin"), f"{scope['scheme']}://{hosts[0].lower()}"
            if [origin.lower() for origin in origins] != [own] and (origins or not by_header):
                return refused(403, "ORIGIN", "Origin header", origins, own,
                               "use the pages of this server, or a bearer token without Origin"
                               )  # fmt: skip
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return refused(400, "BODY", "Content-Length", length, "a number", "leave it out")
        return _answer(413, too_large(limit)) if int(length) > limit else None

    def _opened(self, scope: Scope) -> Response | None:
        """The answer to an address with the right token: a cookie, and the address without it."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and self.rules.is_token(value) for name, value in query):
            return None
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        path = "/" + quote(scope["path"].lstrip("/\\"))  # never a host after two slashes
        response = RedirectResponse(path + ("?" + rest if rest else ""), 303)
        response.set_cookie(
            self.rules.cookie, self.rules.token, httponly=True, samesite="strict", path="/"
        )
        return response


def refused(
    status: int, code: str, where: str, found: object, expected: str, fix: str
) -> JSONResponse:
    """An answer in the form of every other problem."""
    return _answer(status, Problem(code, where, str(found), expected, fix))


def _answer(status: int, problem: Problem) -> JSONResponse:
    return JSONResponse({"problems": [problem.as_dict()]}, status)


def too_large(limit: int) -> Problem:
    """What is wrong with a body that nobody will read."""
    return Problem("BODY-TOO-LARGE", "body", "more", f"at most {limit // MEGABYTE} MB",
                   "use the command line for larger files")  # fmt: skip


class TooLarge(HTTPException):
    """Found out while reading."""

    def __init__(self, limit: int) -> None:
        self.problem = too_large(limit)
        super().__init__(413, self.problem.found)


def _counted(receive: Receive, limit: int) -> Receive:
    """The body's parts until they are too many: a length need not be told, and may be a lie."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise TooLarge(limit)
        return message

    return counted


def _cookie(headers: Iterable[str], name: str) -> str | None:
    for header in headers:
        try:
            morsel = SimpleCookie(header).get(name)
        except CookieError:
            continue
        if morsel is not None:
            return morsel.value
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
