"""Waveforms of a digitizer to pulses with features, in the terms of the detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.builder import PMT, PulseRows
from freerun.config.geometry import ChannelMap
from freerun.ticks import Clock
from processors.kernels import HITS, MASKED, UNKNOWN_ROWS
from processors.pulse_kernel import PulseParams, features

Array = npt.NDArray[Any]
PulseSettings = PulseParams


def pulse_rows(
    batch: pa.RecordBatch, body_rows: int, clock: Clock, start_ns: int, index: int,
    channels: ChannelMap, settings: PulseParams, occupancy: Array, tally: Array,
) -> tuple[PulseRows, Array]:  # fmt: skip
    """The known, unmasked pulses of one part; the second value says which are body.

    `tally` (hits, other, masked, unknown) and `occupancy` (detector, layer, cell) take body rows
    only, the first `body_rows`. Times are ps since `start_ns`, of the CFD crossing.
    """
    ticks = batch.column("ticks").to_numpy()
    channel = batch.column("channel").to_numpy().astype(np.int64)
    inside = channel < len(channels.role)
    number = np.where(inside, channel, 0)
    known = inside & (channels.role[number] == PMT)
    masked = known & (channels.masked[number] != 0)
    body = np.arange(len(ticks)) < body_rows
    keep = known & ~masked
    tally[HITS] += int((keep & body).sum())
    tally[MASKED] += int((masked & body).sum())
    tally[UNKNOWN_ROWS] += int((~known & body).sum())
    np.add.at(occupancy[:, 0, 0], channels.det[number[keep & body]], 1)

    samples = batch.column("samples")
    flat, offsets = samples.flatten().to_numpy(), samples.offsets.to_numpy().astype(np.int64)
    f = features(flat, offsets - offsets[0], settings)
    det = channels.det[number]
    t = clock.ps_since(ticks, start_ns) + f.cfd + channels.offset_ps[number]
    columns = {
        "t": t, "source": np.full(len(t), index, np.int16), "channel": channel.astype(np.int16),
        "ticks": ticks, "det": det, "q": f.q, "qs": f.qs, "psd": f.psd, "amp": f.amp,
        "base": f.base, "base_rms": f.base_rms, "cfd": (f.cfd / 1000).astype(np.float32),
        "rise": f.rise,
        "flags": batch.column("flags").to_numpy().astype(np.uint32) | f.flags.astype(np.uint32),
    }  # fmt: skip
    return PulseRows(**{name: column[keep] for name, column in columns.items()}), body[keep]
