"""What to say of a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown <what> 'x': did you mean 'y'? known are …`."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = f"known are {', '.join(names)}" if names else "there are none"
    return f"unknown {what} {name!r}: {hint}{listed}"
