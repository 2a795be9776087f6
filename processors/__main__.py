"""`python -m processors`: the loop of a pipeline."""

from __future__ import annotations

from pathlib import Path

from freerun import service
from processors.loop import Loop


def main() -> None:
    arguments = service.parser("python -m processors", "Drives one pipeline's processing.")
    arguments.add_argument("--pipeline", required=True, help="id of a [[pipeline]]")
    how = arguments.add_mutually_exclusive_group(required=True)
    how.add_argument("--inline", action="store_true", help="in this process, without Dask")
    how.add_argument("--scheduler-file", type=Path, help="written by `dask scheduler`")
    me = service.start(arguments)
    loop = Loop(me, me.args.pipeline)
    if me.args.inline:
        loop.run_inline(me.stopping.is_set)
    else:
        loop.run_dask(me.args.scheduler_file, me.stopping.is_set)


if __name__ == "__main__":
    service.run(main)
