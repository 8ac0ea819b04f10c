from __future__ import annotations

import pytest

from proxy.io.accepted import AcceptedLink
from tests.harness import proxy_parts as parts
from tests.harness.broken import Broken, breaks

pytestmark = [parts.NEEDS_ROOT, parts.BOTH_CARRIERS]


@pytest.mark.parametrize("broken", [0.3], indirect=True)
async def test_a_link_that_cannot_be_made_again_is_given_up(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AcceptedLink, "GRACE_SECONDS", 0.5)
    broken.network.refusing = True
    broken.network.cut()
    for sock in (broken.flow.peer, broken.flow.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 1)
    await broken.flow.become("reset", "reset")
    (line,) = broken.plane.inbound_ledger("m")
    assert line.error.endswith("and it was not made again")
    assert breaks(broken.plane)["lost"] == 2
    assert sum("lost" in record.message for record in caplog.records) == 2
