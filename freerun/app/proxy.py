"""A port in front of another one, to be cut and mended: how a network between two fails.

Kafka clients follow the addresses that the broker advertises, so a broker that is to be behind
it needs a listener that advertises the proxy's port:

    inner = free_port()
    with Proxy(inner) as proxy:
        local = broker.start(folder, second=SecondListener(inner, proxy.port))
        ...  # `local.address` is the direct way, `proxy.address` the one that can be cut
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

from freerun.broker import free_port

_HOST = "127.0.0.1"
_BYTES = 1 << 18


class Proxy:
    """Listens on a free port of 127.0.0.1 (`port`) and passes everything on to `target` there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self._listener = socket.create_server((_HOST, self.port))
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._links: set[tuple[socket.socket, socket.socket]] = set()
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"{_HOST}:{self.port}"

    def cut(self) -> None:
        """End every connection, in the middle of whatever it says; new ones are refused."""
        with self._lock:
            self._open.clear()
            _end(self._listener)  # it stays bound: the port is ours, and nobody listens there
            for pair in self._links:
                for link in pair:
                    _end(link)

    def mend(self) -> None:
        """New connections go through again."""
        with self._lock:
            if not self._open.is_set():
                self._listener.listen()
                self._open.set()

    def close(self) -> None:
        """End every connection and free the port; waits for the threads."""
        self._closed = True
        self.cut()
        self._open.set()  # nobody waits for it any more
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _accept(self) -> None:
        while self._open.wait() and not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue  # one that gave up before it was accepted, a cut, or the end
            self._threads = [t for t in self._threads if t.is_alive()]
            try:
                server = socket.create_connection((_HOST, self.target), 5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._join(client, server)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        for link in (client, server):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (client, server)
        with self._lock:
            if not self._open.is_set():
                client.close()
                server.close()
                return
            self._links.add(pair)
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)

        def forth() -> None:
            back.start()
            _pass_on(client, server)
            back.join()
            with self._lock:
                self._links.discard(pair)
            client.close()
            server.close()

        thread = threading.Thread(target=forth, name="proxy link", daemon=True)
        self._threads.append(thread)
        thread.start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Bytes from one to the other, until either ends; then both do."""
    room = memoryview(bytearray(_BYTES))
    with contextlib.suppress(OSError):
        while n := source.recv_into(room):
            sink.sendall(room[:n])
    _end(source)
    _end(sink)


def _end(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
