from __future__ import annotations

import errno
import os
import re
from typing import Any

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.sys import nftables, options
from proxy.sys.kernel import Kernel
from proxy.sys.netlink import Message
from proxy.sys.routing import Routing, open_loopback

KEY = nftables.flow_key(Endpoint("10.0.0.2", 7000), Endpoint("10.0.0.9", 40000))
CONF = "/proc/sys/net/ipv4/conf"


class Files(Kernel):
    """A /proc/sys of its own; everything else is the real kernel's."""

    def __init__(self, everywhere: int = 0, eth0: int = 0) -> None:
        self.files = {
            f"{CONF}/{device}/{name}": 0
            for device in ("all", "default", "lo", "eth0")
            for name in ("rp_filter", "accept_local")
        }
        self.files[f"{CONF}/all/rp_filter"] = everywhere
        self.files[f"{CONF}/eth0/rp_filter"] = eth0
        self.written: list[str] = []

    def read_text(self, path: str) -> str:
        return f"{self.files[path]}\n"

    def write_text(self, path: str, text: str) -> None:
        self.written.append(path)
        self.files[path] = int(text)

    def names_in(self, path: str) -> list[str]:
        return ["all", "default", "lo", "eth0"]


class Wire:
    """A netlink socket that only notes what is sent, and fails as told."""

    def __init__(self, protocol: int, failures: dict[int, int]) -> None:
        self.protocol = protocol
        self.kinds: list[int] = []
        self.asked: list[Any] = []
        self._failures = failures
        self.closed = False

    def send(self, messages: Any) -> None:
        for message in messages:
            kind = message.kind & 0xFF
            self.kinds.append(kind)
            if code := self._failures.get(kind):
                raise OSError(code, os.strerror(code))

    def dump(self, question: Any) -> list[bytes]:
        """In one of the sets there is this key."""
        (_, message, _) = nftables.change([KEY], [])
        return [message.body] if b"flows4" in question.body else []

    def ask(self, questions: Any) -> list[bytes]:
        self.asked += questions
        return [b"" for _ in questions]

    def close(self) -> None:
        self.closed = True


class Made:
    def __init__(self, **failures: int) -> None:
        numbers = {int(name.removeprefix("kind_")): code for name, code in failures.items()}
        self.wires: dict[int, Wire] = {}

        def wire(protocol: int) -> Any:
            self.wires[protocol] = Wire(protocol, numbers)
            return self.wires[protocol]

        self.routing = Routing(Files(), wire)
        self.nft, self.route = self.wires[options.NETLINK_NETFILTER], self.wires[options.NETLINK_ROUTE]


@pytest.mark.parametrize(("everywhere", "eth0", "then"), [(1, 0, 1), (1, 2, 2), (2, 1, 2), (0, 1, 1), (0, 0, 0)])
def test_the_other_devices_stay_as_strict_as_they_were(everywhere: int, eth0: int, then: int) -> None:
    files = Files(everywhere, eth0)
    open_loopback(files)
    assert files.files[f"{CONF}/all/rp_filter"] == files.files[f"{CONF}/lo/rp_filter"] == 0
    assert files.files[f"{CONF}/lo/accept_local"] == 1
    assert max(0, files.files[f"{CONF}/eth0/rp_filter"]) == then


def test_what_is_right_already_is_not_written() -> None:
    files = Files()
    files.files[f"{CONF}/lo/accept_local"] = 1
    open_loopback(files)
    assert files.written == []


def test_set_up_once_and_taken_down_once() -> None:
    made = Made()
    made.routing.tear_down()
    for _ in range(2):
        made.routing.set_up()
    assert made.route.kinds == [32, 24, 32, 24]
    assert made.nft.kinds.count(0x10) == 2
    assert made.routing.catches
    made.routing.catch(7000, wanted=True)
    assert made.nft.kinds[-3:] == [0x10, 12, 0x11]
    for _ in range(2):
        made.routing.tear_down()
    assert made.route.kinds[4:] == [33, 25, 33, 25]
    made.routing.close()
    assert made.nft.closed
    assert made.route.closed


def test_keys_are_added_and_removed_once() -> None:
    made = Made()
    made.routing.set_up()
    begun = len(made.nft.kinds)
    one, two = bytes(16), bytes(15) + b"\1"
    made.routing.change([one, two])
    made.routing.change([one])
    assert made.routing.flows == 2
    made.routing.change([], [one, bytes(40)])
    assert made.routing.flows == 1
    assert made.nft.kinds[begun:] == [0x10, 12, 0x11, 0x10, 14, 0x11]


def test_what_exists_is_fine_and_a_pod_may_lack_ipv6() -> None:
    Made(kind_32=errno.EEXIST, kind_24=errno.EEXIST).routing.set_up()
    Made(kind_33=errno.ENOENT).routing.set_up()


@pytest.mark.parametrize("kind", ["kind_32", "kind_24", "kind_0"])
def test_a_refusal_is_translated_once(kind: str) -> None:
    with pytest.raises(ProxyError, match=re.escape(os.strerror(errno.EPERM))) as raised:
        Made(**{kind: errno.EPERM}).routing.set_up()
    assert raised.value.code is Code.ROUTING_FAILED


def test_a_kernel_that_cannot_send_words_to_the_proxy_has_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "catch", lambda mark: [Message(99, 0, b"")])
    made = Made(kind_99=errno.ENOENT)
    made.routing.set_up()
    assert not made.routing.catches
    made.routing.tear_down()
    made.routing.catch(7000, wanted=False)  # gone with the table
    assert made.nft.kinds[-1] == 0x11


def test_a_key_that_is_refused_is_not_remembered() -> None:
    made = Made(kind_12=errno.ENOSPC)
    made.routing.set_up()
    with pytest.raises(ProxyError):
        made.routing.change([bytes(16)])
    assert made.routing.flows == 0


@pytest.mark.parametrize("left", [True, False])
def test_what_another_proxy_has_left_is_cleared_away(left: bool) -> None:
    """Whose connections it was that the table names; that there is none is no trouble."""
    made = Made(**({} if left else {"kind_2": errno.ENOENT}))
    assert made.routing.clear_away() == 0
    (asked,) = made.wires[options.NETLINK_SOCK_DIAG].asked
    assert KEY[:4] in asked.body
    assert made.nft.kinds[:2] == [0x10, 2]
