"""One ROOT file of a run: trees that grow slice by slice and are flushed in large baskets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import uproot

from controllers.writer import branches, tables
from controllers.writer.accounts import Accounts, slice_row
from controllers.writer.branches import Branch
from controllers.writer.chain import SliceResult
from controllers.writer.tables import Columns, Piece, RunFacts
from freerun.schemas import EVENTS

FLUSH_BYTES = 30_000_000  # of columns, per tree
_ARROW_TREES = ("events", "hits", "pulses")


def _zstd(level: int) -> Any:
    """ROOT's ZSTD with Arrow's library underneath: the same format, an eighth sooner.

    uproot knows its compressions by their exact type, so it is this one object that differs.
    """
    codec, out = pa.Codec("zstd", compression_level=level), uproot.ZSTD(level)
    out.compress = lambda data: codec.compress(data, asbytes=True)
    return out


class _Tree:
    """One tree with what waits to be written into it."""

    def __init__(self, file: Any, name: str, types: Columns, title: str, flush_bytes: int) -> None:
        self.tree = file.mktree(
            name, types, title=title, counter_name=lambda group: f"n_{group}",
            initial_basket_capacity=64,
        )  # fmt: skip
        self.rows = 0
        self.flush_bytes = flush_bytes

    def write(self, columns: Columns) -> None:
        self.tree.extend(columns)


class _ArrowTree(_Tree):
    """A tree filled from Arrow batches by `convert`."""

    def __init__(
        self, file: Any, name: str, types: Columns, title: str, flush_bytes: int,
        convert: Callable[[Sequence[Piece]], Columns],
    ) -> None:  # fmt: skip
        super().__init__(file, name, types, title, flush_bytes)
        self.convert = convert
        self.pieces: list[Piece] = []
        self.nbytes = 0

    def add(self, k: int, missing: int, batches: Sequence[pa.RecordBatch]) -> int:
        base = 0
        for batch in batches:
            if batch.num_rows:
                self.pieces.append(Piece(k, missing, base, batch))
                self.nbytes += batch.nbytes
            base += batch.num_rows
        self.rows += base
        if self.nbytes >= self.flush_bytes:
            self.flush()
        return base

    def flush(self) -> None:
        if self.pieces:
            self.write(self.convert(self.pieces))
        self.pieces, self.nbytes = [], 0


class _RowTree(_Tree):
    """A tree of a few rows per slice, given as dicts of integers."""

    def __init__(
        self, file: Any, name: str, fields: Sequence[Branch], title: str, flush_bytes: int
    ) -> None:
        super().__init__(file, name, {b.name: np.dtype(b.type) for b in fields}, title, flush_bytes)
        self.fields = fields
        self.waiting: list[Mapping[str, int]] = []

    def add(self, rows: Sequence[Mapping[str, int]]) -> None:
        self.waiting += rows
        self.rows += len(rows)
        if len(self.waiting) * 8 * len(self.fields) >= self.flush_bytes:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.write(
                {b.name: np.array([row[b.name] for row in self.waiting]).astype(b.type)
                 for b in self.fields}
            )  # fmt: skip
        self.waiting = []


class RootFile:
    """A data file under its temporary name; whole after `close`.

    Raises OSError where the disk does (full, gone): then the file is worth nothing; `abandon` it.
    """

    def __init__(
        self,
        path: Path,
        run: RunFacts,
        accounts: Accounts,
        events: pa.Schema = EVENTS,
        *,
        hits: str = "unassigned",
        flush_bytes: int = FLUSH_BYTES,
    ) -> None:
        self.path, self.run, self.accounts, self.events_schema = path, run, accounts, events
        self.first: int | None = None
        self.next = 0
        self.totals = {"slices": 0, "complete": 0, "live_ns": 0, "events": 0, "failed": 0}
        self._hits = hits
        self._file = uproot.create(path, compression=_zstd(1))
        self._arrow: dict[str, _ArrowTree] = {}
        self._arrow["events"] = self._arrow_tree(
            "events", tables.branch_types(events), "one row per event", flush_bytes,
            lambda pieces: tables.events(pieces, run),
        )  # fmt: skip
        for name, title in (("hits", "hits in no event"), ("pulses", "every pulse")):
            fields = branches.FLAT[name]
            types = {b.name: np.dtype(b.type) for b in fields}
            self._arrow[name] = self._arrow_tree(
                name, types, "all hits" if (name, hits) == ("hits", "all") else title, flush_bytes,
                lambda pieces, fields=fields: tables.flat(pieces, run, fields),
            )  # fmt: skip
        self._slices = self._row_tree("slices", "one row per slice", flush_bytes)
        self._ledger = self._row_tree("ledger", "one row per slice and source", flush_bytes)

    def _arrow_tree(self, name: str, *args: Any) -> _ArrowTree:
        return _ArrowTree(self._file, name, *args)

    def _row_tree(self, name: str, title: str, flush_bytes: int) -> _RowTree:
        return _RowTree(self._file, name, branches.FLAT[name], title, flush_bytes)

    def add(self, result: SliceResult) -> None:
        """Append a whole slice."""
        k = result.k
        missing = self.run.mask(result.info.get("missing") or {})
        given = dict(result.tables)
        if self._hits == "none":
            given.pop("hits", None)
        elif self._hits == "all":
            given["hits"] = tuple(tables.all_hits(given.get("events", ()), given.get("hits", ())))
        stored = {
            name: tree.add(k, missing, given.get(name, ())) for name, tree in self._arrow.items()
        }
        row = slice_row(k, result.info, self.run, result.failed, stored["events"])
        self._slices.add([row])
        self._ledger.add(self.accounts.rows(result.info, k, result.failed))
        self.first = k if self.first is None else self.first
        self.next = k + 1
        totals = self.totals
        totals["slices"] += 1
        totals["complete"] += row["complete"]
        totals["live_ns"] += row["live_ns"]
        totals["events"] += stored["events"]
        totals["failed"] += result.failed is not None

    @property
    def nbytes(self) -> int:
        """Size of the file so far; what waits counts as it is, uncompressed."""
        waiting = sum(tree.nbytes for tree in self._arrow.values())
        return self.path.stat().st_size + waiting

    @property
    def rows(self) -> dict[str, int]:
        """Rows per tree."""
        trees: dict[str, _Tree] = {**self._arrow, "slices": self._slices, "ledger": self._ledger}
        return {name: tree.rows for name, tree in trees.items()} | {"run": 1}

    def close(
        self, number: int, exit_status: int, t_stop_ns: int, texts: Mapping[str, str]
    ) -> None:
        """Write what waits, the tree `run` and the texts (TObjString each), and close.

        `texts` are README, run_document, bench_toml, sidecar; `columns` is made here.
        """
        for tree in self._arrow.values():
            tree.flush()
        self._slices.flush()
        self._ledger.flush()
        row = {
            "number": self.run.number,
            "t_start_ns": self.run.t_start_ns,
            "t_stop_ns": t_stop_ns,
            "slice_ns": self.run.slice_ns,
            "n_slices": self.totals["slices"],
            "n_complete": self.totals["complete"],
            "live_ns": self.totals["live_ns"],
            "n_events": self.totals["events"],
            "file": number,
            "exit": exit_status,
            "schema": branches.SCHEMA,
        }
        run_tree = self._row_tree("run", "this file", 0)
        run_tree.add([row])
        run_tree.flush()
        for name, text in texts.items():
            self._file[name] = text
        self._file["columns"] = json.dumps(branches.about(tables.extras(self.events_schema)))
        self._file.close()

    def abandon(self) -> None:
        """Throw the file away."""
        with suppress(OSError):  # what the disk refused does not matter any more
            self._file.close()
        self.path.unlink(missing_ok=True)


def read_rows(path: Path) -> tuple[dict[str, Any], dict[str, int], int, int]:
    """Of a whole data file: its embedded sidecar ({} if none), rows per tree, first and last
    slice; the tree `slices` has the say. Raises ValueError if it is not such a file.
    """
    try:
        with uproot.open(path) as file:
            rows = {
                name: int(file[name].num_entries)
                for name in ("events", "hits", "pulses", "slices", "ledger", "run")
            }
            slices = file["slices"]["slice"].array(library="np")
            text = str(file["sidecar"]) if "sidecar" in file else "{}"
    except Exception as error:  # uproot raises many kinds at a broken file
        raise ValueError(f"{path} cannot be read as a data file: {error}") from error
    if len(slices) == 0 or not np.array_equal(slices, np.arange(slices[0], slices[-1] + 1)):
        raise ValueError(f"{path} does not hold an unbroken row of slices")
    return json.loads(text), rows, int(slices[0]), int(slices[-1])


def totals(path: Path) -> dict[str, int]:
    """Sums over the tree `slices` of a data file, for a sidecar made again."""
    with uproot.open(path) as file:
        got = file["slices"].arrays(["complete", "good", "live_ns", "n_events"], library="ak")
    return {
        "slices": len(got),
        "complete": int(ak.sum(got["complete"])),
        "live_ns": int(ak.sum(got["live_ns"])),
        "events": int(ak.sum(got["n_events"])),
        "failed": int(ak.sum((got["complete"] == 1) & (got["good"] == 0))),
    }
