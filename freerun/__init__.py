"""freerun: trigger-less data acquisition and online processing on Kafka and Dask."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`freerun.open` and the names a plug-in imports, loaded when they are asked for."""
    if name == "open":
        from freerun.app.open import open as open_run

        return open_run
    if name in ("Builder", "Events"):
        from freerun import builder

        return getattr(builder, name)
    if name in ("Driver", "Block"):
        from freerun import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'freerun' has no attribute {name!r}")
