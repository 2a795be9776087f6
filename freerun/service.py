"""What every service process does first: arguments, configuration, log, and how it is stopped."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from freerun import config
from freerun.config import Bench
from freerun.errors import ConfigError, FreerunError
from freerun.topics import Topics

# Each 1 MB buffer would otherwise be mapped and faulted anew; glibc reads these at start only.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(128 << 20),
    "MALLOC_ARENA_MAX": "1",  # what one thread lets go is there, and touched, for the others
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own pool gives memory back too eagerly
}


@dataclass
class Service:
    """One process of an installation."""

    bench: Bench
    address: str
    data: Path
    topics: Topics
    args: argparse.Namespace
    stopping: threading.Event = field(default_factory=threading.Event)


def parser(prog: str, about: str) -> argparse.ArgumentParser:
    """Arguments that every service takes; add your own to it."""
    out = argparse.ArgumentParser(prog=prog, description=about)
    out.add_argument("--bench", required=True, type=Path, help="the configuration (bench.toml)")
    out.add_argument("--cluster", type=Path, help="scale: partitions, workers, broker")
    out.add_argument("--kafka", default=os.environ.get("FREERUN_KAFKA"), help="host:port")
    out.add_argument("--data", type=Path, help="folder of the runs (default: the bench's)")
    return out


def start(arguments: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Service:
    """Read the arguments and the configuration, set up the log, and listen for SIGTERM."""
    args = arguments.parse_args(argv)
    bench = config.load(args.bench, args.cluster)
    address = args.kafka or bench.cluster.kafka
    if not address:
        raise ConfigError(
            "no Kafka broker is named: give --kafka host:port, or set FREERUN_KAFKA=host:port "
            "('freerun broker start' prints the address of a local one)"
        )
    log_to_stderr()
    data = args.data.absolute() if args.data else bench.data_dir
    service = Service(bench, address, data, Topics(bench.system.name), args)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stopping.set())
    return service


def log_to_stderr() -> None:
    """One JSON line an event, on stderr: the supervisor keeps it in a file."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run(main: Callable[[], None]) -> None:
    """Call a service's main; a problem ends it with one sentence and its exit code."""
    try:
        main()
    except FreerunError as error:
        print(f"freerun: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
