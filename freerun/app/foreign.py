"""A broker that is not ours: which of its settings differ from what freerun counts on."""

from __future__ import annotations

from collections.abc import Mapping

WANTED = {
    "auto.create.topics.enable": ("false", "a mistyped topic would be created in silence"),
    "offsets.retention.minutes": (">=10080", "lanes would forget where they were"),
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": (
        "<=1000", "a killed worker blocks the readers until its transaction is cleaned up",
    ),
    "message.max.bytes": (">=33554432", "frames and large results would be refused"),
}  # fmt: skip


def differences(settings: Mapping[str, str]) -> list[str]:
    """One sentence for each setting of a broker that is not as it should be."""
    out = []
    for name, (wanted, why) in WANTED.items():
        got = settings.get(name)
        if got is None or _good(got, wanted):
            continue
        out.append(f"the broker has {name} = {got}, {wanted.lstrip('<>=')} is better: {why}")
    return out


def _good(got: str, wanted: str) -> bool:
    if wanted.startswith(">="):
        return int(got) >= int(wanted[2:])
    if wanted.startswith("<="):
        return int(got) <= int(wanted[2:])
    return got == wanted
