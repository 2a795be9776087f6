"""What can go wrong, named; each class knows the exit code of the command line."""

from __future__ import annotations


class FreerunError(Exception):
    """A problem that a person can act on; `str()` is one sentence that says how."""

    exit_code = 1


class LedgerGap(FreerunError):
    """The account of a run, or its comparison with the truth, does not close (exit code 1)."""


class ConfigError(FreerunError):
    """A wrong command line or configuration (exit code 2)."""

    exit_code = 2


class EnvironmentProblem(FreerunError):
    """Something outside freerun is missing: broker, disk, Java, browser (exit code 3)."""

    exit_code = 3


class Quarantined(FreerunError):
    """A record or row that cannot be used; `reason` is a short stable word for counting."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
