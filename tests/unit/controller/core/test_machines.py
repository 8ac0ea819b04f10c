"""What makes two machines too different for a move."""

import msgspec
import pytest

import proxy.api as proxy_api
from checkpoint.api import Health
from controller.core.machines import too_few_capabilities, unlike, unlike_links, unlike_versions


def health(criu="4.2.1", architecture="x86_64", cpu_features=("avx", "avx2"), uptime=1000.0, keeps_clocks=True):
    return Health(
        "0.1.0", criu, "6.18.44", architecture, cpu_features=list(cpu_features), uptime_seconds=uptime,
        keeps_clocks=keeps_clocks,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "codes"),
    [
        (health(), health(), []),
        (health("4.2"), health("4.3"), []),
        (health("3.17.1"), health(), ["criu-too-old"]),
        (health(), health("3.17.1"), ["criu-too-old", "criu-differs"]),
        (health(), health(""), ["criu-too-old", "criu-differs"]),
        (health("4.3"), health("4.2.1"), ["criu-differs"]),
        (health(), health(architecture="aarch64", cpu_features=["asimd"]), ["architecture-differs"]),
        (health(), health(cpu_features=["avx", "avx2", "avx512f"]), []),
        (health(), health(cpu_features=["avx"]), ["processor-differs"]),
        (health(), health(uptime=5.0), []),
        (health(keeps_clocks=False), health(uptime=5.0), []),
        (health(), health(uptime=1000.9, keeps_clocks=False), []),
        (health(), health(uptime=5.0, keeps_clocks=False), ["clocks-differ"]),
        (health(), health(uptime=90_000.0, keeps_clocks=False), ["clocks-differ"]),
    ],
)
def test_each_difference_has_its_name(ours, theirs, codes):
    found = unlike("a", ours, "b", theirs, ours.cpu_features)
    assert [problem.code for problem in found] == codes
    assert all("pod" in problem.message for problem in found)


def test_what_a_processor_lacks_is_named_and_which_way_a_clock_would_jump():
    rich = health(cpu_features=["avx", *(f"avx512{one}" for one in "abcdefg")])
    poor = health(cpu_features=["avx"])
    assert unlike("a", rich, "b", poor, poor.cpu_features) == [], "it was started where there was no more"
    (found,) = unlike("a", rich, "b", poor, rich.cpu_features)
    assert "using avx512a, avx512b, avx512c, avx512d, avx512e and 2 more, which pod b's" in found.message
    for uptime, words in ((5.0, "jump 995 s back"), (3000.0, "jump 2000 s forward")):
        (found,) = unlike("a", health(), "b", health(uptime=uptime, keeps_clocks=False))
        assert words in found.message


def test_a_capability_that_cannot_be_given_is_named():
    without = msgspec.structs.replace(health(), capabilities=(1 << 41) - 1 & ~(1 << 24) & ~(1 << 39))
    assert too_few_capabilities("b", 1 << 23 | 1 << 40, without) == []
    (found,) = too_few_capabilities("b", (1 << 41) - 1, without)
    assert found.code == "capabilities-differ"
    assert found.message.startswith("the workload has CAP_SYS_RESOURCE, CAP_BPF, which the agent of pod b has not")


def test_a_sidecar_of_another_minor_version_is_named_with_what_it_is():
    assert unlike_versions("0.1.0", {"agent of pod a": "0.1.7", "proxy of pod a": "0.1.0"}) == []
    (found,) = unlike_versions("0.1.0", {"agent of pod a": "0.2.0", "proxy of pod b": "", "agent of pod b": "0.1.0"})
    assert found.code == "version-differs"
    assert found.message == "this midstream is 0.1.0; the agent of pod a is 0.2.0, the proxy of pod b is ?"


def test_links_in_cleartext_and_links_in_tls_do_not_go_together():
    clear, encrypted = (proxy_api.Health("0.1.0", 0, [], 0, 0, 0, cleartext_links=each) for each in (True, False))
    assert unlike_links("a", clear, "b", clear) == unlike_links("a", encrypted, "b", encrypted) == []
    for ours, theirs, words in ((clear, encrypted, "pod a are in"), (encrypted, clear, "pod b are in")):
        (found,) = unlike_links("a", ours, "b", theirs)
        assert found.code == "links-differ"
        assert words in found.message
        assert "midstream pod list" in found.hint
