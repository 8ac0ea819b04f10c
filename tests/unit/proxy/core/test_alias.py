"""The address of a migration's own."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.alias import alias, is_alias


@given(st.text())
def test_it_is_one_of_its_kind_as_the_kernel_writes_it(migration):
    for like in ("198.18.0.1", "fd00::1"):
        made = alias(migration, like)
        assert str(ip_address(made)) == made
        assert is_alias(made)
        assert ip_address(made).version == ip_address(like).version
        assert alias(migration, like) == made


def test_it_is_nobody_elses():
    assert ip_address(alias("redis-1", "198.18.0.1")) in ip_network("169.254.0.0/16")
    assert alias("redis-1", "1.1.1.1") != alias("redis-2", "1.1.1.1")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.255",
        "169.254.160.0",
        "198.18.0.1",
        "127.0.0.1",
        "fd6d:6964:7374:1::1",
        "::1",
        "a.b",
    ],
)
def test_no_other_address_is_taken_for_one(host):
    assert not is_alias(host)
