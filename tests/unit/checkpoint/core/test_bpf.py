"""Instructions as RFC 9669 has them."""

from __future__ import annotations

import pytest

from checkpoint.core.bpf import Helper, Operation, Program, Register


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda to: to.load(Register.B, Register.A, 16), "79 67 1000 00000000"),
        (lambda to: to.load(Register.FIRST, Register.D, 2, 1), "71 91 0200 00000000"),
        (lambda to: to.store(Register.STACK, -8, Register.FIRST, 4), "63 1a f8ff 00000000"),
        (lambda to: to.clear(Register.STACK, -16), "7a 0a f0ff 00000000"),
        (lambda to: to.do(Operation.SET, Register.THIRD, 184), "b7 03 0000 b8000000"),
        (lambda to: to.do(Operation.SET_TO, Register.A, Register.FIRST), "bf 16 0000 00000000"),
        (lambda to: to.do(Operation.ADD, Register.SECOND, -8), "07 02 0000 f8ffffff"),
        (lambda to: to.call(Helper.SEQ_WRITE), "85 00 0000 7f000000"),
        (lambda to: to.end(), "b7 00 0000 00000000 95 00 0000 00000000"),
    ],
)
def test_an_instruction_is_as_the_standard_has_it(write, code: str):
    program = Program()
    write(program)
    assert bytes(program) == bytes.fromhex(code)


def test_a_jump_goes_on_where_it_is_to_land():
    program = Program()
    first = program.jump_if_zero(Register.A)
    second = program.jump_if_zero(Register.RESULT)
    program.call(Helper.SEQ_WRITE)
    program.land(second)
    program.call(Helper.SEQ_WRITE)
    program.land(first)
    code = bytes(program)
    assert code[:8] == bytes.fromhex("15 06 0300 00000000")
    assert code[8:16] == bytes.fromhex("15 00 0100 00000000")
