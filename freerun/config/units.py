"""Values with units as text: "100 ms", "12.5 ns", "1.5 GB", "2 MHz".

Decimal text becomes an integer by exact arithmetic; a value that is not a whole number of the
smallest unit is refused, not rounded. In JSON and in `bench.resolved.toml` it is text again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

_TEXT = re.compile(r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)\s*([^\W\d_]+)?", re.ASCII)
_MICRO = str.maketrans({"µ": "u", "μ": "u"})  # the micro sign and the Greek letter


@dataclass(frozen=True)
class Quantity:
    """One physical quantity: what a number of it counts, and the units it may be written in."""

    name: str
    base: str
    """The unit of the result."""
    example: str
    units: Mapping[str, Fraction]
    """Unit → how many of the base unit."""
    shown: tuple[str, ...]
    """Units for writing, largest first; all powers of ten of the base."""

    def parse(self, text: object) -> Fraction:
        """The exact value in the base unit; `ValueError` says what is wrong."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r} has no unit: write a {self.name} as text, "
                             f"like {self.example!r}")  # fmt: skip
        match = _TEXT.fullmatch(text.strip().translate(_MICRO))
        if match is None:
            raise ValueError(f"{text!r} is not a {self.name}: write one number and one unit, "
                             f"like {self.example!r}")  # fmt: skip
        number, unit = match.groups()
        if unit is None:
            raise ValueError(f"{text!r} has no unit: allowed are {self._allowed()}")
        if unit not in self.units:
            raise ValueError(f"unit {unit!r} in {text!r} is not one of a {self.name}: "
                             f"allowed are {self._allowed()}")  # fmt: skip
        return Fraction(number) * self.units[unit]

    def whole(self, text: object) -> int:
        """The value in whole base units (64 bits); `ValueError` if it is not whole."""
        value = self.parse(text)
        if value.denominator != 1:
            raise ValueError(f"{text!r} is not a whole number of {self.base}, and nothing is "
                             f"rounded here")  # fmt: skip
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{text!r} does not fit 64 bits of {self.base}")
        return int(value)

    def text(self, value: float) -> str:
        """`value` base units as text that `parse` reads back as the same number."""
        exact = Fraction(value) if isinstance(value, int) else Fraction(repr(value))
        for unit in self.shown:
            number = exact / self.units[unit]
            if abs(number) >= 1:
                break
        return f"{_decimal(number)} {unit}"

    def _allowed(self) -> str:
        return ", ".join(self.units)


def _decimal(number: Fraction) -> str:
    """Exact decimal text; the denominator has only the factors 2 and 5."""
    digits = 0
    while (number * 10**digits).denominator != 1:
        digits += 1
    if digits == 0:
        return str(int(number))
    sign, scaled = "-" if number < 0 else "", abs(int(number * 10**digits))
    whole, rest = divmod(scaled, 10**digits)
    return f"{sign}{whole}.{rest:0{digits}d}"


_PS = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12}
_LONG = {"min": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}

NANOSECONDS = Quantity(
    "duration", "ns", "100 ms",
    {**{unit: Fraction(ps, 1000) for unit, ps in _PS.items()},
     **{unit: Fraction(ns) for unit, ns in _LONG.items()}},
    ("s", "ms", "us", "ns"),
)  # fmt: skip
PICOSECONDS = Quantity(
    "time", "ps", "12.5 ns", {unit: Fraction(ps) for unit, ps in _PS.items()},
    ("s", "ms", "us", "ns", "ps"),
)  # fmt: skip
BYTES = Quantity(
    "size", "bytes", "1.5 GB",
    {"B": Fraction(1), "kB": Fraction(10**3), "MB": Fraction(10**6), "GB": Fraction(10**9),
     "TB": Fraction(10**12), "KiB": Fraction(2**10), "MiB": Fraction(2**20),
     "GiB": Fraction(2**30), "TiB": Fraction(2**40)},
    ("GB", "MB", "kB", "B"),
)  # fmt: skip
HERTZ = Quantity(
    "rate", "Hz", "2 MHz",
    {"mHz": Fraction(1, 1000), "Hz": Fraction(1), "kHz": Fraction(10**3),
     "MHz": Fraction(10**6), "GHz": Fraction(10**9)},
    ("MHz", "kHz", "Hz", "mHz"),
)  # fmt: skip
MILLIMETRES = Quantity(
    "length", "mm", "42.0 mm",
    {"um": Fraction(1, 1000), "mm": Fraction(1), "cm": Fraction(10), "m": Fraction(1000)},
    ("mm",),
)  # fmt: skip


def _problem(read: Callable[[object], Any]) -> Callable[[object], Any]:
    """`read` with its `ValueError` as pydantic wants it, without the text in front."""

    def check(value: object) -> Any:
        try:
            return read(value)
        except ValueError as error:
            # braces in the user's text are no template
            raise PydanticCustomError("quantity", "{text}", {"text": str(error)}) from None

    return check


def _plain_mm(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return float(MILLIMETRES.parse(value))


def _schema(quantity: Quantity) -> dict[str, Any]:
    units = "|".join(quantity.units).replace("us", "[u\\u00b5\\u03bc]s")
    return {
        "type": "string",
        "pattern": rf"^\s*[+-]?[0-9][0-9.eE+-]*\s*({units})\s*$",
        "description": f"a {quantity.name} with its unit, like {quantity.example!r}",
        "examples": [quantity.example],
    }


def _hints(quantity: Quantity, read: Callable[[object], Any]) -> tuple[Any, Any, Any]:
    return (
        BeforeValidator(_problem(read)),
        PlainSerializer(quantity.text, return_type=str, when_used="json"),
        WithJsonSchema(_schema(quantity)),
    )


# int, whole nanoseconds
Ns = Annotated[int, *_hints(NANOSECONDS, NANOSECONDS.whole)]
# int, whole picoseconds
Ps = Annotated[int, *_hints(PICOSECONDS, PICOSECONDS.whole)]
# int, bytes
Bytes = Annotated[int, *_hints(BYTES, BYTES.whole)]
# float, per second
Hertz = Annotated[float, *_hints(HERTZ, lambda text: float(HERTZ.parse(text)))]
# float, mm; a bare number is taken as mm, as positions are written in every drawing
Mm = Annotated[
    float,
    BeforeValidator(_problem(_plain_mm)),
    WithJsonSchema({"anyOf": [{"type": "number"}, _schema(MILLIMETRES)]}),
]
