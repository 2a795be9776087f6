"""The kernel's cache of files as it is on a machine that has taken data for some minutes."""

from __future__ import annotations

from pathlib import Path

import psutil

KEEP_FREE = 400 << 20  # bytes that the kernel may keep for its own needs


def fill_page_cache(zeros: Path) -> None:
    """Leave the kernel no free memory but what it takes from its cache of files.

    A machine that has taken data for some minutes is in this state: new pages of files come from
    old ones. Until then a virtual machine asks its host for each page that it touches first,
    which costs more than all the rest (docs/performance.md). `zeros` takes no room on the disk.
    """
    size = psutil.virtual_memory().free
    with zeros.open("wb") as file:
        file.truncate(size)
    with zeros.open("rb", buffering=0) as file:
        room = memoryview(bytearray(1 << 20))
        while file.readinto(room) and psutil.virtual_memory().free > KEEP_FREE:
            pass
