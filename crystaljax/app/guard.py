"""Who may ask the server: whoever knows its address, from this machine.

Every address begins with a token that is drawn when the server starts. A page of
another site does not know it. Should it learn of it, it can send nothing that changes
anything, since that needs the token in a header too, which browsers let no other site
set; and a name of its own that leads to this machine (DNS rebinding) is no name of
this machine.
"""

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

TOKEN_HEADER = "x-crystaljax-token"
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
# No script but the page's own, no request to anywhere else, in no frame of others.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The report of a screening is a page by itself, with a policy of its own inside; here
# it may not even see the address that it is at.
REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'none'"
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def make_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """An ASGI application that lets requests with the token through to another."""

    def __init__(self, app: _App, token: str):
        self._app = app
        self._token = token

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answers a request, or refuses it with status 403."""
        if scope["type"] != "http":
            # The server's start and end; there are no web sockets.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in given
                    ),
                ]
            await send(message)

        problem, path = self._check(scope)
        if problem:
            await _refuse(problem, send_with_headers)
            return
        # The rest of the application knows of no token.
        inner = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(inner, receive, send_with_headers)

    def _check(self, scope: _Scope) -> tuple[str, str]:
        """Why a request is refused, "" if it is not; and its path without the token."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            return "this page is served to this machine alone", ""
        token, _, rest = scope["path"].removeprefix("/").partition("/")
        if not self._is_token(token):
            return "open the address that `crystaljax app` printed", ""
        if scope["method"] not in ("GET", "HEAD"):
            if not self._is_token(headers.get(TOKEN_HEADER, "")):
                return f"expected the token in the header {TOKEN_HEADER}", ""
            origin = headers.get("origin")
            if origin is not None and origin != f"http://{host}":
                return "the request comes from another site", ""
        return "", f"/{rest}"

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


async def _refuse(problem: str, send: _Send) -> None:
    body = f"403: {problem}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
