"""The numbered data files of one pipeline of one run: when to roll, what is next, where to resume.

Whatever happens to the process, the next one begins behind the highest contiguous sidecar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.writer import branches, publish
from controllers.writer.accounts import Accounts, Closes
from controllers.writer.chain import SliceResult
from controllers.writer.publish import Sidecar
from controllers.writer.rootfile import FLUSH_BYTES, RootFile, read_rows, totals
from controllers.writer.tables import RunFacts
from freerun.errors import EnvironmentProblem, FreerunError
from freerun.schemas import EVENTS


class BeginAgain(FreerunError):
    """Another writer took our number: resume behind its file."""


@dataclass(frozen=True)
class Roll:
    """When a file is closed, always after a whole slice: bytes, events, or slices."""

    size: int = 1_500_000_000
    events: int | None = None
    slices: int | None = None

    def due(self, size: int, events: int, slices: int) -> bool:
        return (
            size >= self.size
            or (self.events is not None and events >= self.events)
            or (self.slices is not None and slices >= self.slices)
        )


def stem(run: int, pipeline: str) -> str:
    return f"Run{run:06d}_{pipeline}"


@dataclass
class Series:
    """Takes slices in order, leaves whole files with sidecars in `folder`.

    `texts` gives README, run_document and bench_toml as they are when a file is closed;
    `published` hears of each file that is there for good, also of those found at `resume`.
    """

    folder: Path
    run: RunFacts
    pipeline: str
    installation: str
    roll: Roll
    texts: Callable[[], Mapping[str, str]]
    published: Callable[[Sidecar], None] = lambda sidecar: None
    hits: str = "unassigned"
    flush_bytes: int = FLUSH_BYTES
    group: str | None = None
    who: str = ""  # owner in temporary names; this process by default
    closes_before: Closes = field(default_factory=dict)  # of the run before
    sidecars: list[Sidecar] = field(default_factory=list)
    next: int = 0
    _before: dict[int, int] = field(default_factory=dict)  # offsets behind the last slice
    _file: RootFile | None = None
    _accounts: Accounts | None = None

    def path(self, number: int) -> Path:
        return self.folder / f"{stem(self.run.number, self.pipeline)}_{number:04d}.root"

    def resume(self) -> dict[int, int] | None:
        """Find `next`; returns the offsets to read from, None: from the run's start entry."""
        self.abandon()
        self.sidecars, self.next = [], self.run.first
        offsets: dict[int, int] | None = None
        closes = self.closes_before
        while (sidecar := self._at(len(self.sidecars))) is not None:
            self.sidecars.append(sidecar)
            self.next = int(sidecar["next"])
            given = sidecar.get("offsets")
            offsets = {int(p): int(o) for p, o in given.items()} if given else None
            closes = sidecar.get("closes") or {}
            self.published(sidecar)
        self._accounts = Accounts(self.run, dict(closes))
        return offsets

    def _at(self, number: int) -> Sidecar | None:
        final = self.path(number)
        if publish.sidecar_path(final).exists():
            sidecar = publish.read_sidecar(final)
        elif final.exists():
            sidecar = publish.ensure_sidecar(final, self._remake)
        else:
            return None
        if sidecar.get("installation") != self.installation:
            raise EnvironmentProblem(
                f"{final} belongs to installation {sidecar.get('installation')}, this is "
                f"{self.installation}: move the folder {self.folder} away, or set another "
                "system.data"
            )
        if sidecar["first"] != self.next:
            raise EnvironmentProblem(
                f"{final} begins at slice {sidecar['first']}, the file before it ends before "
                f"slice {self.next}: move one of them away"
            )
        return sidecar

    def _remake(self, final: Path) -> Sidecar:
        """The sidecar of a whole data file, from what is in it."""
        try:
            embedded, rows, first, last = read_rows(final)
        except ValueError as error:
            raise EnvironmentProblem(f"{error}: move it away, its slices come again") from error
        facts = {"rows": rows, "first": first, "last": last, "next": last + 1}
        if embedded and embedded.get("first") == first and embedded.get("last") == last:
            return embedded | facts
        number = int(final.stem.rsplit("_", 1)[1])
        return self._facts(number, totals(final), {}, {}) | facts

    def _facts(
        self, number: int, counts: Mapping[str, int], offsets: Mapping[int, int], closes: Closes
    ) -> Sidecar:
        return {
            "schema": branches.SCHEMA,
            "kind": "events",
            "installation": self.installation,
            "run": self.run.number,
            "writer": self.pipeline,
            "number": number,
            "counts": dict(counts),
            "offsets": {str(p): o for p, o in offsets.items()},
            "closes": closes,
        }

    def add(self, result: SliceResult, offsets: Callable[[], Mapping[int, int]]) -> None:
        """Append slice `next`; rolls the file if it is time. `offsets`: to read on behind it.

        Raises `BeginAgain` if another writer was faster.
        """
        if result.k != self.next:
            raise FreerunError(f"expected slice {self.next}, got {result.k}: a mistake in freerun")
        given = result.tables.get("events")
        schema = given[0].schema if given else None
        if self._file and schema is not None and not schema.equals(self._file.events_schema):
            self._close(self._before)
        if self._file is None:
            self._file = self._open(schema)
        self._file.add(result)
        self.next = result.k + 1
        self._before = dict(offsets())
        counts = self._file.totals
        if self.roll.due(self._file.nbytes, counts["events"], counts["slices"]):
            self._close(self._before)

    def _open(self, schema: Any) -> RootFile:
        self.folder.mkdir(parents=True, exist_ok=True)
        temp = publish.temporary(self.path(len(self.sidecars)), self.who)
        temp.unlink(missing_ok=True)
        assert self._accounts is not None, "resume() comes first"
        return RootFile(
            temp, self.run, self._accounts, schema if schema is not None else EVENTS,
            hits=self.hits, flush_bytes=self.flush_bytes,
        )  # fmt: skip

    def finish(self) -> None:
        """Close the last file; all slices of the run have been added."""
        if self._file is not None:
            self._close(self._before)

    def _close(self, offsets: Mapping[int, int]) -> None:
        file, number = self._file, len(self.sidecars)
        assert file is not None and file.first is not None and self._accounts is not None
        ours = self._facts(number, file.totals, offsets, dict(self._accounts.closes)) | {
            "rows": file.rows,
            "first": file.first,
            "last": file.next - 1,
            "next": file.next,
        }
        texts = dict(self.texts()) | {"sidecar": json.dumps(ours)}
        file.close(number, -1, file.next * self.run.slice_ns, texts)
        self._file = None
        final = self.path(number)
        sidecar, is_ours = publish.publish(file.path, final, ours, self._remake)
        if not is_ours:
            raise BeginAgain(f"{final.name} is another writer's: going on behind it")
        for path in (final, publish.sidecar_path(final)):
            publish.give_to_group(path, self.group)
        self.sidecars.append(sidecar)
        self.published(sidecar)

    def abandon(self) -> None:
        """Throw away what is not published."""
        if self._file is not None:
            self._file.abandon()
        self._file = None

    @property
    def open_bytes(self) -> int:
        return self._file.nbytes if self._file else 0

    @property
    def events(self) -> int:
        """Events stored so far, the open file included."""
        closed = sum(int(s["counts"]["events"]) for s in self.sidecars)
        return closed + (self._file.totals["events"] if self._file else 0)


def closes_before(data: Path, run: int, pipeline: str, installation: str) -> Closes:
    """The last closes that an earlier run's files know, newest run first; {} if none."""
    for folder in sorted(data.glob("Run[0-9]*"), reverse=True):
        digits = folder.name[3:]
        if not digits.isdigit() or int(digits) >= run:
            continue
        found = sorted(folder.glob(f"{stem(int(digits), pipeline)}_*.root.json"), reverse=True)
        if found:
            sidecar: Sidecar = json.loads(found[0].read_text())
            same = sidecar.get("installation") == installation
            return sidecar.get("closes") or {} if same else {}
    return {}
