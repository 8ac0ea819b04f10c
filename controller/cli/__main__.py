"""`python -m controller.cli`: the same as `midstream`."""

from controller.cli.main import main

main(prog_name="midstream")
