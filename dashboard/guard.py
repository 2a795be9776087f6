"""Who may ask: this machine's own pages and tools, not a page of somebody else in the browser."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN"))


class Guard:
    """ASGI middleware. A foreign Host (DNS rebinding), a foreign Origin, and a POST that is not
    JSON (which a form of a foreign page can send unasked) are refused with a sentence.

    `hosts` are the names by which the server may be called; empty means any.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] = LOCAL) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        status, text = refuse(scope.get("method", "GET"), headers, self._hosts)
        if not text:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            refusal = JSONResponse({"ok": False, "text": text}, status_code=status)
            await refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4003, "reason": text})


def refuse(method: str, headers: dict[str, str], hosts: frozenset[str]) -> tuple[int, str]:
    """Status and sentence of a refusal; an empty sentence lets the request pass. Pure."""
    host = headers.get("host", "")
    if hosts and (urlsplit(f"//{host}").hostname or "") not in hosts:
        return 403, f"the dashboard is not called {host[:100]!r}: use http://127.0.0.1:PORT"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return 403, "pages of other sites may not use this dashboard"
    if method in ("POST", "PUT", "PATCH", "DELETE"):
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "send JSON, with the header Content-Type: application/json"
    return 200, ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return sending
