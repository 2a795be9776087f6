"""Checks between sections: names that must exist, names and channels that must not meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from freerun.config.detectors import Calibration, Detector, DetectorCalibration, Mask
from freerun.config.pipelines import Pipeline, RunType, Write
from freerun.config.problems import Problem, path_text
from freerun.config.pulsers import check_pulser
from freerun.config.sources import WORD_DRIVERS, Source
from freerun.suggest import unknown

CALIBRATIONS = {
    "drift_chamber": ("drift_time", "trigger_latency", "t0_correction", "offsets"),
    "scintillator": ("delay", "offsets"),
    "pmt": ("offsets",),
}


@dataclass
class View:
    """What of a file is sound by itself: so the checks also run beside other mistakes.

    `ids` holds all names as written, also of the parts that are not sound.
    """

    ids: Mapping[str, list[Any]] = field(default_factory=dict)
    reference: str | None = None
    sources: dict[int, Source] = field(default_factory=dict)
    detectors: dict[int, Detector] = field(default_factory=dict)
    pipelines: dict[int, Pipeline] = field(default_factory=dict)
    writes: dict[int, Write] = field(default_factory=dict)
    run_types: dict[str, RunType] = field(default_factory=dict)
    masks: dict[str, list[Mask]] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    simulation: bool = False


def check(view: View) -> Iterator[Problem]:
    """All that does not fit together."""
    for section, ids in view.ids.items():
        yield from _duplicates(section, ids)
    if view.reference is not None:
        yield from _known(view, "source", [view.reference], ("time", "reference"))
    for i, source in view.sources.items():
        yield from _source(i, source, view)
    yield from _detectors(view)
    for i, source in view.sources.items():
        yield from check_pulser(i, source, view.detectors.values(), view.masks)
    for i, pipeline in view.pipelines.items():
        if pipeline.use is not None:
            path = ("pipeline", i, "use")
            yield from _known(view, "detector", pipeline.use, path)
            yield from _once(pipeline.use, path)
    written: dict[str, int] = {}
    for i, write in view.writes.items():
        path = ("write", i, "what")
        yield from _known(view, "pipeline", write.what, path)
        yield from _once(write.what, path)
        for name in write.what:
            if written.setdefault(name, i) != i:
                yield Problem(path_text(path), f"{name!r} is written by "
                              f"write[{written[name]}] already")  # fmt: skip
    for kind, run_type in view.run_types.items():
        for name in run_type.writers or ():
            if name not in written:
                yield Problem(path_text(("run_type", kind, "writers")),
                              unknown("output", name, written))  # fmt: skip
    for name, masks in view.masks.items():
        yield from _mask(name, masks, view)
    for name, constants in view.calibration.detector.items():
        yield from _calibration(name, constants, view)


def _duplicates(section: str, ids: list[Any]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, name in enumerate(ids):
        if isinstance(name, str) and first.setdefault(name, i) != i:
            yield Problem(path_text((section, i, "id")),
                          f"{name!r} is already the id of {section}[{first[name]}]")  # fmt: skip


def _known(
    view: View, kind: str, names: Iterable[str], path: tuple[int | str, ...]
) -> Iterator[Problem]:
    known = [name for name in view.ids.get(kind, []) if isinstance(name, str)]
    for name in names:
        if name not in known:
            yield Problem(path_text(path), unknown(kind, name, known))


def _once(names: list[str], path: tuple[int | str, ...]) -> Iterator[Problem]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(path_text(path), f"{name!r} is there twice")


def _source(i: int, source: Source, view: View) -> Iterator[Problem]:
    if source.driver in WORD_DRIVERS:
        if source.format is None:
            yield Problem(f"source[{i}].format", "is missing; it is never guessed: padova-v1, "
                          "padova-v2 or padova-obdt")  # fmt: skip
        if source.fpga is None:
            yield Problem(f"source[{i}].fpga", 'is missing; the number of the board, or "all"')
    elif source.driver == "pulses":
        for key in ("format", "fpga", "markers"):
            if getattr(source, key) not in (None, []):
                yield Problem(f"source[{i}].{key}", "is for streams of TDC words, "
                              "a `pulses` source has none: leave it out")  # fmt: skip
    if source.driver in ("simulate", "pulses") and not view.simulation:
        yield Problem(f"source[{i}].driver", f"{source.driver!r} needs the section [simulation]: "
                      "at least its seed")  # fmt: skip


def _board(detector: Detector, source: Source) -> int | None:
    return None if isinstance(source.fpga, int) else detector.fpga


def _detectors(view: View) -> Iterator[Problem]:
    sources = {source.id: source for source in view.sources.values()}
    taken: dict[tuple[str, int | None, int], int] = {}
    for i, d in view.detectors.items():
        yield from _known(view, "source", [d.source], ("detector", i, "source"))
        source = sources.get(d.source)
        if source is None:
            continue
        if source.all_boards and d.fpga is None:
            yield Problem(f"detector[{i}].fpga", f"is missing; source {d.source!r} reads all "
                          "boards")  # fmt: skip
            continue
        if isinstance(source.fpga, int) and d.fpga not in (None, source.fpga):
            yield Problem(f"detector[{i}].fpga", f"source {d.source!r} reads board {source.fpga}, "
                          f"not {d.fpga}: leave fpga out")  # fmt: skip
        board = _board(d, source)
        others: dict[int, list[int]] = {}
        for channel in d.channels:
            other = taken.setdefault((d.source, board, channel), i)
            if other != i:
                others.setdefault(other, []).append(channel)
        for other, channels in others.items():
            yield Problem(f"detector[{i}].channels", f"{_span(channels)} of {d.source} "
                          f"already belongs to detector[{other}] "
                          f"({view.detectors[other].id})")  # fmt: skip
        marked = sorted(set(d.channels) & set(source.markers))
        if marked:
            yield Problem(f"detector[{i}].channels", f"{_span(marked)} of {d.source} is one of "
                          "its markers")  # fmt: skip


def _span(channels: list[int]) -> str:
    return f"channel {channels[0]}" if len(channels) == 1 else (
        f"channel {channels[0]}-{channels[-1]}")  # fmt: skip


def _mask(name: str, masks: list[Mask], view: View) -> Iterator[Problem]:
    yield from _known(view, "source", [name], ("mask",))
    source = next((s for s in view.sources.values() if s.id == name), None)
    for mask in masks if source is not None else ():
        if source is not None and source.all_boards and mask.fpga is None:
            yield Problem(f"mask.{name}.fpga", f"is missing; source {name!r} reads all boards")
        elif (
            source is not None
            and isinstance(source.fpga, int)
            and mask.fpga
            not in (
                None,
                source.fpga,
            )
        ):
            yield Problem(f"mask.{name}.fpga", f"source {name!r} does not read board {mask.fpga}")


def _calibration(name: str, constants: DetectorCalibration, view: View) -> Iterator[Problem]:
    path = f"calibration.detector.{name}"
    yield from _known(view, "detector", [name], ("calibration", "detector"))
    detector = next((d for d in view.detectors.values() if d.id == name), None)
    if detector is None:
        return
    allowed = CALIBRATIONS[detector.kind]
    for key in sorted(constants.model_fields_set):
        if key not in allowed:
            yield Problem(f"{path}.{key}", f"does not apply to a {detector.kind}: "
                          f"allowed are {', '.join(allowed)}")  # fmt: skip
    for channel in constants.offsets:
        if channel not in detector.channels:
            yield Problem(f"{path}.offsets.{channel}", f"is no channel of {name}")
