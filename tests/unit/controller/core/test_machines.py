"""What makes two machines too different for a move."""

import pytest

from checkpoint.api import Health
from controller.core.machines import unlike


def health(criu="4.2.1", architecture="x86_64"):
    return Health("0.1.0", criu, "6.18.44", architecture)


@pytest.mark.parametrize(
    ("ours", "theirs", "codes"),
    [
        (health(), health(), []),
        (health("4.2"), health("4.3"), []),
        (health("3.17.1"), health(), ["criu-too-old"]),
        (health(), health("3.17.1"), ["criu-too-old", "criu-differs"]),
        (health(), health(""), ["criu-too-old", "criu-differs"]),
        (health("4.3"), health("4.2.1"), ["criu-differs"]),
        (health(), health(architecture="aarch64"), ["architecture-differs"]),
    ],
)
def test_each_difference_has_its_name(ours, theirs, codes):
    found = unlike("a", ours, "b", theirs)
    assert [problem.code for problem in found] == codes
    assert all("pod" in problem.message for problem in found)
