from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from proxy.sys import privileges

DROP = """
import json
from proxy.sys import privileges
privileges.drop(64901)
privileges.drop(1)  # once is enough
status = privileges.status()
print(json.dumps({key: status[key] for key in
                  ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}))
"""
ONE = f"{1 << privileges.CAP_NET_ADMIN:016x}"
NONE = f"{0:016x}"


@pytest.mark.skipif(os.geteuid() != 0, reason="there is nothing to drop")
def test_exactly_one_capability_is_left() -> None:
    done = subprocess.run([sys.executable, "-c", DROP], stdout=subprocess.PIPE, check=True)
    status = json.loads(done.stdout)
    assert status["Uid"].split() == status["Gid"].split() == ["64901"] * 4
    assert status["Groups"] == ""
    assert status["CapPrm"] == status["CapEff"] == status["CapBnd"] == ONE
    assert status["CapInh"] == status["CapAmb"] == NONE
    assert status["NoNewPrivs"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without it")
def test_without_it_there_is_no_proxy() -> None:
    program = "from proxy.sys import privileges; privileges.drop(1)"
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False, user=64901, extra_groups=[]
    )
    assert "CAP_NET_ADMIN is missing" in done.stderr


def test_names_are_what_kubernetes_calls_them() -> None:
    assert privileges.names({12, 21}) == ["NET_ADMIN", "CAP_21"]
