"""What can go wrong with a lab: a closed set.

MidstreamError
└── LabError
    ├── BadName          a pod's name that is not a DNS label of at most 32 characters
    ├── HomePathTooLong  the sockets' paths would not fit into a socket address
    ├── BadHome          the lab's folder cannot be made
    ├── TooSmall         a pod would not have room for its sidecars, or for any image
    ├── NotRoot          namespaces need root
    ├── BadShare         a path to share with a pod that is no folder, or no plain path
    ├── UnsafeFolder     somebody else's folder is where the images would go
    ├── PodExists        a pod of that name is alive
    ├── NoSuchPod        no pod of that name
    ├── PodGone          the pod's first process died; what is left of it can be deleted
    ├── LabFull          all addresses of the lab are taken
    ├── NoFreeSubnet     every subnet that a lab may use collides with one of the host's
    ├── NoCriu           there is no CRIU for the pod's agent
    ├── NoMemoryLimit    this machine cannot limit a pod's memory
    ├── PodBroken        the pod's first process could not set the pod up
    ├── NetworkBroken    the kernel refused a bridge, a veth or an address
    └── PodNotReady      the sidecars did not answer in time
"""

from __future__ import annotations

from typing import ClassVar

from controller.core.errors import MidstreamError


class LabError(MidstreamError):
    """The lab could not do what it was asked. Each subclass fixes its code, its fault and its hint."""

    kind: ClassVar[str] = "lab"
    whose: ClassVar[str] = "machine"
    advice: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(self.kind, message, self.whose, self.advice)


class BadName(LabError):
    kind, whose = "bad-name", "request"
    advice = "use 1 to 32 of a-z, 0-9 and '-', beginning and ending with a letter or a digit"


class HomePathTooLong(LabError):
    kind, whose = "home-path-too-long", "request"
    advice = "set MIDSTREAM_HOME to a shorter path: a unix socket's path is short"


class BadHome(LabError):
    kind, whose = "bad-home", "request"
    advice = "set MIDSTREAM_HOME to a folder, or to where one can be made"


class TooSmall(LabError):
    kind, whose = "too-small", "request"
    advice = "give it more: sizes are like 512MiB or 2GB"


class NotRoot(LabError):
    kind, whose = "not-root", "request"
    advice = "run it as root: namespaces, veth pairs and CRIU need it"


class UnsafeFolder(LabError):
    kind = "unsafe-folder"
    advice = "remove it: images hold the workload's memory, so nobody but root may own the folder they are in"


class PodExists(LabError):
    kind, whose = "pod-exists", "request"
    advice = "choose another name, or `midstream pod delete` it first"


class NoSuchPod(LabError):
    kind, whose = "no-such-pod", "request"
    advice = "`midstream pod list` shows the pods there are; MIDSTREAM_HOME chooses the lab"


class BadShare(LabError):
    kind, whose = "bad-share", "request"
    advice = "name a folder that is there, by its absolute path, without links on the way"


class PodGone(LabError):
    kind, whose = "pod-gone", "pod"
    advice = "`midstream pod delete` clears away what is left of it"


class LabFull(LabError):
    kind, whose = "lab-full", "request"
    advice = "delete a pod, or use a second lab (another MIDSTREAM_HOME)"


class NoFreeSubnet(LabError):
    kind = "no-free-subnet"
    advice = "delete labs that are not used any more; they live in 198.18.0.0/15"


class NoCriu(LabError):
    kind = "criu-missing"
    advice = "`make setup` provides one; MIDSTREAM_CRIU names another"


class NoMemoryLimit(LabError):
    kind = "no-memory-limit"
    advice = "create the pod without a memory limit"


class PodBroken(LabError):
    kind = "pod-broken"
    advice = "`midstream check` looks for what this machine lacks"


class NetworkBroken(LabError):
    kind = "network-broken"
    advice = "`midstream check` looks for what this machine lacks"


class PodNotReady(LabError):
    kind, whose = "pod-not-ready", "machine"
    advice = "`midstream check` looks for what this machine lacks"
