"""Free ports on 127.0.0.1 that stay free for us while the broker is down."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def free_port(other_than: int = 0) -> int:
    """A free port below the kernel's range for outgoing connections.

    A port inside that range may be taken while the broker restarts, even by a client that tries
    to reach it: a connection to one's own address can be given that very port as its source.
    """
    ceiling = min(_first_outgoing(), 32_768)
    for port in random.sample(range(19_000, ceiling), 500):
        if port != other_than and is_free(port):
            return port
    with socket.socket() as any_port:  # a crowded machine, or an unusual range
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _first_outgoing() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
    return first if first > 20_000 else 32_768
