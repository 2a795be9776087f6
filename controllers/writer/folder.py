"""The folder of a run: README.txt, run.json, manifest.json, the bench's configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controllers.writer import branches, csvfiles, publish
from controllers.writer.publish import Sidecar

Doc = Mapping[str, Any]


def run_name(run: int) -> str:
    return f"Run{run:06d}"


def readme(doc: Doc, sidecars: list[Sidecar]) -> str:
    """What is in the folder and how to open it, for whoever finds it in ten years."""
    run = int(doc["run"])
    name = run_name(run)
    data = [s for s in sidecars if s.get("kind") == "events"]
    total = {
        key: sum(int(s["counts"][key]) for s in data)
        for key in ("slices", "complete", "live_ns", "events")
    }
    ns = int(doc.get("slice_ns") or 0)
    first_file = data[0]["name"] if data else f"{name}_<pipeline>_0000.root"
    pipelines = ", ".join(dict.fromkeys(str(s["writer"]) for s in data)) or "none"
    ledger = doc.get("ledger") or {}
    lines = [
        f"{name}   {doc.get('system', '')}   type: {doc.get('type') or '-'}",
        f"comment: {doc.get('comment') or '-'}   shifter: {doc.get('shifter') or '-'}",
        f"state as this was written: {doc.get('state', '?')}   ledger: "
        f"{ledger.get('line', 'not spoken yet')}",
        "",
        f"slices      {total['slices']} of {ns / 1e6:g} ms, complete: {total['complete']}",
        f"live time   {total['live_ns'] / 1e9:.3f} s",
        f"events      {total['events']}   (pipelines: {pipelines})",
        f"sources     {', '.join(doc.get('sources') or []) or '-'}"
        "   (index = hit_source, pulse_source, bits of missing)",
        f"detectors   {', '.join(doc.get('detectors') or []) or '-'}   (index = *_det)",
        "",
        f"{name}_<pipeline>_NNNN.root  trees: events, hits (in no event), pulses, slices, ledger, "
        "run",
        f"{name}_monitor.root          all histograms: <pipeline>/<detector>/<name>",
        "run.json                       the run document          bench.toml  the configuration",
        "manifest.json                  every file with size and sha256; <file>.json: its sidecar",
        f"{name}_ledger.csv           totals of each source; {name}_rates.csv: rates per 10 s",
        "Inside each data file: README, run_document, bench_toml, columns (units and meanings).",
        f"Schema {branches.SCHEMA}. Times: t0_ns + t0_ps since the Unix epoch; draw t_run (ns).",
        "",
        "ROOT:",
        f'  TChain c("events"); c.Add("{name}/{first_file.replace("_0000.root", "_*.root")}");',
        '  c.Draw("hit_t>>h(600,-100,500)", "hit_det==0 && !(quality&1)");',
        "uproot:",
        f'  ev = uproot.concatenate("{name}/{first_file.replace("_0000.root", "_*.root")}:events")',
        "pandas:",
        f'  hits = uproot.open("{name}/{first_file}")["hits"].arrays(library="pd")',
        "freerun:",
        f"  import freerun; freerun.open({run}).events()",
    ]
    return "\n".join(lines) + "\n"


def write_configuration(folder: Path, texts: Mapping[str, str]) -> None:
    """bench.toml, bench.resolved.toml: what was in force at the start; never replaced."""
    for name, text in texts.items():
        if text and not (folder / name).exists():
            publish.write_new(folder / name, text.encode())


def write_document(folder: Path, doc: Doc, sidecars: list[Sidecar]) -> None:
    """run.json and README.txt as of now; they are final when the document says closed."""
    publish.write_over(folder / "run.json", (json.dumps(doc, indent=1) + "\n").encode())
    publish.write_over(folder / "README.txt", readme(doc, sidecars).encode())
    if doc.get("ledger"):
        told = csvfiles.ledger_csv(doc), csvfiles.rates_csv(folder, doc, sidecars)
        for name, text in zip(csv_names(int(doc["run"])), told, strict=True):
            publish.write_over(folder / name, text.encode())


def csv_names(run: int) -> tuple[str, str]:
    """The tables that come with the final document."""
    return f"{run_name(run)}_ledger.csv", f"{run_name(run)}_rates.csv"


def written_document(folder: Path) -> dict[str, Any] | None:
    """The run document as run.json has it; None if it has none that can be read."""
    try:
        document: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return None
    return document


def all_sidecars(folder: Path) -> list[Sidecar]:
    """The sidecars of all files in the folder, of all its writers, by name."""
    out = []
    for path in sorted(folder.glob("Run*.json")):
        final = path.with_suffix("")
        if final.suffix:  # <file>.<kind>.json, not a file of its own
            out.append(publish.read_sidecar(final))
    return out


def write_manifest(folder: Path, run: int, installation: str) -> list[Sidecar]:
    """manifest.json from the sidecars; returns them."""
    sidecars = all_sidecars(folder)
    keys = ("name", "kind", "bytes", "rows", "first", "last", "sha256")
    files = [{key: s.get(key) for key in keys} for s in sidecars]
    whole = {"schema": 1, "run": run, "installation": installation, "files": files}
    publish.write_over(folder / "manifest.json", (json.dumps(whole, indent=1) + "\n").encode())
    return sidecars


def publish_file(
    folder: Path, name: str, kind: str, facts: Mapping[str, Any], write: Callable[[Path], None]
) -> Sidecar:
    """A file that is made in one go: written by `write(temporary)`, published with its sidecar.

    If the name is taken, the file that is there stays and has the say.
    """
    final = folder / name
    about = {"schema": branches.SCHEMA, "kind": kind, "number": 0, **facts}
    if final.exists():
        return publish.ensure_sidecar(final, lambda _path: dict(about))
    temp = publish.temporary(final)
    temp.unlink(missing_ok=True)
    try:
        write(temp)
        sidecar, _ours = publish.publish(temp, final, about, lambda _path: dict(about))
    finally:
        temp.unlink(missing_ok=True)
    return sidecar
