"""A bench that only speaks: heartbeats, snapshots and answers on a real broker, for the dashboard.

What it says is made up, how it says it is the agreement; run control here takes a start and a
stop, and the hits grow while a run lasts.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from freerun import kafka, schemas, wire
from freerun.histograms import Axis, Hist
from freerun.topics import Topics, ensure

L = 100_000_000  # ns
SOURCES = ("tdc0", "tdc1", "digi0")
PIPELINE = "muons"
CHAMBERS = ("ch0", "ch1", "ch2", "ch3")
PMTS = ("pmt_up", "pmt_down")
SERVICES = ("loop/muons", "worker/w0", "writer/root0", "monitor/muons", "broker/local")

_CELL, _LAYER = Axis("cell", 16, -0.5, 15.5), Axis("layer", 4, 0.5, 4.5)
_ONE = (Axis("channel", 1, -0.5, 0.5), Axis("", 1, -0.5, 0.5))
_DRIFT = Axis("drift time", 600, -100.0, 500.0, "ns")
_CHARGE, _PSD = Axis("long charge", 400, 0.0, 400_000.0, "ADC ns"), Axis("PSD", 100, 0.0, 1.0)
_COARSE = Axis("long charge", 100, 0.0, 400_000.0, "ADC ns")
_MANY = Axis("hits", 101, 0, 101)


def histograms() -> list[Hist]:
    """The histograms of the drift-tube telescope, as its builder declares them."""
    out = []
    for det in CHAMBERS:
        out.append(Hist(f"{det}/occupancy", f"{det}: hits", (_LAYER, _CELL)))
        out.append(Hist(f"{det}/drift_time", f"{det}: drift time", (_DRIFT,)))
    for det in ("scint", *PMTS):
        out.append(Hist(f"{det}/occupancy", f"{det}: hits", _ONE))
    for det in PMTS:
        out.append(Hist(f"{det}/charge", f"{det}: charge", (_CHARGE,)))
        out.append(Hist(f"{det}/psd", f"{det}: PSD against charge", (_COARSE, _PSD)))
    out.append(Hist("event/multiplicity", "hits per event", (_MANY,)))
    return out


def add_hits(rng: np.random.Generator, values: dict[str, Any], events: int) -> None:
    """What `events` muons leave in the histograms."""
    for name, counts in values.items():
        if name.endswith("/occupancy"):
            if counts.shape == (4, 16):
                beam = np.exp(-(((np.arange(16) - 7.5) / 5.0) ** 2)) + 0.05
                counts += rng.poisson(events * 0.95 * np.tile(beam / beam.sum(), (4, 1)))
                if name.startswith("ch1"):
                    counts[2, 11] = 0  # a dead cell
                if name.startswith("ch3"):
                    counts[0, 3] += events // 3  # a noisy one
            else:
                counts += rng.poisson(events * 0.3)
        elif name.endswith("/drift_time"):
            box = rng.uniform(0, 390, 4 * events // 2) + rng.normal(0, 4, 4 * events // 2)
            counts += np.histogram(box, _DRIFT.bins, (_DRIFT.lo, _DRIFT.hi))[0]
        elif name.endswith("/charge"):
            q = rng.gamma(2.0, 30_000.0, events // 3)
            counts += np.histogram(q, _CHARGE.bins, (_CHARGE.lo, _CHARGE.hi))[0]
        elif name.endswith("/psd"):
            q = rng.gamma(2.0, 30_000.0, events // 3)
            band = np.where(rng.random(len(q)) < 0.3, 0.35, 0.15)
            p = band + rng.normal(0, 0.6, len(q)) / np.sqrt(q / 300 + 1)
            ranges = ((_COARSE.lo, _COARSE.hi), (_PSD.lo, _PSD.hi))
            counts += np.histogram2d(q, p, (_COARSE.bins, _PSD.bins), ranges)[0].astype(int)
        else:
            n = rng.poisson(13, events) + 3
            counts += np.histogram(n, _MANY.bins, (_MANY.lo, _MANY.hi))[0]


def snapshot_record(values: dict[str, Any], info: dict[str, Any]) -> tuple[list[Any], bytes]:
    """Headers and body of a snapshot, as the monitor service writes them."""
    hists = histograms()
    schema = schemas.MONITOR.with_metadata(
        {b"hists": json.dumps([h.to_json() for h in hists]).encode()}
    )
    batch = pa.record_batch(
        [
            pa.array([h.name for h in hists], schema.field(0).type),
            pa.array([list(h.shape) for h in hists], schema.field(1).type),
            pa.array([values[h.name].ravel() for h in hists], schema.field(2).type),
        ],
        schema=schema,
    )
    return [("info", json.dumps(info).encode())], wire.write_batch(batch).to_pybytes()


class TalkingBench:
    """Start it, press the buttons of the dashboard, stop it."""

    def __init__(self, address: str, system: str, data: Path, events_per_s: int = 20_000) -> None:
        self.topics = Topics(system)
        ensure(kafka.Broker(address), self.topics.all(SOURCES, [PIPELINE], 4))
        self._address, self._data, self._per_s = address, data, events_per_s
        self._publisher = kafka.Publisher(address, "talkingbench")
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=f) for f in (self._talk, self._obey)]
        self._lock = threading.Lock()
        self.document: dict[str, Any] | None = None
        self.final_hits = 0
        self.commands: list[dict[str, Any]] = []
        self.deaf = False  # run control reads commands and says nothing
        self.silent: set[str] = set()  # services whose heart stands still
        self._rng = np.random.default_rng(1)
        self._clear()

    def __enter__(self) -> TalkingBench:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._publisher.flush()

    @property
    def running(self) -> bool:
        return self.document is not None and self.document["state"] == "running"

    def start(self, number: int, args: dict[str, Any], t_start_ns: int | None = None) -> None:
        with self._lock:
            now = t_start_ns or time.time_ns()
            self._clear()
            folder = self._data / f"Run{number:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            self.document = {
                "run": number, "state": "running", "type": args.get("type", ""),
                "comment": args.get("comment", ""), "shifter": args.get("shifter", ""),
                "first": now // L, "last": None, "slice_ns": L, "t_start_ns": now,
                "t_stop_ns": None, "exit": -1, "sources": list(SOURCES), "folder": str(folder),
                "ledger": None, "n_events": 0,
            }  # fmt: skip
            self._say_run()

    def stop(self, gaps: tuple[str, ...] = ()) -> None:
        with self._lock:
            assert self.document is not None
            number, folder = self.document["run"], Path(self.document["folder"])
            name = f"Run{number:06d}_muons_0000.root"
            (folder / name).write_bytes(b"root" * 1_000_000)
            (folder / f"{name}.json").write_text("{}")
            (folder / f"Run{number:06d}_monitor.root").write_bytes(b"root" * 1000)
            (folder / "README.txt").write_text("how to open me")
            (folder / "run.json").write_text(json.dumps(self.document))
            verdict = {"ok": not gaps, "gaps": list(gaps), "line": "LEDGER closed"}
            self.document |= {"state": "closed", "t_stop_ns": time.time_ns(), "ledger": verdict,
                              "exit": 1 if gaps else 0, "n_events": self._events}  # fmt: skip
            self._say_snapshot(final=True)
            self.final_hits = self._hits()
            self._say_run()
            self.document = dict(self.document)

    def _clear(self) -> None:
        self._values = {h.name: h.zeros() for h in histograms()}
        self._events, self._rates = 0, list[Any]()

    def _hits(self) -> int:
        return sum(int(v.sum()) for n, v in self._values.items() if n.endswith("/occupancy"))

    def _say(self, topic: str, key: str, value: dict[str, Any]) -> None:
        self._publisher.publish(topic, json.dumps(value).encode(), key)

    def _say_run(self) -> None:
        assert self.document is not None
        self._say(self.topics.runs, f"run/{self.document['run']}", self.document)

    def _say_snapshot(self, final: bool = False) -> None:
        assert self.document is not None
        now, d = time.time_ns(), self.document
        n = max(1, now // L - d["first"] - 3)
        info = {
            "run": d["run"], "k_first": d["first"], "k_next": d["first"] + n, "made_ns": now,
            "t_ns": (d["first"] + n) * L, "offsets": {}, "n_slices": n, "n_complete": n,
            "n_events": self._events, "rows": {}, "hits": {}, "rates": self._rates[-600:],
            "final": final,
        }  # fmt: skip
        headers, body = snapshot_record(self._values, info)
        self._publisher.publish(self.topics.snapshot(PIPELINE), body, headers=headers)

    def _talk(self) -> None:
        while not self._ending.is_set():
            with self._lock:
                self._beat()
                if self.running:
                    self.grow(1)
                    self._say_snapshot()
            self._ending.wait(1.0)

    def grow(self, seconds: int) -> None:
        """`seconds` more seconds of data."""
        for _ in range(seconds):
            events = int(self._rng.poisson(self._per_s))
            add_hits(self._rng, self._values, events)
            self._events += events
            t = len(self._rates) + 1.0
            rows = {"tdc0": events * 8.1, "tdc1": events * 8.6, "digi0": events * 0.6}
            self._rates.append([t, {s: float(self._rng.normal(r, r / 60)) for s, r in rows.items()},
                                float(events)])  # fmt: skip

    def _beat(self) -> None:
        now, run = time.time_ns(), self.document["run"] if self.document else None
        fixed = {"time_ns": now, "pid": os.getpid(), "host": "here"}
        said: dict[str, dict[str, Any]] = {
            "control/run": {"run": run, "run_state": "running" if self.running else "idle"},
            **{service: {} for service in SERVICES},
        }
        said["loop/muons"]["dask"] = "http://127.0.0.1:8787/status"
        said["writer/root0"] |= {"run": run, "bytes": self._events * 420, "events": self._events}
        for source in SOURCES:
            said[f"source/{source}"] = {
                "inc": 1, "first": 0, "closed": now // L - 3, "spool": 0, "promise_age_s": 0.21,
                "read": self._events * 8, "read_bytes": self._events * 64,
            }  # fmt: skip
        for key, more in said.items():
            role, _, ident = key.partition("/")
            state = "RUNNING" if self.running else "READY"
            if key not in self.silent:
                self._say(self.topics.state, key,
                          {"role": role, "id": ident, "state": state, **fixed, **more})  # fmt: skip

    def _obey(self) -> None:
        reader = kafka.Reader(self._address, "talkingbench.control")
        try:
            reader.assign({(self.topics.control, 0): kafka.BEGINNING})
            while not self._ending.is_set():
                for record in reader.poll(10, 0.1):
                    command = json.loads(record.value)
                    if "command" in command and not self.deaf:
                        self.commands.append(command)
                        self._say(self.topics.control, command["id"], self._answer(command))
        finally:
            reader.close()

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        number = self.document["run"] if self.document else 0
        if command["command"] == "start_run" and not self.running:
            self.start(number + 1, command)
            ok, text, number = True, f"Run {number + 1} starts.", number + 1
        elif command["command"] == "stop_run" and self.running:
            self.stop()
            ok, text = True, f"Run {number} stops."
        else:
            ok, text = False, "There is no run to stop: press Start Run first."
        return {"answer": command["id"], "ok": ok, "run": number, "text": text}
