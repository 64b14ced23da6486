"""`python -m relay` is the same as the command `relay`."""

from relay.cli.main import main

main(prog_name="relay")
