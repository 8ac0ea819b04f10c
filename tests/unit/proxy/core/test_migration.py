from __future__ import annotations

from itertools import product

import pytest

from proxy.core.errors import Code, ProxyError
from proxy.core.migration import INBOUND, OUTBOUND, Call, Inbound, Outbound, inbound, outbound


def test_the_source_adopts_then_repoints() -> None:
    state = outbound(Outbound.PREPARED, Call.ADOPT)
    assert outbound(state, Call.ADOPT) is state is Outbound.HOLDING
    assert outbound(state, Call.REPOINT) is Outbound.REPOINTED


def test_the_destination_builds_then_resumes() -> None:
    state = inbound(Inbound.PREPARED, Call.BUILD)
    assert inbound(state, Call.BUILD) is state is Inbound.BUILT
    state = inbound(state, Call.RESUME)
    assert inbound(state, Call.ORPHAN) is state is Inbound.RESUMED


def test_a_workload_without_connections_moves_too() -> None:
    assert outbound(Outbound.PREPARED, Call.REPOINT) is Outbound.REPOINTED
    assert inbound(Inbound.PREPARED, Call.RESUME) is Inbound.RESUMED


@pytest.mark.parametrize(("state", "call"), list(product(Outbound, Call)))
def test_the_source_refuses_what_its_table_has_not(state: Outbound, call: Call) -> None:
    if (state, call) not in OUTBOUND:
        with pytest.raises(ProxyError, match=state.value) as raised:
            outbound(state, call)
        assert raised.value.code is Code.WRONG_STATE


@pytest.mark.parametrize(("state", "call"), list(product(Inbound, Call)))
def test_the_destination_refuses_what_its_table_has_not(state: Inbound, call: Call) -> None:
    if (state, call) not in INBOUND:
        with pytest.raises(ProxyError, match=state.value) as raised:
            inbound(state, call)
        assert raised.value.code is Code.WRONG_STATE
