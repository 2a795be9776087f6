"""Histograms of events, filled from the builders' arrays; the last bin holds all that is more."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.histograms import Axis, Hist
from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

MULTIPLICITY, T0_KIND = "event/multiplicity", "event/t0_kind"
SEGMENTS, CHI2 = "event/segments", "event/chi2"

DRIFT_LO, DRIFT_BIN, DRIFT_BINS = -100_000, 1_000, 600
"""Of the time box, in ps."""
CHI2_PER_BIN = 10


def multiplicity_hist() -> Hist:
    return Hist(MULTIPLICITY, "hits per event (last bin: 100 or more)",
                (Axis("hits", 101, 0, 101),))  # fmt: skip


def t0_kind_hist() -> Hist:
    title = "where t0 is from: FPGA, mean-timer, scintillator, coincidence, first hit, majority"
    return Hist(T0_KIND, title, (Axis("kind", 6, 0, 6),))


def segments_hist() -> Hist:
    return Hist(SEGMENTS, "segments per event, software and FPGA (last bin: 9 or more)",
                (Axis("segments", 10, 0, 10),))  # fmt: skip


def chi2_hist() -> Hist:
    return Hist(CHI2, "check of four-hit segments (last bin: 9.9 or more)",
                (Axis("chi square", 100, 0, 10),))  # fmt: skip


def drift_hist(detector: str) -> Hist:
    """The time box of one chamber."""
    lo = DRIFT_LO / 1000
    title = "hit time after the event's t0 (where that is a mean-timer, it was made from the hits)"
    return Hist(f"{detector}/drift_time", title,
                (Axis("drift time", DRIFT_BINS, lo, lo + DRIFT_BINS, "ns"),))  # fmt: skip


@kernel
def fill_counts(offsets: I64, owned: Bool, into: I64) -> None:
    """Rows per owned event (`offsets` in CSR form)."""
    last = len(into) - 1
    for i in range(len(owned)):
        if owned[i]:
            into[min(offsets[i + 1] - offsets[i], last)] += 1


@kernel
def fill_values(values: U8, owned: Bool, into: I64) -> None:
    """A small number of each owned event."""
    for i in range(len(owned)):
        if owned[i] and values[i] < len(into):
            into[values[i]] += 1


@kernel
def fill_chi2(offsets: I64, chi2: F32, n: U8, owned: Bool, into: I64) -> None:
    """chi2 of the four-hit segments of owned events."""
    last = len(into) - 1
    for i in range(len(owned)):
        if owned[i]:
            for j in range(offsets[i], offsets[i + 1]):
                if n[j] == 4 and chi2[j] >= 0:
                    into[int(min(chi2[j] * np.float32(CHI2_PER_BIN), np.float32(last)))] += 1


@kernel
def fill_drift(
    t: I64, det: U8, role: U8, tube: int, anchor: I64, offsets: I64, index: I64, owned: Bool,
    slot: I64, correction: I64, into: I64,
) -> None:  # fmt: skip
    """Drift times after the event's t0, into row `slot[det]` of `into` (chambers, DRIFT_BINS)."""
    for i in range(len(owned)):
        if not owned[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            row = index[j]
            s = slot[det[row]]
            if s < 0 or role[row] != tube:
                continue
            b = (t[row] + correction[s] - anchor[i] - DRIFT_LO) // DRIFT_BIN
            if 0 <= b < DRIFT_BINS:
                into[s, b] += 1
