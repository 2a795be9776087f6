"""The fold of monitor deltas: sums that do not care in which order the slices come."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from controllers.monitor import HISTORY_S, Fold
from freerun import schemas
from freerun.slices import partition
from freerun.wire import ResultPart, read_batch, read_result, result_headers, write_batch

L = 100_000_000
P = 4
FIRST = 37
HISTS = [{"name": "ch0/occupancy"}, {"name": "event/rate"}]


def delta(k: int, values: dict[str, list[int]], **info: Any) -> tuple[ResultPart, bytes]:
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(list(values), type=pa.string()),
            pa.array([[len(v)] for v in values.values()], type=pa.list_(pa.int32())),
            pa.array(list(values.values()), type=pa.list_(pa.int64())),
        ],
        schema=schemas.MONITOR,
    ).replace_schema_metadata({b"hists": json.dumps(HISTS).encode()})
    told = {"k": k, "n_events": k % 3, "complete": k % 5 > 0, "rows": {"a": k, "b": 1},
            "hits": {"a": k - 1}, **info}  # fmt: skip
    return ResultPart(k, 0, 1, "monitor", len(values), told), write_batch(batch).to_pybytes()


def values_of(k: int) -> dict[str, list[int]]:
    rng = np.random.default_rng(k)
    out = {"ch0/occupancy": rng.integers(0, 9, 6).tolist()}
    if k % 2:
        out["event/rate"] = [1, k, -k]
    return out


def folded(order: list[int], fold: Fold | None = None) -> Fold:
    fold = fold or Fold(42, FIRST, L, P)
    offsets: Counter[int] = Counter()
    for k in order:
        p = partition(k, P)
        fold.add(p, offsets[p], *delta(k, values_of(k)))
        offsets[p] += 1
    return fold


def mixed(n: int, rng: random.Random) -> list[int]:
    """Slices in order of their partitions, the partitions as they like."""
    queues = [[k for k in range(FIRST, FIRST + n) if partition(k, P) == p] for p in range(P)]
    out = []
    while any(queues):
        out.append(rng.choice([q for q in queues if q]).pop(0))
    return out


@pytest.mark.parametrize("seed", range(20))
def test_any_order_gives_the_sums(seed: int) -> None:
    n = 60
    fold = folded(mixed(n, random.Random(seed)))
    slices = range(FIRST, FIRST + n)
    for name in ("ch0/occupancy", "event/rate"):
        expected = np.sum([values_of(k)[name] for k in slices if name in values_of(k)], axis=0)
        assert fold.values[name].tolist() == expected.tolist()
    assert fold.rows == {"a": sum(slices), "b": n} and fold.hits["a"] == sum(slices) - n
    assert fold.totals["events"] == sum(k % 3 for k in slices)
    assert fold.totals["complete"] == sum(k % 5 > 0 for k in slices)
    assert (fold.totals["slices"], fold.next, fold.newest) == (n, FIRST + n, FIRST + n - 1)
    assert fold.hists == HISTS
    assert sum(fold.offsets.values()) == n
    assert fold.record(True)[1] == folded(list(slices)).record(True)[1]


def test_next_is_the_first_slice_that_did_not_come() -> None:
    fold = folded([k for k in range(FIRST, FIRST + 20) if k != FIRST + 7])
    assert (fold.next, fold.newest) == (FIRST + 7, FIRST + 19)


def test_a_slice_that_was_seen_is_dropped_and_counted() -> None:
    fold = folded(list(range(FIRST, FIRST + 8)))
    before = {n: v.tolist() for n, v in fold.values.items()}
    folded(list(range(FIRST, FIRST + 8)), fold)
    assert fold.totals["duplicates"] == 8 and fold.totals["slices"] == 8
    assert {n: v.tolist() for n, v in fold.values.items()} == before


def test_a_snapshot_reads_back_and_says_what_is_in_it() -> None:
    fold = folded(list(range(FIRST, FIRST + 25)))
    part, body = fold.record(False)
    told = read_result(result_headers(part, body))
    batch = read_batch(body)
    assert batch.schema.metadata[b"hists"] == json.dumps(HISTS).encode()
    got = dict(zip(batch.column("name").to_pylist(), batch.column("values").to_pylist(),
                   strict=True))  # fmt: skip
    assert got == {n: v.tolist() for n, v in fold.values.items()}
    info = told.info
    assert info is not None
    assert (info["run"], info["k_first"], info["k_next"]) == (42, FIRST, FIRST + 25)
    assert info["t_ns"] == (FIRST + 25) * L and info["final"] is False
    assert info["n_slices"] == 25 and set(info["offsets"]) == set("0123")
    assert sum(info["offsets"].values()) == 25


def test_a_snapshot_before_the_first_slice() -> None:
    part, body = Fold(1, 0, L, P).record(False)
    assert read_batch(body).num_rows == 0
    assert read_result(result_headers(part, body)).info is not None


def test_snapshots_sum_like_their_deltas() -> None:
    """A viewer that comes late adds later deltas to a snapshot."""
    early = folded(list(range(FIRST, FIRST + 10)))
    batch = read_batch(early.record(False)[1])
    late = Fold(42, FIRST, L, P)
    late.add(0, 0, ResultPart(FIRST, 0, 1, "monitor", 2, {}), write_batch(batch).to_pybytes())
    more = folded(list(range(FIRST + 10, FIRST + 20)), Fold(42, FIRST + 10, L, P))
    total = folded(list(range(FIRST, FIRST + 20)))
    for name, values in total.values.items():
        assert (late.values[name] + more.values[name]).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("slices", "length", "expected"),
    [
        (25, L, [[0, 10], [1, 10]]),  # the last second is not whole
        (30, L, [[0, 10], [1, 10], [2, 10]]),
        (3, 2_000_000_000, [[0, 0.5], [2, 0.5], [4, 0.5]]),
        (4, 1_000_000_000, [[0, 1], [1, 1], [2, 1], [3, 1]]),
    ],
)
def test_rates_are_per_second_of_experiment_time(
    slices: int, length: int, expected: list[list[float]]
) -> None:
    fold = Fold(1, 0, length, P)
    for k in range(slices):
        told = delta(k, {}, rows={"a": 1}, n_events=2)
        fold.add(partition(k, P), k, *told)
    assert [[t, rows["a"]] for t, rows, _ in fold.rates()] == expected
    assert all(events == pytest.approx(2 * rows["a"]) for _, rows, events in fold.rates())


def test_a_long_run_keeps_the_last_minutes_only() -> None:
    fold = Fold(1, 0, 1_000_000_000, P)
    for k in range(3 * HISTORY_S):
        fold._count(k, {"rows": {"a": 1}})
    assert len(fold.seconds) <= 2 * HISTORY_S
    rates = fold.rates()
    assert len(rates) == HISTORY_S and rates[-1][0] == 3 * HISTORY_S - 1
    assert fold.rows["a"] == 3 * HISTORY_S


@pytest.mark.parametrize("body", [b"", b"junk", write_batch(
    pa.RecordBatch.from_arrays([pa.array([1])], ["x"])).to_pybytes()])  # fmt: skip
def test_a_delta_that_cannot_be_read_is_counted_and_stops_nobody(body: bytes) -> None:
    fold = folded(list(range(FIRST, FIRST + 4)))
    before = {n: v.tolist() for n, v in fold.values.items()}
    fold.add(partition(FIRST + 4, P), 99, ResultPart(FIRST + 4, 0, 1, "monitor"), body)
    assert fold.totals["bad"] == 1 and fold.next == FIRST + 5
    assert {n: v.tolist() for n, v in fold.values.items()} == before
    assert fold.totals["slices"] == 4


def test_a_histogram_of_another_size_spoils_nothing() -> None:
    fold = folded([FIRST])
    occupancy = fold.values["ch0/occupancy"].tolist()
    fold.add(partition(FIRST + 1, P), 9, *delta(FIRST + 1, {"event/rate": [1, 1, 1],
                                                            "ch0/occupancy": [1] * 7}))  # fmt: skip
    assert fold.values["ch0/occupancy"].tolist() == occupancy
    assert fold.totals["bad"] == 1


def test_a_failed_slice_has_no_histograms_and_counts() -> None:
    fold = Fold(42, FIRST, L, P)
    fold.add(0, 0, *delta(FIRST, {}))
    assert fold.totals["slices"] == 1 and fold.values == {}
    fold.add(1, 0, *delta(FIRST + 1, values_of(FIRST + 1)))
    assert set(fold.values) == set(values_of(FIRST + 1))
