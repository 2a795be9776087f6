"""Monitors every pipeline has: occupancy per detector, pulse spectra; and their wire form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import schemas
from freerun.builder import PulseRows
from freerun.config.geometry import Geometry
from freerun.histograms import Axis, Hist
from freerun.wire import write_batch

Array = npt.NDArray[Any]
CHARGE = Axis("long charge", 400, 0.0, 400_000.0, "ADC ns")
PSD = Axis("PSD", 100, 0.0, 1.0)


def common_hists(geometry: Geometry) -> list[Hist]:
    """Occupancy of each detector (its sum is the count of hits), spectra of each PMT."""
    out = []
    for name, kind in ((d.id, d.kind) for d in geometry.detectors):
        if kind == "drift_chamber":
            axes = (Axis("layer", 4, 0.5, 4.5), Axis("cell", 16, -0.5, 15.5))
        else:
            axes = (Axis("channel", 1, -0.5, 0.5), Axis("", 1, -0.5, 0.5))
        out.append(Hist(f"{name}/occupancy", f"Occupancy of {name}", axes))
        if kind == "pmt":
            out.append(Hist(f"{name}/charge", f"Charge of {name}", (CHARGE,)))
            small = Axis(CHARGE.label, 100, CHARGE.lo, CHARGE.hi, CHARGE.unit)
            out.append(Hist(f"{name}/psd", f"Pulse shape of {name}", (small, PSD)))
    return out


def fill_common(
    geometry: Geometry, occupancy: Array, pulses: PulseRows, body: Array, into: dict[str, Array]
) -> None:
    """Add one slice's body rows. `occupancy` is int64 (detector, layer, cell)."""
    for index, det in enumerate(geometry.detectors):
        name, kind = det.id, det.kind
        target = into[f"{name}/occupancy"]
        if kind == "drift_chamber":
            target += occupancy[index, 1 : 1 + target.shape[0], : target.shape[1]]
        else:
            target += occupancy[index].sum()
        if kind == "pmt":
            mine = body & (pulses.det == index)
            q, psd = pulses.q[mine], pulses.psd[mine]
            into[f"{name}/charge"] += np.histogram(q, CHARGE.bins, (CHARGE.lo, CHARGE.hi))[0]
            shape = into[f"{name}/psd"].shape
            bounds = ((CHARGE.lo, CHARGE.hi), (PSD.lo, PSD.hi))
            filled = np.histogram2d(q, psd, shape, bounds)[0]
            into[f"{name}/psd"] += filled.astype(np.int64)


class MonitorTable:
    """Histograms as the `monitor` table; their axes are in the schema's metadata.

    What is the same in every slice is made once: with 200 histograms it was a seventh of a
    slice's cost.
    """

    def __init__(self, hists: Sequence[Hist]) -> None:
        self._names = [h.name for h in hists]
        ends = np.cumsum([0, *(int(np.prod(h.shape)) for h in hists)])
        self._same = [
            pa.array(self._names),
            pa.array([list(h.shape) for h in hists], type=pa.list_(pa.int32())),
        ]
        self._offsets = pa.array(ends, pa.int32())
        told = json.dumps([h.to_json() for h in hists]).encode()
        self._schema = schemas.MONITOR.with_metadata({b"hists": told})

    def body(self, values: Mapping[str, Array]) -> pa.Buffer:
        """`values`: int64 counts by the histogram's name, each of its shape."""
        counts = pa.array(np.concatenate([values[name].ravel() for name in self._names]))
        lists = pa.ListArray.from_arrays(self._offsets, counts)
        return write_batch(pa.RecordBatch.from_arrays([*self._same, lists], schema=self._schema))
