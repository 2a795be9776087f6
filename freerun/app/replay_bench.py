"""The bench of a replay: one source of some bench, with a file in the place of its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun import config
from freerun.config import Bench
from freerun.errors import ConfigError
from freerun.words import get_format

SHIPPED = Path("configs/minidt.toml")


@dataclass(frozen=True)
class Wishes:
    """What the command line says about a replay; None: as the bench has it."""

    file: Path
    format: str | None = None
    rate: str = "fast"
    source: str | None = None
    slice: str | None = None
    builder: str | None = None


def shipped() -> Path:
    """The bench of a replay that names none."""
    return Path(__file__).resolve().parents[2] / SHIPPED


def bench_of(wishes: Wishes, told: Path | None, name: str, data: Path) -> Bench:
    """A bench called `name` with one source, the file; checked completely.

    Raises `ConfigError` for a bench without such a source, or a format that nobody told.
    """
    path = told or shipped()
    bench = config.check(path)
    source = _source(bench, path, wishes.source)
    form = wishes.format or (source.format if told is not None else None)
    if form is None:
        raise ConfigError("the format of the words is never guessed: say it, like --format "
                          "padova-v1")  # fmt: skip
    get_format(form)
    raw = _only(bench.resolved(), source.id)
    kept = {k: v for k, v in raw["source"][0].items() if k not in source.options}
    replay = {"driver": "replay", "format": form, "file": str(wishes.file.absolute()),
              "rate": wishes.rate, "critical": True}  # fmt: skip
    raw["source"] = [kept | replay]
    raw["system"] |= {"name": name, "data": str(data)}
    raw["time"]["reference"] = source.id
    if wishes.slice is not None:
        raw["time"]["slice"] = wishes.slice
    if wishes.builder is not None:
        _build_with(raw, wishes.builder)
    made = config.from_dict(raw, f"replay of {wishes.file} with {path}", path=path.absolute())
    config.check_plugins(made)
    return made


def _source(bench: Bench, path: Path, wanted: str | None) -> Any:
    words = [s for s in bench.sources if s.format is not None]
    if wanted is not None:
        return bench.source(wanted)
    if len(words) != 1:
        known = ", ".join(s.id for s in words) or "none"
        raise ConfigError(
            f"{path} has {len(words)} sources of words ({known}): name the one to be replayed "
            "with --source"
        )
    return words[0]


def _only(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The bench without other sources, and without what belongs to these."""
    out: dict[str, Any] = {"schema": raw["schema"], "system": dict(raw["system"]),
                           "time": dict(raw["time"])}  # fmt: skip
    out["source"] = [s for s in raw["source"] if s["id"] == source]
    out["detector"] = [d for d in raw["detector"] if d["source"] == source]
    detectors = {d["id"] for d in out["detector"]}
    constants = raw["calibration"].get("detector", {})
    mine = {name: c for name, c in constants.items() if name in detectors}
    out["calibration"] = {"detector": mine}
    out["mask"] = {name: masks for name, masks in raw["mask"].items() if name == source}
    out["pipeline"] = []
    for pipeline in raw["pipeline"]:
        use = [d for d in pipeline.get("use", detectors) if d in detectors]
        if use:
            out["pipeline"].append(pipeline | {"use": sorted(use)})
    pipelines = {p["id"] for p in out["pipeline"]}
    for write in raw["write"]:
        what = [p for p in write["what"] if p in pipelines]
        if what:
            out.setdefault("write", []).append(write | {"what": what})
    if not pipelines:
        raise ConfigError(f"no [[pipeline]] of the bench uses a detector of source {source!r}: "
                          "there is nothing to build")  # fmt: skip
    return out


def _build_with(raw: dict[str, Any], builder: str) -> None:
    """One pipeline with this builder: the bench's own, or one with its defaults."""
    own = [p for p in raw["pipeline"] if p["builder"] == builder]
    name = builder.rpartition(":")[2].lower()
    raw["pipeline"] = own[:1] or [{"id": name, "builder": builder}]
    raw["write"] = [{"what": [raw["pipeline"][0]["id"]], "format": "root"}]
