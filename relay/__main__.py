"""The command `relay`, and `python -m relay`: holds signals back while the commands are imported, which takes half a second."""

from relay.ops import signals


def main() -> None:
    """Run the command."""
    signals.hold()
    from relay.cli.main import main as run

    run(prog_name="relay")


if __name__ == "__main__":
    main()
