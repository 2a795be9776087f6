"""The proxy that stands for a network: what it passes on, and what a cut does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from freerun.app.proxy import Proxy


@contextmanager
def echo() -> Iterator[int]:
    """A server that says everything back; its port."""

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                try:
                    while got := link.recv(65536):
                        link.sendall(got)
                except OSError:
                    continue

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def call(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 10)


def ask(link: socket.socket, text: bytes) -> bytes:
    link.sendall(text)
    got = b""
    while len(got) < len(text):
        chunk = link.recv(65536)
        if not chunk:
            raise ConnectionError("closed")
        got += chunk
    return got


def test_what_goes_in_comes_out_until_it_is_cut_and_again_when_it_is_mended() -> None:
    with echo() as port, Proxy(port) as proxy:
        text = bytes(range(256)) * 4096
        with call(proxy) as link:
            assert ask(link, text[:70_000]) == text[:70_000]
            proxy.cut()
            with pytest.raises(OSError):
                while True:
                    ask(link, b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            call(proxy)
        proxy.mend()
        with call(proxy) as link:
            assert ask(link, text[:70_000]) == text[:70_000]


def test_a_port_behind_which_nobody_listens_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = int(taken.getsockname()[1])
    with Proxy(nobody) as proxy, call(proxy) as link:
        assert link.recv(1) == b""


def test_close_frees_the_port_and_ends_the_threads() -> None:
    with echo() as port:
        proxy = Proxy(port)
        with call(proxy) as link:
            assert ask(link, b"here") == b"here"
            proxy.close()
            assert link.recv(1) == b""
        with pytest.raises(OSError):
            call(proxy)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("proxy")]
