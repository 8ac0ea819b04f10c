"""What a pod needs of the kernel, tried out.

`python -m controller.lab.probes` prints one JSON object, probe -> complaint.

A process of its own, in fresh namespaces, so that the machine is left as it was whatever happens.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
from collections.abc import Callable

from controller.lab import init

SYS_PIDFD_GETFD = 438  # the same on every architecture but alpha
IP_TRANSPARENT = 19
TCP_REPAIR = 19  # linux/tcp.h
TCP_REPAIR_OFF_NO_WP = -1

RULES = b"""
add table inet probe
add set inet probe flows { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
add chain inet probe out { type route hook output priority mangle; }
add rule inet probe out ip saddr . tcp sport . ip daddr . tcp dport @flows meta mark set 1
"""
"""The kinds of nftables objects that keep an inherited flow inside its pod."""


def namespaces() -> None:
    init.libc_call("unshare", init.NAMESPACES)
    if child := os.fork():
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise OSError("/proc cannot be mounted in new namespaces")
        return
    try:
        init.libc_call("mount", None, b"/", None, ctypes.c_ulong(init.MS_REC | init.MS_PRIVATE), None)
        init.libc_call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(init.MS_NOSUID), None)
        os._exit(0)
    finally:
        os._exit(1)


def links() -> None:
    from pyroute2 import IPRoute  # here: it takes 0.1 s, and whoever wants this module's name has no use for it

    with IPRoute() as ip:
        ip.link("add", ifname="probe", kind="bridge")
        ip.link("add", ifname="probe-a", kind="veth", peer={"ifname": "probe-b"})
        ip.link("set", index=ip.link_lookup(ifname="probe-a")[0], master=ip.link_lookup(ifname="probe")[0])


def nft() -> None:
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_buffer_error(context)
    if library.nft_run_cmd_from_buffer(context, RULES):
        raise OSError(library.nft_ctx_get_error_buffer(context).decode(errors="replace").strip().splitlines()[0])


def tcp_repair() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)


def transparent() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def pidfd_getfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SYS_PIDFD_GETFD, pidfd, 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def complaint(probe: Callable[[], None]) -> str:
    """ "" if it works, else why not, in a line."""
    try:
        probe()
    except Exception as error:  # whatever a library may raise: a probe that fails is an answer
        return str(error) or type(error).__name__
    return ""


def main() -> None:
    tried = {"namespaces": complaint(namespaces)}
    if tried["namespaces"]:
        others = "was not tried, for want of namespaces of its own"
        tried |= dict.fromkeys(("links", "nft"), others)
    else:
        tried |= {"links": complaint(links), "nft": complaint(nft)}
    tried |= {probe.__name__: complaint(probe) for probe in (tcp_repair, transparent, pidfd_getfd)}
    print(json.dumps(tried))


if __name__ == "__main__":
    main()
