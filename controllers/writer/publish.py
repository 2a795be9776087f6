"""Files that appear only when whole: hidden temporary, fsync, link-without-replace, sidecar.

A number is taken once, whoever is first: `link` fails where `rename` would overwrite. The
sidecar is the writer's only commit, and it always speaks of the file that is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from freerun.errors import EnvironmentProblem

Sidecar = dict[str, Any]


def owner() -> str:
    """This process, as it stands in the name of a temporary."""
    return f"{socket.gethostname()}-{os.getpid()}"


def temporary(final: Path, who: str = "") -> Path:
    """The hidden name under which `final` is written by this process."""
    return final.with_name(f".{final.name}.{who or owner()}.part")


def sidecar_path(final: Path) -> Path:
    return final.with_name(f"{final.name}.json")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove_stale(folder: Path) -> list[str]:
    """Remove temporaries of processes of this host that are dead, and older ones with our pid.

    To be called before this process writes its own. Those of a living process stay: it may be
    stopped and resumed, and finds out at its `link`.
    """
    mine = re.compile(rf"^\..+\.{re.escape(socket.gethostname())}-(\d+)\.part$")
    removed = []
    for path in sorted(folder.glob(".*.part")):
        found = mine.match(path.name)
        if found and (int(found[1]) == os.getpid() or not _alive(int(found[1]))):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_new(temp: Path, final: Path) -> bool:
    """Give a written temporary its final name, durably; False if the name is taken.

    The temporary is gone afterwards in both cases.
    """
    _sync(temp)
    try:
        os.link(temp, final)
    except FileExistsError:
        return False
    finally:
        temp.unlink(missing_ok=True)
    _sync(final.parent)
    return True


def write_new(final: Path, data: bytes) -> bool:
    """A small file that is never replaced; False if it was there already."""
    temp = temporary(final)
    temp.write_bytes(data)
    return link_new(temp, final)


def write_over(final: Path, data: bytes) -> None:
    """A small file that is replaced as a whole (README, run.json, manifest)."""
    temp = temporary(final)
    try:
        temp.write_bytes(data)
        _sync(temp)
        os.replace(temp, final)
    finally:
        temp.unlink(missing_ok=True)
    _sync(final.parent)


def publish(
    temp: Path, final: Path, ours: Sidecar, remake: Callable[[Path], Sidecar]
) -> tuple[Sidecar, bool]:
    """Give a data file its name, then its sidecar. Returns `(sidecar, was it ours)`.

    If the name is taken, ours is thrown away and the sidecar is made by `remake` from the file
    that is there, unless it has one; the caller begins again behind it.
    """
    _sync(temp)
    digest, size = sha256_of(temp), temp.stat().st_size
    if link_new(temp, final):
        made = ours | {"name": final.name, "bytes": size, "sha256": digest}
        write_new(sidecar_path(final), _json(made))
        return read_sidecar(final), True
    return ensure_sidecar(final, remake), False


def ensure_sidecar(final: Path, remake: Callable[[Path], Sidecar]) -> Sidecar:
    """The sidecar of a data file that is there; made again from the file if it has none."""
    if not sidecar_path(final).exists():
        facts = {
            "name": final.name,
            "bytes": final.stat().st_size,
            "sha256": sha256_of(final),
        }
        write_new(sidecar_path(final), _json(remake(final) | facts))
    return read_sidecar(final)


def read_sidecar(final: Path) -> Sidecar:
    path = sidecar_path(final)
    try:
        data: Sidecar = json.loads(path.read_text())
    except ValueError as error:
        raise EnvironmentProblem(
            f"sidecar {path} cannot be read ({error}): move it away, it is made again from its file"
        ) from error
    return data


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def give_to_group(path: Path, group: str | None) -> None:
    """Set the group of a file, as the configuration asks; a wish, never a reason to fail."""
    if group:
        with suppress(OSError, LookupError):
            shutil.chown(path, group=group)


_DISK = {
    errno.ENOSPC: "no space is left on its disk: free some (data waits in Kafka meanwhile)",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file is larger than the system allows: roll to smaller files",
    errno.EROFS: "the file system is read-only: mount it for writing",
    errno.EACCES: "permission is denied: give the folder to the user that runs freerun",
    errno.EPERM: "the file system refuses (no hard links there?): use a local folder",
    errno.EIO: "the disk has an input/output error: check it",
}


@contextmanager
def disk_sentence(folder: Path) -> Iterator[None]:
    """Turn an OSError of the disk into one sentence (`EnvironmentProblem`, exit code 3)."""
    try:
        yield
    except OSError as error:
        what = _DISK.get(error.errno or 0, f"{error.strerror or error}: check the disk")
        raise EnvironmentProblem(f"cannot write the run's files in {folder}: {what}") from error
