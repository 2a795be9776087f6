"""Options that several commands share, read with a sentence for what is wrong."""

from __future__ import annotations

from freerun.errors import ConfigError


def nanoseconds(text: str, option: str = "--for") -> int:
    """A time like `30s` or `10 min` in whole ns; `ConfigError` if it is none, or not above 0."""
    from freerun.config.units import NANOSECONDS

    try:
        value = NANOSECONDS.whole(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    if value <= 0:
        raise ConfigError(f"{option}: {text!r} is not above 0")
    return value
