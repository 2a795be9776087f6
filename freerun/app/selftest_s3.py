"""A store that speaks as much of S3 as the writer's uploads need, and can be down.

It keeps no bodies: their SHA-256 is what is compared.
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from freerun.broker import free_port

_CHUNK = 1 << 20


class Store:
    """`up` and `down`; `keys`: what is there, each with its SHA-256."""

    def __init__(self) -> None:
        self.port = free_port()
        self.keys: dict[str, str] = {}
        self._told: dict[str, str] = {}  # the sha256 that the uploader says
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()

    def up(self) -> None:
        if self._server is None:
            self._server = _Server(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """From now on nobody listens there."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def put(self, key: str, digest: str, told: str | None, only_new: bool) -> int:
        with self._lock:
            if only_new and key in self.keys:
                return 412
            self.keys[key] = digest
            if told is not None:
                self._told[key] = told
            return 200

    def told(self, key: str) -> str | None:
        return self._told.get(key)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # only then a body is asked for at once

            def do_PUT(self) -> None:
                left = int(self.headers.get("Content-Length", 0))
                digest = hashlib.sha256()
                while left > 0:
                    chunk = self.rfile.read(min(left, _CHUNK))
                    if not chunk:
                        return
                    digest.update(chunk)
                    left -= len(chunk)
                only_new = self.headers.get("If-None-Match") == "*"
                told = self.headers.get("x-amz-meta-sha256")
                self._say(store.put(self._key(), digest.hexdigest(), told, only_new))

            def do_HEAD(self) -> None:
                known = store.told(self._key())
                extra = {"x-amz-meta-sha256": known} if known is not None else {}
                self._say(200 if self._key() in store.keys else 404, extra)

            def _key(self) -> str:
                return self.path.partition("?")[0].lstrip("/").partition("/")[2]

            def _say(self, code: int, extra: dict[str, str] | None = None) -> None:
                self.send_response(code)
                for name, value in (extra or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.send_header("Connection", "close")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
