"""Starting a pod's first process: the creator's half of the conversation that `init` describes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from controller.lab import init, network, programs
from controller.lab.addressing import Addressing, first_pid
from controller.lab.errors import PodBroken
from controller.lab.pod import Pod, save
from controller.lab.process import Process

ANSWER_SECONDS = 20.0
"""Namespaces take milliseconds; a machine that needs this long is not working on it any more."""


def start(lab: Addressing, pod: Pod, lock: int) -> Pod:
    """Starts the recorded pod and joins it to the lab; gives the pod with its PID 1, recorded too.

    Until the pod has started PID 1 hangs on our socket and ends with us. So long it has the lab's `lock` too: who
    clears away what we leave if we die finds nobody who still writes there. Raises PodBroken and NetworkBroken.
    """
    with _outer_process(lock) as control:
        images = {"folder": pod.images, "bytes": pod.image_bytes} if pod.image_bytes else None
        wanted = {"hostname": pod.name, "log": str(pod.log("init")), "cgroup": pod.cgroup}
        _say(control, {**wanted, "root": programs.root(pod), "images": images})
        answer = _hear(control, {"pid1", "pid_max"})
        started = msgspec.structs.replace(
            pod,
            pid1=answer["pid1"],
            start_ticks=_start_ticks(answer["pid1"]),
            first_pid=first_pid(pod.index, answer["pid_max"]),
        )
        save(started)
        network.attach(lab, started)
        _say(
            control,
            {
                "sidecars": programs.sidecars(started),
                "environment": programs.environment(started),
                "last_pid": started.first_pid - 1,
            },
        )
        _hear(control, {"started"})
        complete = msgspec.structs.replace(started, complete=True)
        save(complete)
    return complete


@contextlib.contextmanager
def _outer_process(lock: int) -> Iterator[socket.socket]:
    """Runs `init` in a session of its own and gives our end of its socket; reaps it: it ends when PID 1 is born."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(ANSWER_SECONDS)
        with theirs:
            argv = [sys.executable, "-I", "-S", str(Path(init.__file__)), str(theirs.fileno()), str(lock)]
            outer = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock],
                cwd="/",
                env=programs.ENVIRONMENT,
                start_new_session=True,
            )
        try:
            yield ours
        finally:
            ours.close()  # before the wait: it is what makes the outer process end if it still hangs on it
            outer.wait()


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next answer, or its absence, says why
        control.send(json.dumps(message).encode())


def _hear(control: socket.socket, wanted: set[str]) -> dict[str, Any]:
    """The answers with the wanted keys, in whichever order the two processes give them. Raises PodBroken."""
    heard: dict[str, Any] = {}
    while not wanted <= heard.keys():
        try:
            data = control.recv(init.MAX_MESSAGE_BYTES)
        except (TimeoutError, ConnectionResetError) as error:
            raise PodBroken(f"the pod's first process does not answer: {error}") from error
        if not data:
            raise PodBroken("the pod's first process died while it set the pod up")
        heard |= json.loads(data)
        if "error" in heard:
            raise PodBroken(f"the pod's first process could not set the pod up: {heard['error']}")
    return heard


def _start_ticks(pid: int) -> int:
    try:
        return Process.of(pid).start_ticks
    except ProcessLookupError as error:
        raise PodBroken("the pod's first process died while it set the pod up") from error
