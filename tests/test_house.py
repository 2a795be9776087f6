"""The house: who may import whom, what is shipped, what stays out of the files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

PACKAGES = ["freerun", "producers", "processors", "controllers", "dashboard"]
ROOT = Path(__file__).resolve().parents[1]


@cache
def files() -> list[Path]:
    """Every file of the project that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    own = (p for p in ROOT.rglob("*") if p.is_file())  # an unpacked archive, no repository
    return [p for p in own if not {".venv", "__pycache__", "data"} & set(p.parts)]


def sources() -> list[Path]:
    return [p for p in files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in PACKAGES]


def test_import_rules() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    said = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_only_the_top_layer_imports_by_name() -> None:
    """import-linter sees no import by name; plug-ins (a user's code) have one module for it."""
    loaders = {"import_module", "__import__", "resolve_name", "run_module", "find_spec"}
    found = []
    for path in sources():
        where = path.relative_to(ROOT)
        if where.is_relative_to("freerun/app") or where == Path("freerun/plugins.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            if name in loaders:
                found.append(f"{where}:{getattr(node, 'lineno', '?')} {name}")
    assert not found


def test_the_plug_in_loader_names_none_of_the_four() -> None:
    loader = ROOT / "freerun" / "plugins.py"
    if loader.exists():
        tree = ast.parse(loader.read_text("utf-8"))
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        four = re.compile(rf"^({'|'.join(PACKAGES[1:])})\b[.:]?\S*$")
        assert not [t for t in texts if isinstance(t, str) and four.match(t)]


def test_five_packages_and_no_sixth() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == PACKAGES
    assert project["tool"]["mypy"]["files"] == PACKAGES
    assert project["tool"]["importlinter"]["root_packages"] == PACKAGES
    found = {p.relative_to(ROOT).parts[0] for p in files() if p.name == "__init__.py"}
    assert found == set(PACKAGES)  # in particular, tests/ is no package


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    pinned = {
        plain_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    assert {plain_name(re.split(r"[\[><=;\s]", w)[0]) for w in wanted} <= pinned


def plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_registry_is_named() -> None:
    """Which index serves a machine is that machine's configuration, not ours."""
    spelled = "pypi org, pythonhosted org, npmjs com, npmjs org, maven org, maven apache org"
    spelled += ", anaconda org, unpkg com, jsdelivr net, cdnjs cloudflare com"
    hosts = [name.replace(" ", ".") for name in spelled.split(", ")]
    found = []
    for path in files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{path.relative_to(ROOT)}: {host}" for host in hosts if host in text]
    assert not found


def test_the_command_line_starts_quickly() -> None:
    """Only what a command needs is imported, and only when it runs."""
    heavy = ["confluent_kafka", "numba", "numpy", "pyarrow", "dask", "dash", "uproot", "pydantic"]
    check = f"import sys, freerun.app.cli; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
