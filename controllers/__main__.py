"""`python -m controllers ROLE`: run control, the monitor service, or a writer."""

from __future__ import annotations

from freerun import service

ROLES = ("run-control", "monitor", "writer")


def main() -> None:
    arguments = service.parser("python -m controllers", "The services around the data.")
    arguments.add_argument("role", choices=ROLES)
    arguments.add_argument("--pipeline", help="id of a [[pipeline]] (monitor)")
    arguments.add_argument("--id", default="root0", help="name of this writer")
    me = service.start(arguments)
    if me.args.role == "run-control":
        from controllers.run_control import RunControl

        RunControl(me).run(me.stopping.is_set)
    elif me.args.role == "monitor":
        from controllers.monitor import MonitorService

        MonitorService(me, me.args.pipeline or me.bench.pipelines[0].id).run(me.stopping.is_set)
    else:
        from controllers.writer.service import main as write

        write(me, me.args.id)


if __name__ == "__main__":
    service.run(main)
