"""Does a Kafka broker answer at an address? Asked with one request on a bare socket.

A client library would also log and retry by itself while the broker is still starting, and it
costs more to import than this question costs to ask.
"""

from __future__ import annotations

import socket
import struct

_METADATA, _VERSION = 3, 4


def brokers_at(address: str, timeout: float = 1.0) -> int:
    """How many live brokers the cluster at `host:port` counts; 0 if nothing answers.

    A broker that listens but has not joined its cluster yet counts nobody, so 1 means ready.
    Several addresses, with commas, are tried in turn. Plain TCP only.
    """
    for one in address.split(","):
        host, _, port = one.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout) as link:
                return _ask(link)
        except (OSError, ValueError, struct.error):
            continue
    return 0


def _ask(link: socket.socket) -> int:
    name = b"freerun"
    header = struct.pack(f">hhih{len(name)}s", _METADATA, _VERSION, 1, len(name), name)
    request = header + struct.pack(">i?", 0, False)  # about no topic, and create none
    link.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(link, 4))
    if not 12 <= size <= 1 << 20:
        raise ValueError("not a Kafka broker")
    correlation, _throttle, brokers = struct.unpack_from(">iii", _exactly(link, size))
    if correlation != 1:
        raise ValueError("not a Kafka broker")
    return int(brokers)


def _exactly(link: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        chunk = link.recv(size - len(got))
        if not chunk:
            raise OSError("closed by the other side")
        got += chunk
    return bytes(got)
