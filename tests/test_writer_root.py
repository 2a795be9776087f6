"""The ROOT files branch by branch, read back with uproot, pandas and the independent `ROOT`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import awkward as ak
import make_results as make
import numpy as np
import pyarrow as pa
import pytest
import uproot

from controllers.writer import branches, tables
from controllers.writer.accounts import Accounts
from controllers.writer.chain import Chain, SliceResult
from controllers.writer.monitorfile import Fold, write_file
from controllers.writer.rootfile import RootFile
from controllers.writer.tables import Piece, RunFacts
from freerun import schemas, wire
from freerun.builder import FLAG_NEIGHBOUR
from freerun.histograms import Axis, Hist

FIRST, LAST = 1000, 1005
RUN = RunFacts(42, FIRST, make.L, make.SOURCES)

# the agreement, as it stands in the documentation: ROOT leaf codes
EVENTS = """event L run i spill I slice L t0_ns L t0_ps s t_run D t0_kind b t0_err F quality i
missing l weight F n_hit I hit_source s hit_channel s hit_det b hit_layer b hit_cell s hit_t F
hit_ticks L hit_width F hit_flags i n_seg I seg_det b seg_t0 F seg_x F seg_slope F seg_chi2 F
seg_n b seg_lat b seg_origin b seg_quality b n_pulse I pulse_source s pulse_channel s pulse_det b
pulse_t F pulse_q F pulse_qs F pulse_psd F pulse_amp F pulse_base F pulse_flags i"""
HEAD = "event L slice L t_ns L t_ps s t_run D source s channel s"
FLAT = {
    "hits": f"{HEAD} ticks L width F flags i",
    "pulses": f"{HEAD} q F qs F psd F amp F base F base_rms F cfd F rise F e_fw s es_fw s flags i",
    "slices": """slice L t_ns L dt L complete b by_timeout b missing l live_ns L good b spill I
    n_rows i n_events i config_version i""",
    "ledger": """slice L source s read l produced l assembled l processed l hits l other l masked l
    unknown l unassigned l shared l late l malformed l quarantined l pre_start l dropped l gap l
    stale l duplicate l hw_lost l spooled l checksum i""",
    "run": """number i t_start_ns L t_stop_ns L slice_ns L n_slices l n_complete l live_ns L
    n_events l file i exit I schema i""",
}


def results(partitions: int = 4, **more: object) -> list[SliceResult]:
    log = make.Log(partitions)
    for k in range(FIRST, LAST + 1):
        log.append(make.records(k, FIRST, partitions, **more))
    chain = Chain(FIRST, {}, partitions)
    log.feed(chain)
    out = []
    while (result := chain.take(LAST)) is not None:
        out.append(result)
    return out


def write(path: Path, slices: list[SliceResult], **more: object) -> Path:
    given = slices[0].tables.get("events")
    schema = given[0].schema if given else schemas.EVENTS
    file = RootFile(path, RUN, Accounts(RUN), schema, **more)
    for result in slices:
        file.add(result)
    file.close(0, -1, (LAST + 1) * make.L, {"README": "hello", "run_document": '{"run": 42}'})
    return path


@pytest.fixture(scope="module")
def slices() -> list[SliceResult]:
    return results(events_parts=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, slices: list[SliceResult]) -> Path:
    return write(tmp_path_factory.mktemp("root") / "a.root", slices)


def codes(tree: object) -> list[str]:
    """`name code` of each branch, from the leaf titles `name[n]/code`."""
    out = []
    for branch in tree.branches:  # type: ignore[attr-defined]
        name, code = re.fullmatch(r"(\w+)(?:\[\w+\])?/(\w)", branch.title).groups()
        out.append(f"{name} {code}")
    return out


def test_all_branches_with_their_types_and_order(whole: Path) -> None:
    with uproot.open(whole) as file:
        for name, text in {"events": EVENTS, **FLAT}.items():
            words = text.split()
            wanted = [f"{n} {c}" for n, c in zip(words[::2], words[1::2], strict=True)]
            assert codes(file[name]) == wanted
        groups = {b.title.split("[")[1].split("]")[0] for b in file["events"].branches
                  if "[" in b.title}  # fmt: skip
    assert groups == {"n_hit", "n_seg", "n_pulse"}


def test_texts_and_columns(whole: Path) -> None:
    with uproot.open(whole) as file:
        assert str(file["README"]) == "hello"
        assert json.loads(str(file["run_document"])) == {"run": 42}
        columns = json.loads(str(file["columns"]))
        for tree in ("events", *FLAT):
            assert set(columns[tree]) == set(file[tree].keys())
            assert all(set(c) == {"unit", "meaning", "from"} for c in columns[tree].values())
    assert columns["events"]["hit_t"]["unit"] == "ns"


def test_every_value_of_events_is_what_kafka_held(whole: Path, slices: list[SliceResult]) -> None:
    """A plain-Python reading of the Arrow rows is the oracle."""
    with uproot.open(whole) as file:
        got = file["events"].arrays().to_list()
    at = 0
    for result in slices:
        index = 0
        for batch in result.tables["events"]:
            for row in batch.to_pylist():
                ev = got[at]
                assert ev["event"] == (result.k - FIRST) << 24 | index
                assert (ev["run"], ev["spill"], ev["slice"]) == (42, -1, result.k)
                assert (ev["weight"], ev["missing"]) == (1.0, 0)
                exact = row["t0_ns"] - FIRST * make.L + row["t0_ps"] / 1000
                assert ev["t_run"] == pytest.approx(exact, abs=1e-6)
                for name in ("t0_ns", "t0_ps", "t0_kind", "t0_err", "quality"):
                    assert ev[name] == row[name]
                for group in ("hit", "seg", "pulse"):
                    assert ev[f"n_{group}"] == len(row[group])
                    for name in row[group][0] if row[group] else ():
                        assert ev[f"{group}_{name}"] == [r[name] for r in row[group]]
                assert ev["hit_width"] == [-1.0] * len(row["hit"])
                at, index = at + 1, index + 1
    assert at == len(got)


def test_every_value_of_the_flat_trees(whole: Path, slices: list[SliceResult]) -> None:
    with uproot.open(whole) as file:
        for tree in ("hits", "pulses"):
            got = file[tree].arrays(library="np")
            rows = [(r.k, row) for r in slices for b in r.tables[tree] for row in b.to_pylist()]
            assert len(got["slice"]) == len(rows) > 0
            assert got["slice"].tolist() == [k for k, _ in rows]
            for name in rows[0][1]:
                if name != "index":
                    wanted = np.array([row[name] for _, row in rows]).astype(got[name].dtype)
                    assert np.array_equal(got[name], wanted), name
            if tree == "hits":
                assert set(got["event"]) == {-1}
            else:
                wanted_events = [
                    -1 if row["index"] < 0 else (k - FIRST) << 24 | row["index"] for k, row in rows
                ]
                assert got["event"].tolist() == wanted_events
            exact = [row["t_ns"] - FIRST * make.L + row["t_ps"] / 1000 for _, row in rows]
            assert got["t_run"] == pytest.approx(exact, abs=1e-6)


def test_pulses_point_to_events_that_are_there(whole: Path) -> None:
    with uproot.open(whole) as file:
        pulses = file["pulses"]["event"].array(library="np")
        events = file["events"]["event"].array(library="np")
    assert np.isin(pulses[pulses >= 0], events).all() and len(np.unique(events)) == len(events)


def test_slices_ledger_and_run(whole: Path) -> None:
    n = LAST - FIRST + 1
    with uproot.open(whole) as file:
        slices = file["slices"].arrays(library="np")
        ledger = file["ledger"].arrays(library="np")
        run = {k: v[0] for k, v in file["run"].arrays(library="np").items()}
        events = file["events"].num_entries
    assert slices["slice"].tolist() == list(range(FIRST, LAST + 1))
    assert set(slices["live_ns"]) == {make.L} and set(slices["n_rows"]) == {300}
    assert slices["n_events"].sum() == run["n_events"] == events
    assert len(ledger["slice"]) == n * len(make.SOURCES)
    assert ledger["assembled"].sum() == ledger["produced"].sum() == 100 * n * 3
    assert (run["number"], run["exit"], run["n_slices"], run["live_ns"]) == (42, -1, n, n * make.L)


def test_missing_sources_are_bits_and_the_slice_is_not_live(tmp_path: Path) -> None:
    missing = {"tdc1": {"why": "gap", "detail": ""}, "digi0": {"why": "given_up", "detail": ""}}
    path = write(tmp_path / "m.root", results(missing=missing, complete=False, by_timeout=True))
    with uproot.open(path) as file:
        assert set(file["events"]["missing"].array(library="np")) == {0b110}
        slices = file["slices"].arrays(library="np")
    for name, value in {
        "missing": 6,
        "complete": 0,
        "good": 0,
        "live_ns": 0,
        "by_timeout": 1,
    }.items():
        assert set(slices[name]) == {value}, name


def test_small_flushes_give_the_same_file(
    tmp_path: Path, whole: Path, slices: list[SliceResult]
) -> None:
    """Baskets are cut elsewhere, the rows are the same; also beyond the first basket capacity."""
    path = write(tmp_path / "b.root", slices, flush_bytes=1)
    with uproot.open(whole) as one, uproot.open(path) as two:
        for tree in ("events", *FLAT):
            a, b = one[tree].arrays(), two[tree].arrays()
            assert ak.array_equal(a, b), tree
        assert two["events"].branches[0].num_baskets > one["events"].branches[0].num_baskets


def test_a_run_of_empty_slices(tmp_path: Path) -> None:
    path = write(tmp_path / "e.root", results(n_events=0, n_hits=0, n_pulses=0))
    with uproot.open(path) as file:
        assert [file[t].num_entries for t in ("events", "hits", "pulses", "slices")] == [0, 0, 0, 6]
        assert len(file["events"].arrays()) == 0


def test_failed_slices_are_rows_without_events(tmp_path: Path) -> None:
    failed = [SliceResult(k, {}, {}, failed="its results are not in the topic")
              for k in range(FIRST, LAST + 1)]  # fmt: skip
    path = write(tmp_path / "f.root", failed)
    with uproot.open(path) as file:
        assert set(file["slices"]["good"].array(library="np")) == {0}
        assert file["ledger"].num_entries == 6 * 3


def test_columns_of_a_builder_pass_through(tmp_path: Path) -> None:
    schema = schemas.EVENTS.append(
        pa.field("tof", pa.float32(), metadata={"unit": "ns", "meaning": "up to down"})
    ).append(pa.field("residual", pa.list_(pa.field("item", pa.float32(), nullable=False))))
    slices = results(schema=schema)
    path = write(tmp_path / "x.root", slices)
    rows = [row for r in slices for b in r.tables["events"] for row in b.to_pylist()]
    with uproot.open(path) as file:
        got = file["events"].arrays(["tof", "residual", "n_residual"]).to_list()
        columns = json.loads(str(file["columns"]))["events"]
        assert set(columns) == set(file["events"].keys())
    assert columns["tof"] == {"unit": "ns", "meaning": "up to down", "from": "builder"}
    assert [e["tof"] for e in got] == [r["tof"] for r in rows]
    assert [e["residual"] for e in got] == [r["residual"] for r in rows]


def test_hits_none_and_all(tmp_path: Path, slices: list[SliceResult]) -> None:
    with uproot.open(write(tmp_path / "n.root", slices, hits="none")) as file:
        assert file["hits"].num_entries == 0
    with uproot.open(write(tmp_path / "a.root", slices, hits="all")) as file:
        hits = file["hits"].arrays(library="np")
        events = file["events"].arrays()
    mine = hits["event"] >= 0
    counted = np.repeat(np.asarray(events["event"]), np.asarray(events["n_hit"]))
    assert np.array_equal(hits["event"][mine], counted)
    assert np.array_equal(hits["ticks"][mine], np.asarray(ak.flatten(events["hit_ticks"])))
    # exact: t0 plus the distance in whole picoseconds
    t0 = ak.flatten(
        ak.broadcast_arrays(events["t0_ns"] * 1000 + events["t0_ps"], events["hit_t"])[0]
    )
    ps = t0 + np.rint(np.asarray(ak.flatten(events["hit_t"])) * 1e3).astype(np.int64)
    assert np.array_equal(hits["t_ns"][mine] * 1000 + hits["t_ps"][mine], ps)
    assert (~mine).sum() == sum(b.num_rows for r in slices for b in r.tables["hits"])


def test_all_leaves_a_row_to_the_slice_that_owns_its_event() -> None:
    batch = make.table(schemas.HITS, FIRST, 10)
    flags = np.zeros(10, np.uint32)
    flags[:4] = FLAG_NEIGHBOUR
    batch = batch.set_column(batch.schema.get_field_index("flags"), batch.schema.field("flags"),
                             pa.array(flags))  # fmt: skip
    assert sum(b.num_rows for b in tables.all_hits([], [batch])) == 6


def test_no_row_is_copied_into_python_on_the_way() -> None:
    """Hit columns are views of the Arrow buffer, not copies."""
    batch = make.table(schemas.EVENTS, FIRST, 1000)
    column = tables.events([Piece(FIRST, 0, 0, batch)], RUN)["hit"]
    ticks = column.layout.content["ticks"].data
    child = batch.column("hit").values.field("ticks")
    assert ticks.ctypes.data == child.buffers()[1].address + 8 * child.offset


# ------------------------------------------------------------------- independent readers


def test_flat_trees_with_pandas(whole: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    with uproot.open(whole) as file:
        for tree in FLAT:
            frame = file[tree].arrays(library="pd")
            arrays = file[tree].arrays(library="np")
            assert list(frame.columns) == file[tree].keys()
            for name in frame.columns:
                assert np.array_equal(frame[name].to_numpy(), arrays[name]), (tree, name)
        frame = ak.to_dataframe(file["events"].arrays(["event", "hit_channel", "hit_t"]))
        assert len(frame) == ak.sum(file["events"]["n_hit"].array())


def test_every_branch_with_the_independent_reader(whole: Path) -> None:
    """ROOT itself reads the same numbers, element by element."""
    root = pytest.importorskip("ROOT", reason="the independent reader (wheel `ROOT`) is not here")
    file = root.TFile.Open(str(whole))
    with uproot.open(whole) as ours:
        for tree in ("events", *FLAT):
            arrays = ours[tree].arrays()
            theirs = file.Get(tree)
            assert theirs.GetEntries() == len(arrays)
            leaves = {name: theirs.GetLeaf(name) for name in arrays.fields}
            got: dict[str, list[float]] = {name: [] for name in leaves}
            for entry in range(len(arrays)):
                theirs.GetEntry(entry)
                for name, leaf in leaves.items():
                    real = leaf.GetTypeName() in ("Float_t", "Double_t")
                    read = leaf.GetValue if real else leaf.GetValueLong64  # doubles end at 2^53
                    got[name] += [read(i) for i in range(leaf.GetLen())]
            for name, values in got.items():
                wanted = np.asarray(ak.flatten(arrays[name], axis=None))
                assert np.array_equal(np.array(values).astype(wanted.dtype), wanted), (tree, name)
    text = str(file.Get("run_document").GetString())
    assert text == '{"run": 42}'
    file.Close()


# ------------------------------------------------------------------- monitors

H1 = Hist("ch0/drift_time", "Drift time of ch0", (Axis("drift time", 50, -100, 500, "ns"),))
H2 = Hist(
    "ch0/occupancy", "Occupancy of ch0", (Axis("layer", 4, 0.5, 4.5), Axis("cell", 16, 0, 16))
)


def delta(k: int) -> tuple[list[tuple[str, bytes]], bytes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(k)
    counts = {h.name: rng.integers(0, 2**40, h.shape) for h in (H1, H2)}
    schema = schemas.MONITOR.with_metadata({"hists": json.dumps([h.to_json() for h in (H1, H2)])})
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(list(counts)),
            pa.array([list(c.shape) for c in counts.values()], pa.list_(pa.int32())),
            pa.array([c.ravel() for c in counts.values()], pa.list_(pa.int64())),
        ],
        schema=schema,
    )
    body = wire.write_batch(batch).to_pybytes()
    return wire.result_headers(wire.ResultPart(k, 0, 1, "monitor", 2, {"k": k}), body), body, counts


def test_fold_and_file_of_monitors(tmp_path: Path) -> None:
    partitions = 4
    fold = Fold(FIRST, partitions)
    total = {h.name: h.zeros() for h in (H1, H2)}
    for k in range(FIRST - 3, LAST + 4):
        headers, body, counts = delta(k)
        assert fold.complete(LAST) == (k > LAST)
        for _ in range(2 if k == FIRST + 1 else 1):
            fold.offer(make.partition(k, partitions), headers, body, LAST)
        if FIRST <= k <= LAST:
            for name in counts:
                total[name] += counts[name]
    fold.offer(0, [("k", b"?")], b"", LAST)
    assert fold.duplicates == 1 and fold.bad == 1 and fold.complete(LAST)
    path = tmp_path / "m.root"
    write_file(path, {"muons": fold.hists}, {"README": "r"})
    with uproot.open(path) as file:
        one, two = file["muons/ch0/drift_time"], file["muons/ch0/occupancy"]
        assert (one.classname, two.classname) == ("TH1D", "TH2D")
        assert np.array_equal(one.values(), total[H1.name])
        assert np.array_equal(two.values(), total[H2.name])
        assert one.axis().member("fTitle") == "drift time [ns]" and one.title == H1.title
        assert [two.axis(i).member("fTitle") for i in (0, 1)] == ["layer", "cell"]
        assert one.axis().edges()[[0, -1]].tolist() == [-100, 500]
        assert one.member("fEntries") == total[H1.name].sum()
        assert two.values(flow=True).sum() == total[H2.name].sum()
        assert str(file["README"]) == "r"
    roots = pytest.importorskip("ROOT", reason="the independent reader (wheel `ROOT`) is not here")
    file = roots.TFile.Open(str(path))
    hist = file.Get("muons/ch0/occupancy")
    assert hist.GetBinContent(2, 3) == total[H2.name][1, 2]
    assert hist.GetXaxis().GetTitle() == "layer"
    file.Close()


def test_the_agreement_in_the_code_is_the_one_tested_here() -> None:
    assert set(branches.FLAT) == set(FLAT)
