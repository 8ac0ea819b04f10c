"""pycriu's classes, or a word about their absence."""

from __future__ import annotations

import sys

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.images.pb import Messages
from tests.harness.made_images import MESSAGES


def test_the_classes_are_there():
    assert MESSAGES.request(type=MESSAGES.DUMP).type == MESSAGES.DUMP
    assert MESSAGES.INETSK == 4


def test_a_folder_without_pycriu_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    others = {name: one for name, one in sys.modules.items() if "." in name or not name.endswith("_pb2")}
    monkeypatch.setattr(sys, "modules", others)
    with pytest.raises(AgentError, match=str(tmp_path)) as caught:
        Messages(tmp_path)
    assert caught.value.code is Code.CRIU_MISSING
