"""What the load can be told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

_TELLING_SECONDS_EACH = 200e-6


class Options(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    """A literal IPv4 or IPv6 address: names are not looked up."""
    port: int
    connections: int = 64
    """Counters: each waits for the replies of its pipeline before it sends the next."""
    idle: int = 0
    """So many of them ask nothing between their first request and their last."""
    subscribers: int = 4
    channels: int = 2
    bulk: int = 2
    """Bulk connections; 0 for none."""
    bulk_bytes_per_second: float = 20e6
    """In each direction, over all bulk connections."""
    bulk_value_bytes: int = 256 << 10
    bulk_window: int = 4
    """Values that a bulk connection has under way at most."""
    fill_bytes: int = 0
    """Memory that Redis is filled with before anything else; 0: none."""
    touchers: int = 4
    """Connections that write on the filling and read it, where there is one."""
    touch_seconds: float = 0.004
    """From one exchange of a toucher to its next."""
    pace_seconds: float = 0.01
    """From one pipeline of a connection to its next; longer where `pipelines_per_second` does not allow it."""
    pipelines_per_second: float = 6400.0
    """Over all connections at most, so that a thousand of them are not a thousand times the work of one. At 8 commands
    each this is about 50,000 commands a second, for 0.3 processor seconds a second of the load's own."""
    probe_seconds: float = 0.005
    """From one new connection to the next; 0 for none."""
    probe_timeout_seconds: float = 10.0
    tick_seconds: float = 0.1
    """From one line about how it goes to the next; longer where there are many connections to be asked."""
    ready_seconds: float = 20.0
    """The longest time until everything answers."""
    drain_seconds: float = 10.0
    """The longest time from "stop" until the last reply."""
    limit_seconds: float = 600.0
    """The load ends after this long, whatever happens."""

    @property
    def turn_seconds(self) -> float:
        """From one pipeline of a connection to its next, really."""
        return max(self.pace_seconds, (self.connections - self.idle) / self.pipelines_per_second)

    @property
    def telling_seconds(self) -> float:
        """From one line to the next, really: a connection takes some microseconds to be asked."""
        return max(self.tick_seconds, self.connections * _TELLING_SECONDS_EACH)

    @property
    def bulk_seconds(self) -> float:
        """From one value of a bulk connection to its next."""
        return self.bulk_value_bytes * self.bulk / self.bulk_bytes_per_second


def parse(argv: Sequence[str] | None = None) -> Options:
    """Options from a command line; one flag for each field."""
    parser = argparse.ArgumentParser(prog="python -m controller.demo.load", description="The load of `midstream demo`.")
    for field in msgspec.structs.fields(Options):
        flag = "--" + field.name.replace("_", "-")
        kind = type(field.default) if field.default is not msgspec.NODEFAULT else {"host": str, "port": int}[field.name]
        if field.required:
            parser.add_argument(flag, type=kind, required=True)
        else:
            parser.add_argument(flag, type=kind, default=field.default, help="default: %(default)s")
    return Options(**vars(parser.parse_args(argv)))


def command_line(options: Options) -> list[str]:
    """The arguments that `parse` turns into `options` again."""
    return [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in options.__struct_fields__]
