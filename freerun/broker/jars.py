"""Kafka's jars: a pinned list, fetched one by one, each checked against its SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from freerun.errors import EnvironmentProblem

KAFKA_VERSION = "4.3.1"
Progress = Callable[[int, int, str], None]
"""Called with (jars done, jars in all, name of the jar just done)."""


@dataclass(frozen=True)
class Jar:
    """One line of the list: `group:artifact:version sha256`."""

    coordinate: str
    sha256: str

    @property
    def filename(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def pinned() -> list[Jar]:
    """The jars that make a broker, in the order of the list."""
    text = files("freerun.broker").joinpath(f"kafka-{KAFKA_VERSION}.jars.txt").read_text("ascii")
    return [Jar(*line.split()) for line in text.splitlines() if line.strip()]


def default_cache() -> Path:
    """`$FREERUN_CACHE`, or the user's cache folder, with Kafka's version below it."""
    named = os.environ.get("FREERUN_CACHE")
    if named:
        return Path(named).expanduser() / f"kafka-{KAFKA_VERSION}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "freerun" / f"kafka-{KAFKA_VERSION}"


def ensure_jars(cache: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """Every pinned jar as a file in `cache`; what is missing or damaged is fetched.

    Good jars are kept, so an interrupted fetch goes on where it stopped, and two processes
    may fetch at once: a jar appears under its name only when it is whole and checked.
    Raises EnvironmentProblem when one cannot be had.
    """
    cache = cache or default_cache()
    jars = pinned()
    missing = [jar for jar in jars if not _good(cache / jar.filename, jar.sha256)]
    if missing:
        with scratch(cache) as new:
            _fetch_all(missing, cache, new, len(jars), progress)
    return [cache / jar.filename for jar in jars]


def _good(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest() == sha256
    except OSError:
        return False


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A private folder beside the jars (same file system, so a rename publishes a file)."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
    except OSError as e:
        raise EnvironmentProblem(
            f"cannot write Kafka's jars to {cache} ({e.strerror}); "
            "name another folder with FREERUN_CACHE"
        ) from e
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_all(
    missing: list[Jar], cache: Path, new: Path, total: int, progress: Progress | None
) -> None:
    # Coordinates one by one: a transitive resolver would choose other versions than the list.
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    mirrors = GlobalSettings.load().repositories or None  # the user's jgo.conf, if there is one
    context = MavenContext(repo_cache=new, remote_repos=mirrors, timeout=60)

    def fetch(jar: Jar) -> None:
        got = context.create_dependency(jar.coordinate).artifact.resolve()
        if not _good(got, jar.sha256):
            raise EnvironmentProblem(
                f"{jar.filename} came with another SHA-256 than the pinned {jar.sha256[:12]}…; "
                "the download is not Kafka's: look at the network or the mirror in jgo.conf"
            )
        os.replace(got, cache / jar.filename)

    done = total - len(missing)
    with ThreadPoolExecutor(8) as pool:
        todo = {pool.submit(fetch, jar): jar for jar in missing}
        try:
            for future in as_completed(todo):
                future.result()
                done += 1
                if progress:
                    progress(done, total, todo[future].filename)
        except EnvironmentProblem:
            raise
        except Exception as e:  # requests' and jgo's many own classes
            raise EnvironmentProblem(
                f"cannot fetch {todo[future].filename} of Kafka {KAFKA_VERSION} ({_brief(e)}); "
                f"{done} of {total} jars are in {cache}: run again when the Maven repository "
                "can be reached, or name a running broker with FREERUN_KAFKA=host:port"
            ) from e
        finally:
            pool.shutdown(cancel_futures=True)


def _brief(e: Exception) -> str:
    text = " ".join(str(e).split())
    return f"{type(e).__name__}: {text[:160]}" if text else type(e).__name__
