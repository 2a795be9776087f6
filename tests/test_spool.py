"""The spool on disk: order, what a killed process leaves, a full disk, and one owner at a time."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_source import whole

from freerun.errors import EnvironmentProblem
from freerun.wire import part_headers
from producers import spool, spool_files
from producers.sequencer import Out
from producers.spool import Kept, Spool

TOPIC = "x.raw.a"
ROOT = Path(__file__).resolve().parents[1]


def out(number: int, size: int = 100) -> Out:
    """An entry known by its slice; without rows if it has no body."""
    body = random.Random(number).randbytes(size)
    return Out(number % 3, whole(number, rows=int(size > 0)), body)


def same(found: Out, wanted: Out) -> bool:
    headers = part_headers(found.part) == part_headers(wanted.part)
    return headers and found.partition == wanted.partition and found.body == wanted.body


def die(owner: Spool) -> None:
    """What the kernel does for a killed process: its descriptors are closed, nothing else."""
    owner._close_in()
    owner._close_out()
    os.close(owner._note)
    os.close(owner._lock)


def drain(owner: Spool) -> list[Out]:
    found = []
    while (kept := owner.take()) is not None:
        found.append(kept.out)
        owner.done(kept)
    return found


# ------------------------------------------------------------------ any history


class Killed(BaseException):
    """In the middle of a write."""


class Disk:
    """Stands for the one place that writes: whole, or so many bytes of it and then an end."""

    def __init__(self) -> None:
        self.after = 0
        self.error: BaseException | None = None

    def write(self, descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
        whole = b"".join(bytes(p) for p in pieces)
        if self.error is None:
            os.write(descriptor, whole)
            return
        error, self.error = self.error, None
        os.write(descriptor, whole[: min(self.after, len(whole) - 1)])
        raise error


class Model:
    """What must come out: the entries on disk from the first that was not acknowledged on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = Disk()
        self.entries: list[Out] = []  # in order, without those that died in memory
        self.next = self.first = 0  # to be taken; not done
        self.flying: list[tuple[int, Kept]] = []
        self.done: set[int] = set()
        self.memory: set[int] = set()  # taken, and never on disk
        self.made = 0
        self.owner = Spool(folder, TOPIC)

    def put(self, size: int, error: BaseException | None = None, after: int = 0) -> None:
        new = out(self.made, size)
        self.made += 1
        self.disk.error, self.disk.after = error, after
        try:
            assert self.owner.put(new)
            self.entries.append(new)
        except Killed:
            self.heir()
        finally:
            self.disk.error = None

    def keep(self, size: int) -> None:
        if self.owner.unread or self.next < len(self.entries):
            return
        new = out(self.made, size)
        self.made += 1
        kept = self.owner.keep(new)
        assert kept is not None
        self.entries.append(new)
        self.flying.append((self.next, kept))
        self.next += 1

    def take(self) -> None:
        kept = self.owner.take()
        if self.next == len(self.entries):
            assert kept is None
            return
        assert kept is not None and same(kept.out, self.entries[self.next])
        self.flying.append((self.next, kept))
        if kept.end is None:
            self.memory.add(self.next)
        self.next += 1

    def acknowledge(self, which: int) -> None:
        if self.flying:
            number, kept = self.flying.pop(which % len(self.flying))
            self.owner.done(kept)
            self.done.add(number)
            while self.first in self.done | self.memory:
                self.first += 1

    def heir(self) -> None:
        """The owner is killed: what was in memory is lost, what was not done comes again."""
        lost = len(self.owner._tail)
        die(self.owner)
        alive = len(self.entries) - lost
        self.entries = [e for n, e in enumerate(self.entries[:alive])
                        if n >= self.first and n not in self.memory]  # fmt: skip
        self.next = self.first = 0
        self.flying, self.done, self.memory = [], set(), set()
        self.owner = Spool(self.folder, TOPIC)

    def end(self) -> None:
        for _ in range(len(self.entries) - self.next):
            self.take()
        self.take()  # there is nothing more
        while self.flying:
            self.acknowledge(len(self.flying) // 2)
        assert not self.owner.unread and self.owner.bytes == 0
        assert not list(self.folder.glob("*.spool")), "drained files are deleted"
        self.owner.close()


SIZES = st.sampled_from([0, 1, 90, 300, 700])
STEPS = st.one_of(
    st.tuples(st.just("put"), SIZES),
    st.tuples(st.just("keep"), SIZES),
    st.tuples(st.just("take")),
    st.tuples(st.just("take")),
    st.tuples(st.just("acknowledge"), st.integers(0, 9)),
    st.tuples(st.just("acknowledge"), st.just(0)),
    st.tuples(st.just("heir")),
    st.tuples(st.just("killed"), SIZES, st.integers(0, 1200)),
    st.tuples(st.just("full"), SIZES, st.integers(0, 1200)),
)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_any_history(steps: list[tuple[object, ...]]) -> None:
    """Puts, takes and acknowledgements in any order, kills at any byte of a write, full disks:
    every entry comes out in order, whole, and again only if it was not acknowledged."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spool, "SEGMENT_BYTES", 1000)
        patch.setattr(spool, "TRY_AGAIN_S", 0.0)
        model = Model(Path(folder))
        patch.setattr(spool_files, "write", model.disk.write)
        for what, *args in steps:
            if what == "killed":
                model.put(args[0], Killed(), args[1])
            elif what == "full":
                model.put(args[0], OSError(errno.ENOSPC, "No space left on device"), args[1])
            else:
                getattr(model, str(what))(*args)
        model.end()


def test_a_crash_at_every_byte(tmp_path: Path) -> None:
    """Two entries in one file, cut anywhere: the whole ones come out, the rest is counted."""
    owner = Spool(tmp_path / "a", TOPIC)
    sizes = []
    for n in range(2):
        assert owner.put(out(n, 10))
        sizes.append(owner.bytes)
    die(owner)
    content = (tmp_path / "a" / "000000000001.spool").read_bytes()
    assert len(content) == sizes[-1]
    title = len(spool_files.title(TOPIC))
    for at in range(len(content) + 1):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / "acked").unlink(missing_ok=True)
        (folder / "000000000001.spool").write_bytes(content[:at])
        heir = Spool(folder, TOPIC)
        assert heir.put(out(9, 5)), "the heir writes behind what it found"
        found = drain(heir)
        whole_ones = sum(size <= at for size in sizes)
        expected = [out(n, 10) for n in range(whole_ones)] + [out(9, 5)]
        assert [f.part.k for f in found] == [e.part.k for e in expected]
        assert all(same(f, e) for f, e in zip(found, expected, strict=True))
        begun = max([title, *(size for size in sizes if size <= at)])
        assert heir.torn_bytes == max(0, at - begun)
        heir.close()


def test_a_rotten_byte_costs_the_rest_of_its_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 2000)
    owner = Spool(tmp_path, TOPIC)
    for n in range(20):
        assert owner.put(out(n, 400))
    die(owner)
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) == 5
    content = bytearray(files[1].read_bytes())
    at = content.index(b'"anchor","0')
    at = content.index(b'"anchor","0', at + 1)  # in the headers of its second entry
    content[at + len(b'"anchor","')] ^= 1  # another number
    files[1].write_bytes(content)
    heir = Spool(tmp_path, TOPIC)
    assert [o.part.k for o in drain(heir)] == [*range(5), *range(8, 20)]
    assert heir.torn_bytes > 800
    heir.close()


def test_a_body_that_rots_is_for_the_reader_to_see(tmp_path: Path) -> None:
    """Its part's checksum stands in the headers: the assembler names the slice."""
    owner = Spool(tmp_path, TOPIC)
    assert owner.put(out(0, 50)) and owner.put(out(1, 50))
    die(owner)
    (file,) = tmp_path.glob("*.spool")
    content = bytearray(file.read_bytes())
    content[-70 - len(spool_files.encode(out(1, 50))[1])] ^= 255  # the end of the first body
    file.write_bytes(content)
    heir = Spool(tmp_path, TOPIC)
    first, second = drain(heir)
    assert first.part == out(0, 50).part and first.body != out(0, 50).body
    assert same(second, out(1, 50))
    heir.close()


# ------------------------------------------------------------------ bounds


def test_the_bound_refuses_rows_and_takes_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "TAIL_BYTES", 5_000)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 10_000)
    monkeypatch.setattr(spool, "HEADROOM_BYTES", 10_000)
    owner = Spool(tmp_path, TOPIC, limit=100_000)
    n = 0
    while not owner.full:
        assert owner.put(out(n, 1000)) and n < 200
        n += 1
    assert 85_000 < owner.bytes < 100_000
    while owner.put(out(n, 1000)):  # what was made already: on disk to the bound, then in memory
        n += 1
        assert owner.bytes < 107_000
    assert sum(f.stat().st_size for f in tmp_path.glob("*.spool")) <= 100_000
    for k in range(50):
        assert owner.put(out(1000 + k, 0))
    assert not owner.put(out(5000, 1000)), "rows would overtake nobody, but there is no room"
    found = []
    for _ in range(60):
        kept = owner.take()
        assert kept is not None
        owner.done(kept)
        found.append(kept.out.part.k)
    assert owner.room() > 40_000
    assert owner.put(out(6000, 1000)), "there is room again"
    assert not owner.full
    found += [o.part.k for o in drain(owner)]
    assert found == [*range(n), *range(1000, 1050), 6000]
    owner.close()


def test_a_disk_that_fails_keeps_order_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(spool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    right, tries = spool_files.write, [0]

    def write(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
        tries[0] += 1
        os.write(descriptor, bytes(pieces[0])[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = Spool(tmp_path, TOPIC)
    assert owner.put(out(0)) and not owner.full
    monkeypatch.setattr(spool_files, "write", write)
    assert owner.put(out(1)) and owner.full and owner.failures == tries[0] == 1
    assert owner.put(out(2, 0)) and tries[0] == 1, "not again at once"
    now[0] += 1.5
    assert owner.put(out(3, 0)) and tries[0] == 2 and owner.full
    monkeypatch.setattr(spool_files, "write", right)
    now[0] += 1.5
    assert owner.full, "what is in memory must go first"
    assert owner.put(out(4)) and not owner.full
    die(owner)
    heir = Spool(tmp_path, TOPIC)
    assert [o.part.k for o in drain(heir)] == [0, 1, 2, 3, 4]
    heir.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=8m") != 0:
        pytest.skip(f"mounting a tmpfs is not allowed here: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(str(folder).encode(), 2)


def test_a_small_disk(small_disk: Path) -> None:
    """Real ENOSPC: somebody else fills the disk; it is emptied; nothing taken was lost."""
    owner = Spool(small_disk / "a", TOPIC)
    assert not owner.full and owner.room() > 7_000_000
    n = 0
    while not owner.full:
        assert owner.put(out(n, 100_000))
        n += 1
    assert 60 < n < 80, "a headroom and a twentieth of the disk are left to others"
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    assert owner.room() == 0
    assert owner.put(out(n, 100_000)), "in memory"
    for k in range(100):
        assert owner.put(out(1000 + k, 0))
    assert owner.failures == 0, "rows need room; a close behind them waits for them"
    assert [owner.take().out.part.k for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    filler.unlink()
    assert owner.put(out(2000, 0))
    die(owner)
    heir = Spool(small_disk / "a", TOPIC)
    assert [o.part.k for o in drain(heir)] == [*range(n + 1), *range(1000, 1100), 2000]
    heir.close()


# ------------------------------------------------------------------ one owner


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """A second process does not drain while the first one lives, whatever it does."""
    code = (
        "import sys, pathlib, time; from producers.spool import Spool; "
        f"s = Spool(pathlib.Path(sys.argv[1]), {TOPIC!r}); print('mine', flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "mine\n"
        with pytest.raises(EnvironmentProblem, match=rf"pid {first.pid}\): end it first"):
            Spool(tmp_path, TOPIC, lock_s=0.1)
        first.kill()
        Spool(tmp_path, TOPIC, lock_s=20).close()


def test_the_spool_of_another_topic_is_not_sent(tmp_path: Path) -> None:
    owner = Spool(tmp_path, TOPIC)
    assert owner.put(out(1))
    owner.close()
    with pytest.raises(EnvironmentProblem, match=r"holds data of x\.raw\.a, expected y\.raw\.a"):
        Spool(tmp_path, "y.raw.a")
    heir = Spool(tmp_path, TOPIC)
    assert [o.part.k for o in drain(heir)] == [1]
    heir.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="cannot be made"):
        Spool(tmp_path / "file" / "a", TOPIC)


def test_speed_is_that_of_the_disk(tmp_path: Path) -> None:
    """Not a benchmark: 64 MB in and out again in a time that no sane machine exceeds."""
    owner = Spool(tmp_path, TOPIC)
    begun = time.monotonic()
    for n in range(72):
        assert owner.put(Out(0, whole(n), bytes(900_000)))
    assert [o.part.k for o in drain(owner)] == list(range(72))
    assert time.monotonic() - begun < 30
    owner.close()
