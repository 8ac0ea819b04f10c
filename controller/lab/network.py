"""The lab's bridge and the pods' veth pairs, by rtnetlink."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.lab.addressing import Addressing, Network
from controller.lab.errors import NetworkBroken
from controller.lab.namespaces import in_network
from controller.lab.pod import Pod

if TYPE_CHECKING:
    from pyroute2 import IPRoute

IFA_F_NODAD = 0x02  # linux/if_addr.h: usable at once, without asking the link whether somebody has it
POD_INTERFACE = "eth0"


def _pyroute2() -> Any:
    """Imported when it is first needed: it takes 0.1 s, and most commands make and delete no pod."""
    import pyroute2

    return pyroute2


def has_ipv6() -> bool:
    return Path("/proc/sys/net/ipv6").exists()


def networks_in_use() -> list[Network]:
    """Every network the host has an address in or a route to, but for those of labs' own bridges that are there."""
    with _pyroute2().IPRoute() as ip:
        nets = [f"{a.get('IFA_ADDRESS')}/{a['prefixlen']}" for a in ip.get_addr()]
        nets += [f"{r.get('RTA_DST')}/{r['dst_len']}" for r in ip.get_routes() if r.get("RTA_DST")]
    return [ip_network(text, strict=False) for text in nets]


def bridge_of(lab: Addressing) -> str | None:
    """The home written on the lab's bridge, "" if none is; None when there is no such bridge."""
    with _pyroute2().IPRoute() as ip:
        link = next(iter(ip.link("dump", ifname=lab.bridge)), None)
        return None if link is None else str(link.get("IFLA_IFALIAS") or "")


def add_bridge(lab: Addressing, home: str) -> bool:
    """Makes the lab's bridge with its gateway addresses; False when a bridge of that name is there already.

    The home is written on it (as its alias), so that it is known whose it is. Raises NetworkBroken.
    """
    with _translated(f"make bridge {lab.bridge}"), _pyroute2().IPRoute() as ip:
        try:
            ip.link("add", ifname=lab.bridge, kind="bridge")
        except _pyroute2().NetlinkError as error:
            if error.code == errno.EEXIST:
                return False
            raise
        bridge = _index(ip, lab.bridge)
        ip.link("set", index=bridge, ifalias=home)
        _add_addresses(ip, bridge, f"{lab.gateway}/24", f"{lab.gateway6}/64" if has_ipv6() else "")
        ip.link("set", index=bridge, state="up")
    return True


def attach(lab: Addressing, pod: Pod) -> None:
    """Joins the pod to the lab's bridge and gives it its addresses and default routes. Raises NetworkBroken."""
    with _translated(f"attach pod {pod.name} to {lab.bridge}"):
        _add_veth(lab, pod)
        in_network(pod, lambda: _configure_pod(lab, pod))


def remove_link(name: str) -> None:
    """Deletes a veth (with its other end) or a bridge, if it is there. Raises NetworkBroken."""
    with _translated(f"remove {name}"), _pyroute2().IPRoute() as ip:
        try:
            ip.link("del", index=_index(ip, name))
        except _pyroute2().NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def hardware_address(address: str) -> str:
    """Of the pod that has this IPv4 address: unicast, locally administered (IEEE 802, 8.4), and its successor's too.

    The kernel would make one up. Who had talked to a pod of that address that is gone would for some seconds say to
    nobody what is for the next one.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x02\0" + ip_address(address).packed)


def _add_veth(lab: Addressing, pod: Pod) -> None:
    namespace = os.open(f"/proc/{pod.pid1}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _pyroute2().IPRoute() as ip:
            peer = {"ifname": POD_INTERFACE, "net_ns_fd": namespace, "address": hardware_address(pod.address)}
            ip.link("add", ifname=pod.link, kind="veth", peer=peer)
            link = _index(ip, pod.link)
            ip.link("set", index=link, ifalias=pod.directory, master=_index(ip, lab.bridge), state="up")
    finally:
        os.close(namespace)


def _configure_pod(lab: Addressing, pod: Pod) -> None:
    with _pyroute2().IPRoute() as ip:
        ip.link("set", index=_index(ip, "lo"), state="up")
        interface = _index(ip, POD_INTERFACE)
        _add_addresses(ip, interface, f"{pod.address}/24", f"{pod.address6}/64" if pod.address6 else "")
        ip.link("set", index=interface, state="up")
        ip.route("add", dst="default", gateway=str(lab.gateway), oif=interface)
        if pod.address6:
            ip.route("add", dst="default", gateway=str(lab.gateway6), oif=interface)


def _add_addresses(ip: IPRoute, index: int, address: str, address6: str) -> None:
    four = ip_interface(address)
    ip.addr("add", index=index, address=str(four.ip), prefixlen=four.network.prefixlen)
    if address6:
        six = ip_interface(address6)
        ip.addr("add", index=index, address=str(six.ip), prefixlen=six.network.prefixlen, flags=IFA_F_NODAD)


def _index(ip: IPRoute, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise _pyroute2().NetlinkError(errno.ENODEV, name)
    return int(found[0])


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (_pyroute2().NetlinkError, OSError) as error:
        raise NetworkBroken(f"the kernel refused to {what}: {error}") from error
