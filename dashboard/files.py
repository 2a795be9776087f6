"""Files of a run that a viewer may fetch: those in the run's folder below the data folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(?:raw/|calib/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PAPERS = ("README.txt", "run.json", "manifest.json", "bench.toml")


@dataclass(frozen=True)
class File:
    name: str
    bytes: int


class Shelf:
    """The run folders below one data folder; a folder is listed again only when it changed."""

    def __init__(self, data: Path) -> None:
        self._data = data.resolve()
        self._lists: dict[Path, tuple[int, list[File]]] = {}

    def folder(self, document: Mapping[str, Any]) -> Path | None:
        """The run's folder, or None if it is not below the data folder (or not there)."""
        named = document.get("folder")
        if not isinstance(named, str) or not named:
            return None
        folder = (self._data / named).resolve()
        return folder if folder.is_relative_to(self._data) and folder.is_dir() else None

    def find(self, document: Mapping[str, Any], name: str) -> Path | None:
        """A regular file of the run by its name, or None; nothing outside its folder, ever."""
        folder = self.folder(document)
        if folder is None or not _NAME.fullmatch(name) or ".." in name:
            return None
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None

    def list(self, document: Mapping[str, Any]) -> list[File]:
        """Data files first, then the papers; sidecars and unfinished files are left out."""
        folder = self.folder(document)
        if folder is None:
            return []
        try:
            changed = folder.stat().st_mtime_ns
            known = self._lists.get(folder)
            if known is None or known[0] != changed:
                known = (changed, _scan(folder))
                self._lists[folder] = known
        except OSError:
            return []
        return known[1]


def _scan(folder: Path) -> list[File]:
    found = {p.name: p for p in folder.iterdir() if p.is_file() and _NAME.fullmatch(p.name)}
    sidecars = {f"{name}.json" for name in found}
    data = [n for n in found if n not in _PAPERS and n not in sidecars]
    names = sorted(data, key=lambda n: (not n.endswith((".root", ".h5")), "_monitor." in n, n))
    names += [n for n in _PAPERS if n in found]
    return [File(name, found[name].stat().st_size) for name in names]
