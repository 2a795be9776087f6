"""The one way a kernel is compiled: typed, cached, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with numba; its plain Python meaning stays at `.py_func`.

    The compiled code is cached on disk beside the module, so a second process starts warm.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))
