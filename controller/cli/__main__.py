"""`midstream`, also as `python -m controller.cli`."""

from controller.cli import interrupt


def main() -> None:
    interrupt.ends_at_once()
    from controller.cli.main import main as command

    command(prog_name="midstream")


if __name__ == "__main__":
    main()
