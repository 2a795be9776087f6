"""All tests, in two sessions side by side: much of their time is waiting for brokers and services.

`python scripts/run_tests.py` exits with the worse of the two codes. For some tests, use pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# About half of the time. What is not named here, new files too, is in the first session.
SECOND = {
    "test_demo.py", "test_kills.py", "test_kills_parts.py", "test_outage.py", "test_replay.py",
    "test_selftest.py", "test_up.py", "test_verify.py",
}  # fmt: skip


def main() -> int:
    """Run both; the second one's output follows the first one's."""
    files = sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))
    if unknown := SECOND - set(files):
        print(f"scripts/run_tests.py names files that are gone: {', '.join(sorted(unknown))}")
        return 1
    first = [f"tests/{name}" for name in files if name not in SECOND]
    second = [f"tests/{name}" for name in files if name in SECOND]
    command = [sys.executable, "-m", "pytest", "-q"]
    print(f"== tests: {len(first)} files; beside them {len(second)}, shown when they are done")
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as told:
        beside = subprocess.Popen(
            [*command, "-p", "no:cacheprovider", *second], cwd=ROOT, stdout=told, stderr=told
        )
        try:
            code = subprocess.run([*command, *first], cwd=ROOT, check=False).returncode
            worse = max(code, beside.wait())
        except KeyboardInterrupt:  # the terminal has told both
            beside.wait()
            worse = 130
        told.seek(0)
        print(f"== the other {len(second)} files")
        sys.stdout.write(told.read())
    return worse


if __name__ == "__main__":
    raise SystemExit(main())
