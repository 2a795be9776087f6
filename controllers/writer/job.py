"""Everything a writer does for one run, without Kafka: records in, whole files out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.writer import folder as run_folder
from controllers.writer import publish
from controllers.writer.chain import Chain
from controllers.writer.monitorfile import Fold, write_file
from controllers.writer.publish import Sidecar, disk_sentence
from controllers.writer.series import BeginAgain, Roll, Series, closes_before
from controllers.writer.tables import RunFacts
from controllers.writer.uploads import Uploader

EVENTS, MONITOR = "events", "monitor"
Place = tuple[str, str, int]  # EVENTS or MONITOR, pipeline, partition
Starts = Callable[[str, str], Mapping[int, int]]  # kind, pipeline → offsets of the run's start


@dataclass(frozen=True)
class Output:
    """One pipeline to be written, and how."""

    pipeline: str
    roll: Roll = field(default_factory=Roll)
    hits: str = "unassigned"


@dataclass(frozen=True)
class Setup:
    """What holds for all runs of a writer. `texts`: bench.toml and bench.resolved.toml."""

    data: Path
    installation: str
    partitions: int
    outputs: tuple[Output, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    truth: Callable[[Path, RunFacts, int], Sidecar] | None = None  # folder, run, last slice
    flush_bytes: int = 30_000_000
    queue_bytes: int = 256 << 20


class RunJob:
    """One run. `begin`, then `offer` and `advance` in turn until it says done, then `finish`."""

    def __init__(
        self, setup: Setup, run: RunFacts, doc: Callable[[], Mapping[str, Any]],
        uploader: Uploader | None = None,
    ) -> None:  # fmt: skip
        self.setup, self.run, self._doc, self._uploader = setup, run, doc, uploader
        self.name = run_folder.run_name(run.number)
        self.folder = setup.data / self.name
        self.again = 0  # times that another writer was faster
        self._duplicates = 0
        wanted = doc().get("pipelines")
        self.outputs = [o for o in setup.outputs if wanted is None or o.pipeline in wanted]
        self._series = {o.pipeline: self._make_series(o) for o in self.outputs}
        self._chains: dict[str, Chain] = {}
        self._folds: dict[str, Fold] = {}
        self._made: list[Sidecar] = []  # monitors, truth

    def _make_series(self, output: Output) -> Series:
        return Series(
            self.folder, self.run, output.pipeline, self.setup.installation, output.roll,
            self._texts, self._published, hits=output.hits, flush_bytes=self.setup.flush_bytes,
            closes_before=closes_before(
                self.setup.data, self.run.number, output.pipeline, self.setup.installation
            ),
        )  # fmt: skip

    def _texts(self) -> dict[str, str]:
        doc = self._doc()
        return {
            "README": run_folder.readme(doc, self.sidecars),
            "run_document": json.dumps(doc),
            "bench_toml": str(doc.get("bench_toml") or self.setup.texts.get("bench.toml", "")),
        }

    def _published(self, sidecar: Sidecar) -> None:
        if self._uploader is not None:
            self._uploader.new(self.name, self.folder / sidecar["name"], sidecar["sha256"])

    # ---------------------------------------------------------------- records in

    def begin(self, starts: Starts) -> dict[Place, int]:
        """Begin, or begin again behind what is published: where to read each partition from."""
        with disk_sentence(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            publish.remove_stale(self.folder)
            run_folder.write_configuration(self.folder, self.setup.texts)
            out: dict[Place, int] = {}
            self._duplicates += sum(c.duplicates for c in self._chains.values())
            for pipeline, series in self._series.items():
                found = series.resume()
                at = dict(starts(EVENTS, pipeline)) | (found or {})
                self._chains[pipeline] = Chain(
                    series.next, at, self.setup.partitions, self.setup.queue_bytes
                )
                out |= {(EVENTS, pipeline, p): o for p, o in at.items()}
                if not publish.sidecar_path(self._monitor).exists():
                    self._folds[pipeline] = Fold(self.run.first, self.setup.partitions)
                    told = starts(MONITOR, pipeline)
                    out |= {(MONITOR, pipeline, p): o for p, o in told.items()}
            return out

    def offer(
        self, place: Place, offset: int, headers: Iterable[tuple[str, bytes | None]] | None,
        body: bytes, last: int | None,
    ) -> None:  # fmt: skip
        """Take in one record. `last`: the run's last slice as known now."""
        kind, pipeline, p = place
        if kind == EVENTS:
            self._chains[pipeline].offer(p, offset, headers, body)
        else:
            self._folds[pipeline].offer(p, headers, body, last)

    def at(self, place: Place, position: int) -> None:
        """The reader is at `position` of a partition, without a record before it."""
        if place[0] == EVENTS:
            self._chains[place[1]].at_end(place[2], position)

    def paused(self) -> set[Place]:
        """What the reader should not fetch for now."""
        return {(EVENTS, pl, p) for pl, chain in self._chains.items() for p in chain.too_far()}

    # ---------------------------------------------------------------- files out

    def advance(self, last: int | None, seconds: float = 0.5) -> bool:
        """Write what is ready, for about so long; True if all results of the run are in files.

        Raises `BeginAgain` (then `begin`), or `EnvironmentProblem` if the disk refuses.
        """
        end = time.monotonic() + seconds
        with disk_sentence(self.folder):
            for pipeline, chain in self._chains.items():
                series = self._series[pipeline]
                try:
                    while time.monotonic() < end and (result := chain.take(last)) is not None:
                        series.add(result, chain.offsets)
                    if chain.finished(last):
                        series.finish()
                except BeginAgain:
                    self.again += 1
                    raise
        return last is not None and all(
            chain.finished(last) and (pipeline not in self._folds or
                                      self._folds[pipeline].complete(last))
            for pipeline, chain in self._chains.items()
        )  # fmt: skip

    def finish(self, last: int) -> None:
        """All results are in files: add monitors, truth, manifest, document and README."""
        facts = {
            "installation": self.setup.installation, "run": self.run.number, "writer": "monitor",
            "first": self.run.first, "last": last, "next": last + 1,
        }  # fmt: skip
        with disk_sentence(self.folder):
            folded = {pl: fold.hists for pl, fold in self._folds.items()}
            rows = {pl: len(hists) for pl, hists in folded.items()}
            self._made = [
                run_folder.publish_file(
                    self.folder, self._monitor.name, "monitor", facts | {"rows": rows},
                    lambda temp: write_file(temp, folded, self._texts()),
                )
            ]  # fmt: skip
            if self.setup.truth is not None and last >= self.run.first:
                self._made.append(self.setup.truth(self.folder, self.run, last))
            for sidecar in self._made:
                self._published(sidecar)
            self.refresh()

    def refresh(self) -> None:
        """run.json, README.txt and manifest.json as of now; final when the document is closed."""
        with disk_sentence(self.folder):
            publish_documents(self.folder, self._doc(), self.setup.installation, self._uploader)

    def abandon(self) -> None:
        for series in self._series.values():
            series.abandon()

    # ---------------------------------------------------------------- what others see

    @property
    def sidecars(self) -> list[Sidecar]:
        return [s for series in self._series.values() for s in series.sidecars]

    @property
    def files(self) -> list[Sidecar]:
        """Everything published of this run."""
        return [*self.sidecars, *self._made]

    @property
    def _monitor(self) -> Path:
        return self.folder / f"{self.name}_monitor.root"

    @property
    def next(self) -> int:
        """The first slice that is not in a file, open ones included."""
        return min((c.next for c in self._chains.values()), default=self.run.first)

    @property
    def events(self) -> int:
        return sum(series.events for series in self._series.values())

    @property
    def counts(self) -> dict[str, int]:
        """For the heartbeat."""
        return {
            "files": len(self.sidecars),
            "bytes": sum(s["bytes"] for s in self.sidecars)
            + sum(series.open_bytes for series in self._series.values()),
            "events": self.events,
            "queue_bytes": sum(c.nbytes for c in self._chains.values()),
            "duplicates": self._duplicates + sum(c.duplicates for c in self._chains.values()),
            "torn": sum(c.torn for c in self._chains.values()),
            "bad_monitors": sum(f.bad for f in self._folds.values()),
        }


def publish_documents(
    folder: Path, doc: Mapping[str, Any], installation: str, uploader: Uploader | None
) -> None:
    """run.json, README.txt and manifest.json from the document and the sidecars, also to S3."""
    sidecars = run_folder.write_manifest(folder, int(doc["run"]), installation)
    run_folder.write_document(folder, doc, sidecars)
    if uploader is not None:
        for name in ("bench.toml", "bench.resolved.toml", "run.json", "README.txt",
                     "manifest.json", *run_folder.csv_names(int(doc["run"]))):  # fmt: skip
            if (folder / name).exists():
                uploader.over(folder.name, folder / name)
