"""`midstream`, also as `python -m controller.cli`.

An interrupt from the keyboard ends the command at once and in silence, as it ends other programs, until everything that
it needs has been imported: there is nothing to take back yet, and a traceback would help nobody.
"""

import signal


def main() -> None:
    by_hand = signal.getsignal(signal.SIGINT)
    if by_hand is signal.default_int_handler:  # else somebody wants it ignored, as for a command in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from controller.cli.main import main as command

    signal.signal(signal.SIGINT, by_hand)
    command(prog_name="midstream")


if __name__ == "__main__":
    main()
