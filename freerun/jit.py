"""The one way a kernel is compiled: typed, cached, without the GIL."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

KEEP = 4  # caches of earlier sources


def _cache_folder() -> Path:
    """A folder of compiled code for exactly these sources.

    numba notices a change only in the file that holds a kernel, not in a kernel that it calls
    from another file; two processes could then disagree. So the sources' hash names the folder.
    """
    home = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(numba.__version__.encode())
    for package in ("freerun", "producers", "processors"):
        for path in sorted((home / package).rglob("*.py")):
            text = path.read_bytes()
            if b"@kernel" in text or path.name in ("builder.py", "words.py"):
                digest.update(text)
    cache = Path(os.environ.get("FREERUN_CACHE") or Path.home() / ".cache" / "freerun")
    return cache / "kernels" / digest.hexdigest()[:16]


def _forget_old(folder: Path) -> None:
    """Remove the caches of sources long gone; the newest few stay."""
    try:
        others = sorted(folder.parent.iterdir(), key=lambda f: f.stat().st_mtime)
        for old in others[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        pass  # another process tidies up at the same time, or nothing is there yet


if "NUMBA_CACHE_DIR" not in os.environ:
    _folder = _cache_folder()
    if not _folder.exists():
        _forget_old(_folder)
    numba.config.CACHE_DIR = str(_folder)  # type: ignore[attr-defined]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with numba; its plain Python meaning stays at `.py_func`.

    The compiled code is cached on disk, so a second process starts warm.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))
