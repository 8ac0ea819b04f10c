"""What a connection costs that is relayed after a move, beside a direct one and one through two HAProxies in a row.

One client, and lanes from it: connections that were opened before a move and are relayed since by our two proxies, in a
pair of pods with TLS between them and in a pair without; connections straight to where the server is now; connections
through an HAProxy in either pod. All lanes are open at once, and every round measures each of them for a second or two,
in turn.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

import msgspec

from controller.lab.pod import Pod
from controller.lab.programs import CHECKOUT
from tests.bench.lane_figures import (
    DIRECT,
    LANES,
    MIDSTREAM,
    MIDSTREAM_TLS,
    RIVAL,
    RIVAL_TLS,
    Idle,
    Lane,
    Relay,
    RelayPlan,
)
from tests.harness.journeys import assert_nothing_lost
from tests.harness.moving import Scene, scene

SOURCE = Path(__file__).with_name("traffic.c")
PORT = 7000
DIRECT_PORT = 7001
"""Of another server: a connection to the same one might come from a port from which one is relayed to it, and that is
not answered (README, "The same port twice")."""
CLEAR_PORTS, TLS_PORTS = (7101, 7102), (7103, 7104)
CONNECTIONS = 64
GIB = 1 << 30
ANSWER_SECONDS = 120.0

Say = Callable[[str], None]


class TrafficError(Exception):
    """The traffic program, the compiler or HAProxy did not do what they were to do. Says what they said."""


class Traffic:
    """The driver of `traffic.c` in the client's pod. Blocking calls, one after the other."""

    def __init__(self, binary: Path, pod: Pod) -> None:
        enter = ("nsenter", f"--net=/proc/{pod.pid1}/ns/net")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen((*enter, str(binary), "drive"), text=True, bufsize=1, **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    async def do(self, *words: object) -> dict[str, float]:
        """Raises TrafficError."""
        return await asyncio.wait_for(asyncio.to_thread(self._do, words), ANSWER_SECONDS)

    def _do(self, words: Sequence[object]) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line or "error" in line:
            raise TrafficError(f"{' '.join(map(str, words))}: {line.strip() or 'the driver has ended'}")
        return msgspec.json.decode(line, type=dict[str, float])


async def measure(plan: RelayPlan, say: Say) -> Relay:
    """Raises TrafficError."""
    binary = compiled()
    rounds = await _rounds(binary, plan, say)
    idle = [one for flows in plan.idle for one in await _idle(binary, flows, say)]
    return Relay(rounds, idle)


def compiled() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise TrafficError("there is no C compiler (apt-get install gcc libc6-dev)")
    target = CHECKOUT / "build" / "traffic"
    target.parent.mkdir(exist_ok=True)
    done = subprocess.run((compiler, "-O2", "-o", str(target), str(SOURCE)), capture_output=True, text=True)
    if done.returncode:
        raise TrafficError(done.stderr.strip()[-300:])
    return target


async def _rounds(binary: Path, plan: RelayPlan, say: Say) -> list[dict[str, Lane]]:
    async with scene() as stage:
        clear = await asyncio.gather(*(stage.lab.create(name, cleartext_links=True) for name in ("c", "d")))
        pids: dict[str, list[int]] = {lane: [] for lane in LANES}
        with Traffic(binary, stage.client) as traffic:
            for lane, pods in ((MIDSTREAM_TLS, (stage.a, stage.b)), (MIDSTREAM, clear)):
                await _moved(stage, binary, traffic, lane, pods, CONNECTIONS)
                pids[lane] = [_proxy(pod) for pod in pods]
            async with _rivals(stage) as theirs:
                pids[RIVAL] = pids[RIVAL_TLS] = theirs
                await stage.run("direct", str(binary), "serve", str(DIRECT_PORT), pod=stage.b)
                await stage.answers(DIRECT_PORT, stage.b)
                await _open_others(stage, traffic, CONNECTIONS)
                for lane in LANES:
                    await _lane(traffic, lane, pids[lane], plan)  # the first one warms everything
                found = []
                for number in range(plan.rounds):
                    first = number % len(LANES)
                    order = LANES[first:] + LANES[:first]
                    found.append({lane: await _lane(traffic, lane, pids[lane], plan) for lane in order})
                    say(f"relay {number + 1}/{plan.rounds}: {_said(found[-1])}")
                return found


async def _moved(
    stage: Scene, binary: Path, traffic: Traffic, lane: str, pods: Sequence[Pod], connections: int
) -> None:
    """A server in the first pod, so many connections to it, and then it is in the second one."""
    source, destination = pods
    await stage.run("traffic", str(binary), "serve", str(PORT), pod=source)
    await stage.answers(PORT, source)
    await traffic.do("open", _word(lane), source.address, PORT, connections)
    assert_nothing_lost(await stage.move("traffic", source, destination, max_hold_seconds=60))
    checked = await traffic.do("check", _word(lane))
    if checked["good"] != checked["count"]:
        raise TrafficError(f"{checked['count'] - checked['good']} connections were lost in the move")


async def _open_others(stage: Scene, traffic: Traffic, connections: int) -> None:
    await traffic.do("open", _word(DIRECT), stage.b.address, DIRECT_PORT, connections)
    await traffic.do("open", _word(RIVAL), stage.a.address, CLEAR_PORTS[0], connections)
    await traffic.do("open", _word(RIVAL_TLS), stage.a.address, TLS_PORTS[0], connections)


def _word(lane: str) -> str:
    return lane.replace(" ", "-").replace(",", "")


async def _lane(traffic: Traffic, lane: str, pids: Sequence[int], plan: RelayPlan) -> Lane:
    """One lane's figures; what its proxies used is of the requests/s and of the bulk part."""
    name = _word(lane)
    trips = await traffic.do("rtt", name, plan.trips)
    before = _cpu_seconds(pids)
    rate = await traffic.do("rate", name, plan.rate_seconds, CONNECTIONS)
    between = _cpu_seconds(pids)
    bulk = await traffic.do("bulk", name, plan.bulk_bytes)
    after = _cpu_seconds(pids)
    return Lane(
        p50=trips["p50"],
        p99=trips["p99"],
        requests=rate["count"] / rate["seconds"],
        bits=bulk["count"] * 8 / bulk["seconds"],
        request_cpu=(between - before) / rate["count"],
        gib_cpu=(after - between) / (bulk["count"] / GIB),
    )


def _said(lanes: dict[str, Lane]) -> str:
    return ", ".join(f"{name} {lanes[name].requests:,.0f}/s {lanes[name].bits / 1e9:.1f} Gbit/s" for name in lanes)


async def _idle(binary: Path, flows: int, say: Say) -> list[Idle]:
    """So many connections that say nothing, through our proxies and through HAProxy's: the proxies' memory."""
    async with scene() as stage:
        with Traffic(binary, stage.client) as traffic:
            ours = [_proxy(stage.a), _proxy(stage.b)]
            before = [_resident_bytes(pid) for pid in ours]
            await _moved(stage, binary, traffic, MIDSTREAM_TLS, (stage.a, stage.b), flows)
            after = [_resident_bytes(pid) for pid in ours]
            found = [Idle(MIDSTREAM_TLS, flows, before, after)]
            await traffic.do("close", _word(MIDSTREAM_TLS))
            async with _rivals(stage) as theirs:
                before = [_resident_bytes(pid) for pid in theirs]
                await traffic.do("open", _word(RIVAL_TLS), stage.a.address, TLS_PORTS[0], flows)
                found.append(Idle(RIVAL_TLS, flows, before, [_resident_bytes(pid) for pid in theirs]))
            say("; ".join(f"relay: {one.lane}, {flows:,} idle: {one.each:,.0f} bytes each" for one in found))
            return found


@asynccontextmanager
async def _rivals(stage: Scene) -> AsyncIterator[list[int]]:
    """HAProxy in both pods. Gives their processes."""
    key = stage.lab.home / "haproxy.pem"
    await asyncio.to_thread(_make_certificate, key)
    mutual = f"ssl crt {key} ca-file {key} verify required"
    """As between our proxies: both ends show a certificate, and check the other's."""
    first = _config(key, [(CLEAR_PORTS[0], "", stage.b.address, CLEAR_PORTS[1], ""),
                          (TLS_PORTS[0], "", stage.b.address, TLS_PORTS[1], mutual)])  # fmt: skip
    second = _config(key, [(CLEAR_PORTS[1], "", stage.b.address, PORT, ""),
                           (TLS_PORTS[1], mutual, stage.b.address, PORT, "")])  # fmt: skip
    with _haproxy(stage, stage.a, first) as there, _haproxy(stage, stage.b, second) as here:
        for pod, port in ((stage.b, CLEAR_PORTS[1]), (stage.a, CLEAR_PORTS[0]), (stage.a, TLS_PORTS[0])):
            await stage.answers(port, pod)
        yield [there, here]


CONFIG = """\
global
    nbthread 1
    maxconn 9850
    maxpipes 64
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


def _config(key: Path, ways: Sequence[tuple[int, str, str, int, str]]) -> str:
    made = [f"listen way{port}\n    bind *:{port} {how}\n    server next {host}:{to} {way}\n"
            for port, how, host, to, way in ways]  # fmt: skip
    return CONFIG + "".join(made)


def _make_certificate(path: Path) -> None:
    argv = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=bench", "-days", "1", "-keyout", f"{path}.key", "-out", f"{path}.crt")  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    path.touch(mode=0o600)
    path.write_text(Path(f"{path}.key").read_text() + Path(f"{path}.crt").read_text())


@contextmanager
def _haproxy(stage: Scene, pod: Pod, config: str) -> Iterator[int]:
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise TrafficError("there is no haproxy (apt-get install haproxy)")
    file = stage.lab.home / f"haproxy-{pod.name}.cfg"
    file.write_text(config)
    enter = ("nsenter", f"--net=/proc/{pod.pid1}/ns/net")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen((*enter, program, "-db", "-f", str(file)), **quiet)  # type: ignore[call-overload]
    try:
        yield process.pid  # nsenter becomes it
    finally:
        process.kill()
        process.wait()


def _proxy(pod: Pod) -> int:
    """The process of the pod's proxy: the child of its first process that runs proxy.main."""
    children = Path(f"/proc/{pod.pid1}/task/{pod.pid1}/children").read_text().split()
    return next(pid for pid in map(int, children) if b"proxy.main" in Path(f"/proc/{pid}/cmdline").read_bytes())


def _cpu_seconds(pids: Sequence[int]) -> float:
    """Of all their threads, by the scheduler's own account (schedstat in proc_pid(5), nanoseconds)."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))
