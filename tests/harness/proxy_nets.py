"""Three network namespaces for the proxy alone: two pods, a and b, and a peer's, c.

They have no names: they go with their last descriptor and process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

CLONE_NEWNET = 0x40000000
ADDRESS = {"a": "10.99.0.1", "b": "10.99.0.2", "c": "10.99.0.3"}
ADDRESS6 = {"a": "fd99::1", "b": "fd99::2", "c": "fd99::3"}
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    def __init__(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(home)
        os.close(home)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """For this thread: sockets made here live here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(self.descriptor)
        try:
            yield
        finally:
            _setns(home)
            os.close(home)

    def popen(self, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, preexec_fn=lambda: _setns(self.descriptor), **more)

    def close(self) -> None:
        os.close(self.descriptor)


def cable(namespaces: dict[str, Namespace]) -> None:
    """A bridge in c; a and b on it by veth pairs; c has its address on the bridge."""
    with namespaces["c"].entered(), IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        ip.link("add", ifname="br", kind="bridge")
        _address(ip, "br", "c")
        for name in ("a", "b"):
            ip.link(
                "add",
                ifname=f"to-{name}",
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": namespaces[name].descriptor},
            )
            bridge = ip.link_lookup(ifname="br")[0]
            ip.link("set", index=ip.link_lookup(ifname=f"to-{name}")[0], master=bridge, state="up")
    for name in ("a", "b"):
        with namespaces[name].entered(), IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
            _address(ip, "eth0", name)
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _address(ip: IPRoute, device: str, name: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
    index = ip.link_lookup(ifname=device)[0]
    ip.addr("add", index=index, address=ADDRESS[name], prefixlen=24)
    ip.addr("add", index=index, address=ADDRESS6[name], prefixlen=64)
    ip.link("set", index=index, state="up")
