"""The drift chambers of a set-up as arrays for kernels, and a slice's hits by chamber."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.builder import TUBE, HitRows, MarkRows
from freerun.errors import ConfigError
from freerun.jit import kernel

if TYPE_CHECKING:
    from freerun.config.geometry import Geometry

I64 = npt.NDArray[np.int64]
I16 = npt.NDArray[np.int16]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

HALF_CROSSING = 12_500
"""ps"""
NOWHERE = -(1 << 14)
"""Column of a cell that does not exist."""


@dataclass(frozen=True)
class Chambers:
    """Chambers `slot` 0…c-1 in the order of the configuration."""

    ids: tuple[str, ...]
    slot: I64
    """(256) of a detector index; −1 = not a drift chamber."""
    det: I64
    """(c) detector index of a slot."""
    longest: I64
    """(c) longest drift time, ps."""
    latency: I64
    """(c) a trigger word names the crossing that holds t0 plus this, ps."""
    correction: I64
    """(c) added to every drift time, ps."""
    speed: F64
    """(c) drift velocity, mm/ps."""
    column: I16
    """(c, 4, 256) half cells from the chamber's edge, of layer − 1 and cell; or NOWHERE."""
    wire: F64
    """(c, 4, 256) wire position, mm."""
    z: F64
    """(c, 4) of layer − 1, from the chamber's middle, mm."""


class ChamberHits(NamedTuple):
    """Tube hits by chamber, in row order within each; slot s is `[first[s], first[s+1])`."""

    first: I64
    t: I64
    """With the chamber's correction added, so that drift = t − t0."""
    layer: U8
    """0…3."""
    cell: U8
    column: I16


@kernel
def _split(
    t: I64, det: U8, layer: U8, cell: U8, role: U8, tube: int, slot: I64, column: I16,
    correction: I64, first: I64, out_t: I64, out_layer: U8, out_cell: U8,
    out_column: I16,
) -> None:  # fmt: skip
    """A counting sort by slot; rows that are no tube of a known cell count in no chamber."""
    chambers = len(first) - 1
    for i in range(len(t)):
        s = slot[det[i]]
        if role[i] == tube and s >= 0 and 1 <= layer[i] <= 4:
            first[s + 1] += 1
    for s in range(chambers):
        first[s + 1] += first[s]
    to = first[:-1].copy()
    for i in range(len(t)):
        s = slot[det[i]]
        if role[i] == tube and s >= 0 and 1 <= layer[i] <= 4:
            j = to[s]
            to[s] += 1
            out_t[j] = t[i] + correction[s]
            out_layer[j] = layer[i] - 1
            out_cell[j] = cell[i]
            out_column[j] = column[s, layer[i] - 1, cell[i]]


def split(hits: HitRows, chambers: Chambers) -> ChamberHits:
    """The tube hits of each chamber, in time order."""
    n = len(hits)
    out = ChamberHits(
        np.zeros(len(chambers.ids) + 1, np.int64), np.empty(n, np.int64),
        np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(n, np.int16),
    )  # fmt: skip
    _split(
        hits.t, hits.det, hits.layer, hits.cell, hits.role, TUBE,
        chambers.slot, chambers.column, chambers.correction, *out,
    )  # fmt: skip
    return out


class Words(NamedTuple):
    """Trigger words grouped by chamber, as `ChamberHits` are; `t0` is what they say."""

    first: I64
    t0: I64
    det: U8


@kernel
def _split_words(
    t: I64, det: U8, slot: I64, offset: I64, first: I64, out_t0: I64, out_det: U8
) -> None:
    for i in range(len(t)):
        if slot[det[i]] >= 0:
            first[slot[det[i]] + 1] += 1
    for s in range(len(first) - 1):
        first[s + 1] += first[s]
    to = first[:-1].copy()
    for i in range(len(t)):
        s = slot[det[i]]
        if s >= 0:
            out_t0[to[s]] = t[i] + offset[s]
            out_det[to[s]] = det[i]
            to[s] += 1


def split_words(triggers: MarkRows, chambers: Chambers) -> Words:
    """The trigger words of each chamber; t0 is the middle of the crossing minus the latency."""
    n = len(triggers)
    first, t0 = np.zeros(len(chambers.ids) + 1, np.int64), np.empty(n, np.int64)
    det = np.empty(n, np.uint8)
    offset = HALF_CROSSING - chambers.latency
    _split_words(triggers.t, triggers.det, chambers.slot, offset, first, t0, det)
    return Words(first, t0[: first[-1]], det[: first[-1]])


def from_geometry(geometry: Geometry) -> Chambers:
    """The drift chambers of `geometry`.

    Raises `ConfigError` if there is none, for a chamber whose layers are not equally spaced, and
    for one whose wires are not staggered by half a cell: the mean-timer knows only those.
    """
    chambers = geometry.chambers
    count = len(chambers)
    if count == 0:
        raise ConfigError(
            "drift_tubes needs a detector of kind drift_chamber, and there is none: add one "
            "or choose another builder"
        )
    slot = np.full(256, -1, np.int64)
    column = np.full((count, 4, 256), NOWHERE, np.int16)
    wire, z = np.zeros((count, 4, 256)), np.zeros((count, 4))
    for s, chamber in enumerate(chambers):
        slot[chamber.det_index] = s
        at, height = chamber.wire_x[1:], chamber.layer_z[1:]
        half = (at[0, 1] - at[0, 0]) / 2
        steps = (at - at.min()) / half
        whole = np.rint(steps).astype(np.int16)
        staggered = np.diff(whole[:, 0]) % 2 == 1
        if np.abs(steps - whole).max() > 0.05 or not staggered.all():
            raise ConfigError(
                f"detector {chamber.id}: drift_tubes needs layers staggered by half a cell, "
                f"but the first wires are at {at[:, 0].tolist()} mm: correct `shift`"
            )
        if np.ptp(np.diff(height)) > 0.05 * abs(height[1] - height[0]):
            raise ConfigError(
                f"detector {chamber.id}: drift_tubes needs equally spaced layers, "
                f"but they are at {height.tolist()} mm"
            )
        column[s, :, : at.shape[1]] = whole
        wire[s, :, : at.shape[1]] = at
        z[s] = height - height.mean()
    return Chambers(
        ids=tuple(chamber.id for chamber in chambers),
        slot=slot,
        det=np.array([chamber.det_index for chamber in chambers], np.int64),
        longest=np.array([chamber.t_max_ps for chamber in chambers], np.int64),
        latency=np.array([chamber.trigger_latency_ps for chamber in chambers], np.int64),
        speed=np.array([chamber.v_mm_per_ns for chamber in chambers]) / 1000,
        correction=np.array([chamber.t0_correction_ps for chamber in chambers], np.int64),
        column=column,
        wire=wire,
        z=z,
    )
