"""Find a browser for the browser tests, or install Debian's Chromium where that may be done.

Prints its path, or one sentence that says that the browser tests do not run. Without a browser
the exit code is 0, but 3 under CI=true. `FREERUN_BROWSER` names a browser of one's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]


def find() -> str | None:
    named = os.environ.get("FREERUN_BROWSER")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


def install() -> str:
    """Install Chromium by apt; an empty string, or why it could not be."""
    if not shutil.which("apt-get"):
        return "this is no Debian system that could install chromium"
    if os.geteuid() != 0:
        return "only root may install it: `apt install chromium`"
    print("== installing chromium by apt (once)", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Chromium alone may come without any font, and then draws boxes for letters.
    packages = ["chromium", "fonts-dejavu-core"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=quiet, capture_output=True, text=True
        )
        if done.returncode != 0:
            errors = [x for x in done.stderr.splitlines() if x.startswith("E: ")] or ["no reason"]
            return f"`apt-get {arguments[0]}` failed: {errors[0].removeprefix('E: ')}"
    return ""


def main() -> int:
    why = ""
    if not find() and not os.environ.get("FREERUN_BROWSER"):
        why = install()
    browser = find()
    if browser:
        print(f"== browser for the tests: {browser}")
        return 0
    named = os.environ.get("FREERUN_BROWSER")
    why = f"FREERUN_BROWSER={named} is no program" if named else why or "apt installed none"
    print(f"freerun: the browser tests do not run, no Chromium was found ({why})", file=sys.stderr)
    return 3 if os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
