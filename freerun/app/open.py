"""`freerun.open(42)`: the files of a run, from its folder or from S3, as arrays."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np
import uproot

from freerun.errors import ConfigError, EnvironmentProblem


def open(what: int | str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Run:
    """The run `what`: a number, a run's folder, one of its ROOT files, or `s3://…/Run000042`.

    A number is looked for in `data`, else `$FREERUN_DATA`, else in `./data/*`. Raises
    `EnvironmentProblem` if there is no such run, `ConfigError` if the number is in two places.
    """
    if isinstance(what, int):
        return Run(_find(what, data))
    if str(what).startswith("s3://"):
        return Run(*_fetch(str(what)))
    path = Path(what).expanduser()
    if path.is_dir():
        return Run(path)
    if path.is_file():
        return Run(path.parent, only=path)
    raise EnvironmentProblem(f"there is no {path}: give a run's folder, its number, or s3://…")


def _find(number: int, data: str | os.PathLike[str] | None) -> Path:
    name = f"Run{number:06d}"
    told = data or os.environ.get("FREERUN_DATA")
    places = [Path(told).expanduser()] if told else [Path("data"), *sorted(Path("data").glob("*/"))]
    found = [place / name for place in places if (place / name).is_dir()]
    if not found:
        looked = ", ".join(str(p) for p in places[:4])
        raise EnvironmentProblem(
            f"there is no run {number} in {looked}: give its folder, or data=…, or set FREERUN_DATA"
        )
    if len(found) > 1:
        raise ConfigError(f"run {number} is in {found[0]} and in {found[1]}: give one of them")
    return found[0]


def _fetch(url: str) -> tuple[Path, None, tempfile.TemporaryDirectory[str]]:
    """A copy of a run's files, which lives as long as the `Run`."""
    s3 = import_module("controllers.writer.s3")
    copy = tempfile.TemporaryDirectory(prefix="freerun-")
    s3.fetch(url, Path(copy.name))
    return Path(copy.name), None, copy


class Run:
    """One run's files. Arrays are read when asked for; nothing is cached."""

    def __init__(
        self,
        folder: Path,
        only: Path | None = None,
        copy: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder = folder
        self._only = only
        self._copy = copy

    def close(self) -> None:
        """Remove the local copy of a run that came from S3."""
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def files(self, pipeline: str | None = None) -> list[Path]:
        """Data files in slice order; of one pipeline, or of the only one there is."""
        if self._only is not None and not self._only.name.endswith("_monitor.root"):
            return [self._only]
        found = sorted(self.folder.glob(f"Run*_{pipeline or '*'}_[0-9][0-9][0-9][0-9].root"))
        names = {path.stem.split("_", 1)[1].rsplit("_", 1)[0] for path in found}
        if len(names) > 1:
            raise ConfigError(
                f"{self.folder} has pipelines {', '.join(sorted(names))}: name one of them"
            )
        return found

    @property
    def doc(self) -> dict[str, Any]:
        """The run document: run.json, or as a data file knows it."""
        path = self.folder / "run.json"
        if path.exists():
            document: dict[str, Any] = json.loads(path.read_text())
            return document
        for file in reversed(self.files()):
            with uproot.open(file) as root:
                within: dict[str, Any] = json.loads(str(root["run_document"]))
                return within
        raise EnvironmentProblem(f"{self.folder} has neither run.json nor a data file")

    def events(self, pipeline: str | None = None, columns: Sequence[str] | None = None) -> ak.Array:
        """The tree `events` as awkward array: `ev.hit_t[ev.hit_det == 0]`."""
        return self._awkward("events", pipeline, columns)

    def hits(self, pipeline: str | None = None) -> Any:
        """The tree `hits` (in no event): pandas.DataFrame, or numpy records without pandas."""
        return self._table("hits", pipeline)

    def pulses(self, pipeline: str | None = None) -> Any:
        """The tree `pulses`: pandas.DataFrame, or numpy records without pandas."""
        return self._table("pulses", pipeline)

    def slices(self, pipeline: str | None = None) -> Any:
        """The tree `slices`: pandas.DataFrame, or numpy records without pandas."""
        return self._table("slices", pipeline)

    def ledger(self, pipeline: str | None = None) -> dict[str, dict[str, int]]:
        """Counts per source, summed over the run: `run.ledger()["tdc0"]["hits"]`."""
        rows = self._awkward("ledger", pipeline, None)
        names = self.doc.get("sources") or []
        counts = [c for c in rows.fields if c not in ("event", "slice", "source", "checksum")]
        if not counts:
            return {name: {} for name in names}
        index = np.asarray(rows["source"])
        return {
            name: {c: int(np.asarray(rows[c])[index == i].sum()) for c in counts}
            for i, name in enumerate(names)
        }

    def hists(self) -> list[str]:
        """Names of the histograms: `<pipeline>/<detector>/<name>`."""
        with uproot.open(self._monitor()) as file:
            kinds: dict[str, str] = file.classnames(recursive=True, cycle=False)
        return sorted(name for name, kind in kinds.items() if kind.startswith("TH"))

    def hist(self, name: str) -> Any:
        """A histogram as `boost_histogram.Histogram`; the pipeline may be left out of its name."""
        matches = [h for h in self.hists() if h == name or h.split("/", 1)[1] == name]
        if len(matches) != 1:
            known = ", ".join(matches or self.hists())
            raise ConfigError(f"which histogram is {name!r}? There are {known}")
        with uproot.open(self._monitor()) as file:
            return file[matches[0]].to_boost()

    def _monitor(self) -> Path:
        found = sorted(self.folder.glob("Run*_monitor.root"))
        if not found:
            raise EnvironmentProblem(f"{self.folder} has no histograms yet: the run is not over")
        return found[0]

    def _awkward(self, tree: str, pipeline: str | None, columns: Sequence[str] | None) -> ak.Array:
        files = self.files(pipeline)
        parts = []
        for path in files:
            with uproot.open(path) as file:
                parts.append(file[tree].arrays(columns, library="ak"))
        if not parts:
            empty = np.empty(0, [(name, np.int64) for name in columns or ("event", "slice")])
            return ak.from_numpy(empty)
        return parts[0] if len(parts) == 1 else ak.concatenate(parts)

    def _table(self, tree: str, pipeline: str | None) -> Any:
        columns: dict[str, list[Any]] = {}
        for path in self.files(pipeline):
            with uproot.open(path) as file:
                for name, values in file[tree].arrays(library="np").items():
                    columns.setdefault(name, []).append(values)
        whole = {name: np.concatenate(values) for name, values in columns.items()}
        if find_spec("pandas") is not None:
            return import_module("pandas").DataFrame(whole)
        n = len(next(iter(whole.values()))) if whole else 0
        out = np.empty(n, [(name, values.dtype.str) for name, values in whole.items()])
        for name, values in whole.items():
            out[name] = values
        return out
