"""The plan of a migration: what would be moved, and everything that is already known to stand in the way.

Pure: takes what both agents say of the workload and of the destination's room, gives a plan.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

import checkpoint.api as agent_api
import proxy.api as proxy_api
from controller.core.choose import EARLY_SPARE_BYTES, Choice
from controller.core.errors import Refused
from controller.core.predict import Size

IMAGE_OVERHEAD_BYTES = 4 << 20
"""What CRIU writes beside the memory: descriptors, mappings, socket queues. Measured: 1 MB for a Redis, rounded up."""

RESERVE_BYTES = 32 << 20
"""From here on images are worth room that is taken before the freeze: where memory is had slowly, 0.05 to 0.1 s."""

SPARE_LINKS = 32
"""Links dialled beyond the connections seen at the preflight, for those that come before the workload is there."""

SPARE_LINKS_WHILE_IT_FAULTS = 96
"""The same of post-copy: until the workload has the pages that it answers with, for as long as it was frozen and
longer, no link comes back. Each handshake takes the processors from those who bring the pages: with a newcomer every
5 ms a Redis of 4 GiB was silent for 0.40 to 0.47 s with 32 of them, and is for 0.32 to 0.36 s."""

LEAST_LINKS, SPARE_DESCRIPTORS = 64, 64
"""A flow takes one descriptor in either proxy, for its leg. So many are left for links, which flows lend each other
where there are not as many; and so many for all else."""


class PodFacts(msgspec.Struct, frozen=True):
    name: str
    address: str
    address6: str


class Plan(msgspec.Struct, frozen=True):
    """What will be moved, and what is known to stand in the way (`problems`; empty: nothing)."""

    workload: str
    source: str
    destination: str
    pid: int
    argv: list[str]
    processes: int
    threads: int
    memory_bytes: int
    connections: int
    listening_ports: list[int]
    readdress: dict[str, str]
    problems: list[agent_api.Problem]
    losses: list[agent_api.Problem] = []
    """What is given up, as it is allowed to be; else these are among the problems."""
    memory: Choice | None = None
    """Which way its memory will go, and what that will take."""
    files: agent_api.Belongings = agent_api.Belongings()
    """What of files belongs to it; its grounds travel."""
    shared_bytes: int = 0
    """So much of the memory is shared: it goes by the images, whatever becomes of the rest."""
    warnings: list[agent_api.Problem] = []
    """What does not stand in the way, and may still make the move fail, or leave something behind."""
    cpu_features: list[str] = []
    """What the workload found of the processor when it was started."""
    follows: str = ""
    """The migration that brought the workload to the source; "" when it was started there."""

    @property
    def size(self) -> Size:
        return Size(self.memory_bytes, self.connections, self.processes, self.threads)


def size_of(inspection: agent_api.Inspection) -> Size:
    return Size(inspection.memory_bytes, inspection.connections, inspection.processes, len(inspection.pids))


def make_plan(
    source: PodFacts,
    destination: PodFacts,
    inspection: agent_api.Inspection,
    room: agent_api.Room,
    listeners: Sequence[proxy_api.ListenerView] = (),
    *,
    allow_loss: bool = False,
) -> Plan:
    """The plan for moving the inspected workload from `source` to `destination`, which has `room`.

    `allow_loss`: what cannot be kept does not stand in the way. `listeners` are those that the destination's proxy
    holds: the workload's own, if it comes back.
    """
    workload = inspection.workload
    returning = [one for one in listeners if workload.arrived_by and one.target == workload.arrived_by]
    kept = [one for one in listeners if one not in returning]
    return Plan(
        workload=workload.name,
        source=source.name,
        destination=destination.name,
        pid=workload.pid,
        argv=workload.argv,
        processes=inspection.processes,
        threads=len(inspection.pids),
        memory_bytes=inspection.memory_bytes,
        connections=inspection.connections,
        listening_ports=inspection.listening_ports,
        readdress=readdress(source, destination),
        problems=[
            *_custody(workload),
            *inspection.problems,
            *([] if allow_loss else inspection.losses),
            *_obstacles(destination.name, inspection, room, {one.local.port for one in returning}, kept),
        ],
        losses=inspection.losses if allow_loss else [],
        files=inspection.belongings,
        shared_bytes=inspection.shared_bytes,
        warnings=inspection.warnings,
        follows=workload.arrived_by,
    )


def readdress(source: PodFacts, destination: PodFacts) -> dict[str, str]:
    """The source pod's addresses -> the destination's, family by family."""
    pairs = ((source.address, destination.address), (source.address6, destination.address6))
    return {old: new for old, new in pairs if old and new}


def spare_links(way: agent_api.MemoryWay) -> int:
    """How many links to dial for newcomers, where the memory goes that way."""
    return SPARE_LINKS_WHILE_IT_FAULTS if way == "post-copy" else SPARE_LINKS


def too_few_descriptors(pod: str, connections: int, spare: int, links: int = SPARE_LINKS) -> list[agent_api.Problem]:
    """A proxy that could not open the sockets it needs, `links` for newcomers among them, would find out in the midst
    of the move."""
    fit = max(0, spare - 2 * links - LEAST_LINKS - SPARE_DESCRIPTORS)
    if connections <= fit:
        return []
    message = f"the proxy of pod {pod} has descriptors for {fit} connections more, and {connections} are to be moved"
    return [agent_api.Problem("no-descriptors", message, "pod", "start the pod with a higher ulimit -n")]


def links_that_fit(connections: int, room: int, spares: int = SPARE_LINKS) -> int:
    """How many links to make before the freeze, beside the `spares`, where the destination's proxy has descriptors for
    `room`."""
    return min(connections, max(0, room - 2 * spares))


def too_little_room_for_images(
    pod: str, inspection: agent_api.Inspection, room: agent_api.Room, way: Choice, *, direct: bool
) -> list[agent_api.Problem]:
    """Memory that goes from process to process, after the commit or, where images go `direct`, before it, needs none.

    A file's pages that the process has changed are private and still go by the images: there are few, as a rule, and
    where there are too many, the dump says so, and the move is taken back.
    """
    needed = IMAGE_OVERHEAD_BYTES + memory_in_images(inspection, way, direct=direct)
    return [] if needed <= room.image_bytes else [_no_room(pod, "room for images", needed, room.image_bytes)]


def memory_in_images(of: agent_api.Inspection | Plan, way: Choice, *, direct: bool) -> int:
    """How much of a workload's memory goes by the images, for all that is known."""
    past = way.way == "post-copy" or (direct and way.goes_straight)
    return of.shared_bytes if past else of.memory_bytes


def room_to_reserve(plan: Plan) -> agent_api.ReserveRoom | None:
    """What the destination shall take for images that are sent, before the freeze; None: nothing that anybody would
    notice, or, with pre-copy, nothing that could be foretold: most is sent before the freeze then.

    The copy's own memory is left, and what of it is kept there before the freeze.
    """
    assert plan.memory is not None
    size_bytes = memory_in_images(plan, plan.memory, direct=True)
    if plan.memory.way == "pre-copy" or size_bytes < RESERVE_BYTES:
        return None
    early_bytes = min(plan.memory.early_bytes, plan.memory_bytes)
    return agent_api.ReserveRoom(size_bytes, plan.memory_bytes + early_bytes + EARLY_SPARE_BYTES)


def refuse_what_cannot_move(plan: Plan) -> None:
    """Raises Refused with the first problem, and says how many more there are."""
    if not plan.problems:
        return
    first, *others = plan.problems
    more = f"; and {len(others)} more: midstream migrate --dry-run lists them" if others else ""
    raise Refused(first.code, first.message + more, first.fault, first.hint)


def _custody(workload: agent_api.Workload) -> list[agent_api.Problem]:
    if workload.migration:
        message = f"workload {workload.name} is already being moved by migration {workload.migration}"
        hint = f"wait for it to end: midstream status {workload.migration}"
        return [agent_api.Problem("already-migrating", message, "request", hint)]
    if workload.state == "exited":
        message = f"workload {workload.name} has ended: there is nothing to move"
        return [
            agent_api.Problem(
                "exited",
                message,
                "workload",
                "start it again with midstream run, in the foreground if it has put itself into the background",
            )
        ]
    return []


def _obstacles(
    pod: str,
    inspection: agent_api.Inspection,
    room: agent_api.Room,
    own_ports: Set[int],
    kept: Sequence[proxy_api.ListenerView],
) -> list[agent_api.Problem]:
    found = []
    if inspection.memory_bytes > room.memory_bytes:
        found.append(_no_room(pod, "memory", inspection.memory_bytes, room.memory_bytes))
    for page, needed in inspection.huge_bytes.items():
        if needed > (there := room.huge_bytes.get(page, 0)):
            found.append(_no_room(pod, f"memory in huge pages of {page >> 10} kB", needed, there))
    if (number := inspection.highest_descriptor) >= (most := room.most_descriptors):
        message = f"a descriptor of the workload is number {number}, and in pod {pod} that must be less than {most}"
        found.append(agent_api.Problem("no-descriptors", message, "pod", "start the pod with a higher ulimit -n"))
    if taken := sorted(set(inspection.pids) & set(room.pids)):
        message = f"process ids {_some(taken)} of the workload are in use in pod {pod}"
        found.append(agent_api.Problem("pids-taken", message, "pod", "choose another pod"))
    if (highest := max(inspection.pids, default=0)) >= room.pid_max:
        message = f"process id {highest} of the workload is too large for pod {pod}, where {room.pid_max} is the limit"
        hint = "choose another pod, or set kernel.pid_max there to 4194304: sysctl(8)"
        found.append(agent_api.Problem("pid-too-large", message, "machine", hint))
    if taken := sorted(set(inspection.listening_ports) & set(room.listening_ports) - own_ports):
        message = f"pod {pod} already listens on port {_some(taken)}"
        found.append(agent_api.Problem("ports-taken", message, "pod", _how_to_free(taken, kept)))
    return found


def _how_to_free(ports: Sequence[int], kept: Sequence[proxy_api.ListenerView]) -> str:
    """`kept`: the listeners that the pod's proxy has for workloads that have left it."""
    if movers := sorted({one.target for one in kept if one.local.port in ports}):
        moved = f"a workload that has moved on is reached there still (midstream status {movers[0]})"
        return f"{moved}: choose another pod, or wait until it has ended"
    return "stop what listens there, or choose another pod"


def _no_room(pod: str, what: str, needed: int, there: int) -> agent_api.Problem:
    message = f"pod {pod} has too little {what}: {mebibytes(needed)} needed, {mebibytes(there)} there"
    return agent_api.Problem("no-room", message, "pod", "choose another pod or give this one more")


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown}, …" if len(numbers) > 5 else shown


def mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
