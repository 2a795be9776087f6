"""A call in a process of its own: what it takes of memory and of the interpreter goes with it.

A run's ledger reads all topics and files of the run. In run control's own process it left some
20 MB behind each time, and held the lock that commands wait for.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from freerun.errors import FreerunError
from freerun.service import log_to_stderr

LIMIT_S = 14_400.0  # for an answer: one that hangs must not keep a run open for ever


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns or raises; all of it must be picklable, it too (by name).

    The process ends with this one, however this one ends. `FreerunError` if it ends too early.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "controllers.apart"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.daemon = True  # nobody who ends waits for it
        limit.start()
        try:
            pickle.dump((function, args), process.stdin)
            process.stdin.flush()
            said = process.stdout.read()  # its end; our end of its stdin stays open till then
        except BrokenPipeError:
            said = b""
        finally:
            limit.cancel()
            process.kill()
    if not said:
        raise FreerunError(
            f"the process of {function.__qualname__} ended before it said anything: its error is "
            f"in the log; was there memory enough, or did it take more than {LIMIT_S:.0f} s?"
        )
    good, what = pickle.loads(said)
    if not good:
        raise what
    return what


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    log_to_stderr()
    function, args = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints to the log
    try:
        said: tuple[bool, Any] = True, function(*args)
    except Exception as error:  # it is raised again over there
        said = False, error
    try:
        told = pickle.dumps(said)
        pickle.loads(told)
    except Exception:  # some exceptions cannot be taken apart and put together again
        told = pickle.dumps((False, RuntimeError(f"{type(said[1]).__name__}: {said[1]}")))
    with open(answer, "wb") as out:
        out.write(told)
    os._exit(0)


if __name__ == "__main__":
    main()
