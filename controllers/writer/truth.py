"""The truth of a simulated run as Parquet: made again from the seed, by nobody's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from controllers.writer import folder as run_folder
from controllers.writer.publish import Sidecar

LONGEST_NS = 600_000_000_000  # of a long run only the first ten minutes: the seed knows the rest

TRUTH = pa.schema(
    [
        pa.field("muon", pa.int64(), metadata={"meaning": "block of 10 ms << 20 | index"}),
        pa.field("t0_ns", pa.int64(), metadata={"unit": "ns", "meaning": "Unix epoch"}),
        pa.field("t0_ps", pa.uint16(), metadata={"unit": "ps", "meaning": "the rest, 0-999"}),
        pa.field("x0", pa.float64(), metadata={"unit": "mm", "meaning": "at z = 0"}),
        pa.field("y0", pa.float64(), metadata={"unit": "mm", "meaning": "at z = 0"}),
        pa.field("slope_x", pa.float64(), metadata={"meaning": "dx/dz"}),
        pa.field("slope_y", pa.float64(), metadata={"meaning": "dy/dz"}),
        *(pa.field(f"layers_{c}", pa.uint8(), metadata={"meaning": "bit (layer - 1): it has a hit"})
          for c in range(4)),
        pa.field("scint", pa.bool_(), metadata={"meaning": "the scintillator's word exists"}),
        pa.field("pmt", pa.bool_(), metadata={"meaning": "the two PMT pulses exist"}),
    ]
)  # fmt: skip

Block = Callable[[int], Any]  # number of a block → structured array of its muons, by t0


def batches(block_truth: Block, block_ns: int, start_ns: int, end_ns: int) -> Iterator[pa.Table]:
    """The muons with start ≤ t0 < end, a table of about 100 blocks at a time."""
    numbers = range(start_ns // block_ns, -(-end_ns // block_ns))
    for at in range(0, len(numbers), 100):
        muons = np.concatenate([block_truth(b) for b in numbers[at : at + 100]])
        muons = muons[(muons["t0_ns"] >= start_ns) & (muons["t0_ns"] < end_ns)]
        columns = [
            muons["layers"][:, int(f.name[-1])] if f.name.startswith("layers_") else muons[f.name]
            for f in TRUTH
        ]
        arrays = [
            pa.array(np.ascontiguousarray(c), f.type) for c, f in zip(columns, TRUTH, strict=True)
        ]
        yield pa.Table.from_arrays(arrays, schema=TRUTH)


def publish(
    folder: Path, run: int, facts: Mapping[str, Any], block_truth: Block, block_ns: int,
    first: int, last: int, slice_ns: int,
) -> Sidecar:  # fmt: skip
    """Write `Run…_truth.parquet` of slices first…last; its sidecar says how far it goes."""
    last = min(last, first + LONGEST_NS // slice_ns - 1)
    rows = {"truth": 0}
    about = {**facts, "first": first, "last": last, "next": last + 1, "rows": rows}

    def write(temp: Path) -> None:
        with pq.ParquetWriter(temp, TRUTH, compression="zstd") as writer:
            for table in batches(block_truth, block_ns, first * slice_ns, (last + 1) * slice_ns):
                writer.write_table(table)
                rows["truth"] += table.num_rows

    name = f"{run_folder.run_name(run)}_truth.parquet"
    return run_folder.publish_file(folder, name, "truth", about, write)
