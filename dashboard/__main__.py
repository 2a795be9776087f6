"""`python -m dashboard --bench FILE --data DIR [--port N]`: the web pages of a bench."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dashboard.feed import Feed
from dashboard.server import Setting, listen, make_app, make_server
from freerun import service
from freerun.config import Bench
from freerun.errors import ConfigError, FreerunError
from freerun.kafka import Broker, Publisher, Reader


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; the URL is printed when the port is ours."""
    arguments = service.parser("python -m dashboard", __doc__ or "")
    add = arguments.add_argument
    add("--pipeline", help="whose plots to show, if not those of the first pipeline")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8050, help="port to listen on; 0 takes any free one")
    add("--name", action="append", default=[], help="another host name to be called by")
    started = service.start(arguments, argv)
    bench, args = started.bench, started.args
    if not bench.pipelines:
        raise ConfigError(f"{args.bench} has no [[pipeline]]: there is nothing to show")
    pipeline = bench.pipeline(args.pipeline) if args.pipeline else bench.pipelines[0]

    sock = listen(args.host, args.port)
    url = f"http://{_called(args.host)}:{sock.getsockname()[1]}/"
    feed = Feed(
        started.topics,
        pipeline.id,
        lambda: Reader(started.address, "dashboard", queue_mb=16, fetch_wait_ms=250, hurry=False),
        lambda: Publisher(started.address, "dashboard"),
        url,
    )
    setting = replace(_setting(bench), keep=_kept(started))
    app = make_app(setting, feed, started.data)
    server = make_server(app, [*args.name, _called(args.host).strip("[]")])
    feed.start()
    try:
        print(f"dashboard at {url}", flush=True)
        server.run(sockets=[sock])
    finally:
        feed.stop()


def _called(host: str) -> str:
    """The name by which a viewer on this machine reaches an address we listen on."""
    return "127.0.0.1" if host in ("0.0.0.0", "") else f"[{host}]" if ":" in host else host


def _kept(started: service.Service) -> tuple[float, float]:
    """How long a raw topic is kept, in s and bytes; for ever if nobody says so."""
    bench = started.bench
    if not bench.sources:
        return math.inf, math.inf
    try:
        told = Broker(started.address).topic_settings(started.topics.raw(bench.sources[0].id))
    except FreerunError:
        return math.inf, math.inf
    ms, size = float(told["retention.ms"]), float(told["retention.bytes"])
    return (
        ms / 1000 if ms >= 0 else math.inf,
        size * bench.cluster.partitions if size >= 0 else math.inf,
    )


def _setting(bench: Bench) -> Setting:
    setting = Setting(bench.system.name, bench.time.slice, tuple(s.id for s in bench.sources))
    return setting.with_types(bench.run_types) if bench.run_types else setting


if __name__ == "__main__":
    service.run(main)
