"""What a pod's first process is told to run."""

from __future__ import annotations

import sys

import msgspec

from controller.lab.init import Sidecar
from controller.lab.pod import PROXY_UID, Pod
from controller.lab.programs import CHECKOUT, criu, environment, root, sidecars

POD = Pod("a", 1, "", "", "/run/x/pods/a", "midst-3-1", "/dev/shm/midstream-3/a")


def test_both_sidecars_get_their_folders_and_each_other():
    proxy, agent = (Sidecar(**fields) for fields in sidecars(POD))
    assert proxy.argv[:3] == [sys.executable, "-m", "proxy.main"]
    assert proxy.argv[3:7] == ["--directory", "/run/x/pods/a/proxy", "--uid", str(PROXY_UID)]
    assert proxy.argv[7:] == ["--tls", "/run/x/pods/a/proxy/tls"]
    assert agent.argv[:3] == [sys.executable, "-m", "checkpoint.main"]
    assert agent.argv[3:7] == ["--directory", "/run/x/pods/a", "--adopt", "/run/x/pods/a/proxy/adopt.sock"]
    assert agent.argv[7:] == ["--criu", str(criu()), "--images", "/dev/shm/midstream-3/a"]
    assert (proxy.log, agent.log) == ("/run/x/pods/a/proxy.log", "/run/x/pods/a/agent.log")


def test_links_are_in_cleartext_only_where_that_is_asked_for():
    proxy, _ = sidecars(msgspec.structs.replace(POD, cleartext_links=True))
    assert proxy["argv"][-1] == "--cleartext-links"


def test_a_pod_without_sidecars_gets_none():
    assert sidecars(msgspec.structs.replace(POD, sidecars=False)) == []


def test_the_set_ups_criu_is_used():
    assert criu() == CHECKOUT / ".criu" / "criu"
    assert (CHECKOUT / "pyproject.toml").exists()


def test_a_root_of_its_own_is_made_in_its_folder_and_shares_the_lab_and_what_was_named():
    assert root(POD) is None
    own = msgspec.structs.replace(POD, own_root=True, shared=["/srv"])
    assert root(own) == {"folder": "/run/x/pods/a/root", "shared": ["/run/x", "/srv"], "code": str(CHECKOUT)}
    assert environment(own) == environment(POD) | {"PYTHONDONTWRITEBYTECODE": "1"}
