"""Numbers as people read them: three digits, a prefix, a unit."""

from __future__ import annotations

from datetime import datetime

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
NOTHING = "–"


def prefix(value: float) -> tuple[float, str]:
    """The power of ten and the SI prefix that `value` is best read in (never below 1)."""
    return next(((f, p) for f, p in _PREFIXES if abs(value) >= f), (1.0, ""))


def si(value: float | None, unit: str) -> str:
    """`si(1.134e6, "words/s")` is "1.13 M words/s"; None is a dash."""
    if value is None:
        return NOTHING
    factor, name = prefix(value)
    # SI prefixes belong to a symbol (MB, kHz); before a word they stand alone
    gap = " " if name and unit[:1].islower() else ""
    return f"{_three(value / factor)} {name}{gap}{unit}".rstrip()


def _three(x: float) -> str:
    digits = 0 if abs(x) >= 100 or x == 0 else 1 if abs(x) >= 10 else 2
    return f"{x:.{digits}f}"


def count(value: int | None) -> str:
    """12345678 is "12,345,678"."""
    return NOTHING if value is None else f"{value:,}"


def clock(seconds: float | None) -> str:
    """Duration as hh:mm:ss."""
    if seconds is None:
        return NOTHING
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def age(seconds: float | None) -> str:
    """An age or a time left, in its two largest units: "0.4 s", "12 min", "3 d 4 h"."""
    if seconds is None:
        return NOTHING
    s = max(0.0, seconds)
    if s < 9.95:
        return f"{s:.1f} s"
    if s < 100:
        return f"{s:.0f} s"
    if s < 6000:
        return f"{s / 60:.0f} min"
    if s < 48 * 3600:
        return f"{s / 3600:.1f} h"
    if s < 365.25 * 86400:
        return f"{int(s // 86400)} d {int(s % 86400 // 3600)} h"
    return "> 1 year"


def percent(fraction: float | None) -> str:
    """A share; never "100.0 %" unless it is all."""
    if fraction is None:
        return NOTHING
    if 0.9995 <= fraction < 1:
        return "> 99.9 %"
    return "100 %" if fraction == 1 else f"{100 * fraction:.1f} %"


def moment(t_ns: int | None) -> str:
    """Local date and time of a Unix epoch in ns."""
    if not t_ns:
        return NOTHING
    return datetime.fromtimestamp(t_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
