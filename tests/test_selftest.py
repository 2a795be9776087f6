"""Parts of the self-test: its store, what it sees of results, its choice of faults."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from run_freerun import freerun

from controllers.writer import publish, s3
from freerun import config
from freerun.app import selftest
from freerun.app.selftest_bench import FULL, LOST, SHORT, write_bench
from freerun.app.selftest_faults import FAULTS
from freerun.app.selftest_s3 import Store
from freerun.app.selftest_watch import STEADY, Watch
from freerun.config.models import Timeouts


def test_an_unknown_fault_is_a_sentence() -> None:
    code, printed = freerun("selftest", "--only", "kill-everything")
    assert code == 2
    assert "there is no fault 'kill-everything': known are kill-source" in printed


def test_faults_are_made_in_their_own_order() -> None:
    assert selftest.chosen([]) == list(FAULTS)
    assert [f.name for f in selftest.chosen(["s3-down", "kill-loop"])] == ["kill-loop", "s3-down"]
    assert FAULTS[-1].name == "s3-down", "it ends the run"


def test_the_bench_has_the_time_outs_told_and_those_of_full_are_the_defaults(
    tmp_path: Path,
) -> None:
    bench = config.check(*write_bench(tmp_path, SHORT, 1000.0, 9999))
    assert bench.timeouts == SHORT.timeouts
    assert bench.timeouts.seconds("heartbeat") == 0.3
    assert bench.time.give_up_after == 2_000_000_000
    assert not bench.source(LOST).critical
    assert FULL.timeouts == Timeouts()
    assert FULL.stop > max(FULL.transaction, FULL.worker, FULL.lane, FULL.give_up)
    assert SHORT.stop > max(SHORT.transaction, SHORT.worker, SHORT.lane, SHORT.give_up)


def test_the_store_is_one_to_the_writers_uploads(tmp_path: Path) -> None:
    """Once, never over another one, and away while it is down."""
    store = Store()
    client = s3.make_client(f"http://127.0.0.1:{store.port}", "us-east-1", "k", "k", timeout=2.0)
    there = s3.Store(s3.Location("selftest", "x"), client)
    path = tmp_path / "a.root"
    path.write_bytes(b"mine" * 100_000)
    digest = publish.sha256_of(path)
    with pytest.raises(s3.Away):
        there.put_new(path, digest, "Run000001", "a.root")
    for _ in range(2):
        store.up()
        there.put_new(path, digest, "Run000001", "a.root")
        assert store.keys == {"x/Run000001/a.root": digest}
        store.down()
    store.up()
    try:
        with pytest.raises(s3.Taken):
            there.put_new(path, "0" * 64, "Run000001", "a.root")
        there.put(b"text", "Run000001", "README.txt")
        assert len(store.keys) == 2
    finally:
        store.down()


def test_what_counts_as_flowing(monkeypatch: pytest.MonkeyPatch) -> None:
    watch: Any = object.__new__(Watch)
    watch._L, watch._missing, watch.duplicates = 100_000_000, {}, 0
    watch._ending = threading.Event()
    watch.begin(1000)
    monkeypatch.setattr("time.time", lambda: 104.0)  # slice 1039 has just ended
    assert not watch.flows(2.0)
    watch._missing |= dict.fromkeys(range(1000, 1038), ())
    watch._next = 1038
    assert watch.flows(2.0) and watch.lag_s() == pytest.approx(0.1)
    assert not watch.flows(0.05)
    watch._missing[1037 - STEADY] = ("tdc1",)
    assert watch.flows(2.0), "long ago"
    watch._missing[1037] = ("tdc1", "digi0")
    assert not watch.flows(2.0) and watch.flows(2.0, complete=False)
    assert watch.without(1000, 1038) == {"tdc1": 2, "digi0": 1}


def test_what_s3_has_not_is_named() -> None:
    store = Store()
    store.keys["selftest/Run000001/a.root"] = "aa"
    store.keys["selftest/Run000001/b.root"] = "other"
    files = [{"name": n, "sha256": d} for n, d in (("a.root", "aa"), ("b.root", "bb"))]
    document = {"outputs": {"root0": files}, "folder": "/data/Run000001"}
    assert selftest._not_in_s3(document, store) == ["b.root"]
