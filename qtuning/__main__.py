"""`python -m qtuning` is `qtuning`: the command line, or the warm server that has it imported already."""

import sys

from qtuning.warm import client


def main() -> None:
    """Entry point."""
    if client.wanted(sys.argv[1:]):
        status = client.run(sys.argv[1:])
        if status is not None:
            sys.exit(status)
    from qtuning.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
