"""Make or refresh `.venv`: pinned dependencies, freerun itself, Kafka's jars.

Usage: python setup_venv.py [EXTRA...]. Every failure is one sentence and exit code 3. Needs the
standard library only, and runs on any old Python, so that it can say that it is too old.
"""

import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
LOG = os.path.join(VENV, "setup.log")
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ProxyError|SSLError"
    r"|Connection refused|Connection broken|Network is unreachable|Temporary failure in name"
)


def main(extras):
    began = time.time()
    if sys.version_info < (3, 11):
        fail(
            "freerun needs Python 3.11 or newer and this is {}.{}: install one and say "
            "`make PYTHON=python3.x ...`".format(*sys.version_info[:2])
        )
    make_venv()
    say("installing Python packages (pinned in constraints.txt)")
    pip(["hatchling", "editables"], expected=6)
    wanted = ".[" + ",".join(extras) + "]" if extras else "."
    # Without isolation the build uses the pinned hatchling, not the newest.
    pip(["--no-build-isolation", "-e", wanted], expected=count_pins())
    fetch_jars()
    say("ready in {:.0f} s: .venv/bin/freerun --help".format(time.time() - began))


def make_venv():
    if usable():
        return
    say("making the virtual environment .venv with Python " + sys.version.split()[0])
    try:
        import ensurepip  # noqa: F401  (Debian ships Python without these two)
        import venv
    except ImportError:
        fail(
            "{} comes without the venv module: install it (on Debian or Ubuntu "
            "`apt install python{}.{}-venv`) and try again".format(
                sys.executable, *sys.version_info[:2]
            )
        )
    try:
        shutil.rmtree(VENV, ignore_errors=True)
        venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
    except (OSError, subprocess.CalledProcessError) as e:
        fail("cannot make the virtual environment {}: {}".format(VENV, e))


def usable():
    """Whether .venv is one of a Python that still exists, and of the right version."""
    try:
        found = subprocess.run(
            [PYTHON, "-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    wanted = "{}.{}".format(*sys.version_info[:2])
    return found.returncode == 0 and found.stdout.decode().strip() == wanted


def pip(arguments, expected):
    """Run pip install with the pins, show how far it is, keep all it says in the log."""
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "-c", CONSTRAINTS] + arguments  # noqa: RUF005
    seen, said = 0, []
    with open(LOG, "a") as log:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
        )
        for line in child.stdout:
            log.write(line)
            said.append(line.rstrip())
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                seen += 1
                show(min(seen, expected), expected, line.split(":")[-1].split()[-1])
            elif line.startswith("Installing collected packages"):
                show(expected, expected, "unpacking, this takes a minute")
    show_end()
    if child.wait() != 0:
        explain(said)


def explain(said):
    text = "\n".join(said)
    errors = [line for line in said if line.startswith("ERROR: ")]
    if "No space left on device" in text:
        fail("the disk is full: freerun's environment needs 2.5 GB below {}".format(ROOT))
    if UNREACHABLE.search(text):
        fail("the package index cannot be reached (details in .venv/setup.log)")
    missing = re.search(r"The user requested \(constraint\) (\S+==\S+)", text)
    if missing:
        fail(
            "the package index has no {} for Python {}.{} here, or cannot be reached "
            "(details in .venv/setup.log)".format(missing.group(1), *sys.version_info[:2])
        )
    reason = errors[0][7:] if errors else (said[-1] if said else "pip said nothing")
    fail("a package cannot be installed: {} (details in .venv/setup.log)".format(reason))


def fetch_jars():
    if os.environ.get("FREERUN_KAFKA"):
        say("FREERUN_KAFKA is set: Kafka's jars are not fetched")
        return
    say("fetching Kafka's jars")
    if subprocess.call([os.path.join(VENV, "bin", "freerun"), "broker", "fetch"]) != 0:
        sys.exit(3)  # it has said why


def count_pins():
    with open(CONSTRAINTS) as f:
        return sum(1 for line in f if "==" in line)


def show(done, of, what):
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[K  {} of about {}  {}".format(done, of, what))
        sys.stdout.flush()
    elif done % 25 == 0:
        sys.stdout.write("  {} of about {}\n".format(done, of))
        sys.stdout.flush()


def show_end():
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()


def say(sentence):
    sys.stdout.write("== " + sentence + "\n")
    sys.stdout.flush()


def fail(sentence):
    show_end()
    sys.stderr.write("freerun: " + sentence + "\n")
    sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
