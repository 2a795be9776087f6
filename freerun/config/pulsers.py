"""`pulser` of a [[source]]: a channel that fires at a known rate, for an independent loss check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from freerun.config.base import BOARDS, RAW_CHANNELS, Section
from freerun.config.problems import Problem
from freerun.config.units import Hertz

if TYPE_CHECKING:
    from freerun.config.detectors import Detector, Mask
    from freerun.config.sources import Source


class Pulser(Section):
    """Its hits are counted again in the stored files, when a run closes and by `run verify`."""

    channel: Annotated[int, Field(ge=0, lt=RAW_CHANNELS, description="raw channel")]
    rate: Annotated[Hertz, Field(ge=1e-3, le=1_000, description="from 1 mHz to 1 kHz")]
    fpga: Annotated[int, Field(ge=0, lt=BOARDS)] | None = Field(
        default=None, description='board, where the source has fpga = "all"'
    )
    tolerance_ppm: Annotated[float, Field(ge=0, le=10_000)] = Field(
        default=100.0, description="the real rate may differ by this, in parts per million"
    )


def check_pulser(
    i: int, source: Source, detectors: Iterable[Detector], masks: Mapping[str, list[Mask]]
) -> Iterator[Problem]:
    """Whatever keeps the pulser of `source[i]` from being stored as hits."""
    told, path = source.pulser, f"source[{i}].pulser"
    if told is None:
        return
    if source.all_boards and told.fpga is None:
        yield Problem(f"{path}.fpga", f"is missing; source {source.id!r} reads all boards")
        return
    if isinstance(source.fpga, int) and told.fpga not in (None, source.fpga):
        yield Problem(f"{path}.fpga", f"source {source.id!r} reads board {source.fpga}, "
                      f"not {told.fpga}: leave fpga out")  # fmt: skip
        return
    board = told.fpga if source.all_boards else None
    path = f"{path}.channel"
    if told.channel in source.markers:
        yield Problem(path, f"{told.channel} is one of the markers of {source.id}, which are not "
                      "stored as hits: take it off the markers, give it a detector")  # fmt: skip
        return
    mine = (d for d in detectors if d.source == source.id and told.channel in d.channels)
    owner = next((d for d in mine if board in (None, d.fpga)), None)
    if owner is None:
        yield Problem(path, f"{told.channel} of {source.id} belongs to no detector, so its hits "
                      "are not stored: give it one, of kind scintillator")  # fmt: skip
        return
    if owner.kind == "pmt":
        yield Problem(path, f"{told.channel} of {source.id} belongs to {owner.id}, a pmt: its rows "
                      "are pulses, and only hits are counted again")  # fmt: skip
    for mask in masks.get(source.id, ()):
        if told.channel in mask.channels and board in (None, mask.fpga):
            yield Problem(path, f"{told.channel} of {source.id} is masked, so its hits are not "
                          "stored")  # fmt: skip
