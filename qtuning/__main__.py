"""`python -m qtuning` is the command `qtuning`: it runs a command here or through a warm server (warm/)."""

import os
import sys

from qtuning.hub.offline import JOBS, go_offline
from qtuning.warm import client, owner


def main() -> None:
    """Run a command here, or have the warm server run it; or be the warm server."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in JOBS:
        # before anything is imported, and before a warm server is started
        go_offline()
        if not sys.stderr.isatty():  # bars of libraries, whose carriage returns would fill a log (progress.py)
            os.environ.setdefault("TQDM_DISABLE", "1")
    if arguments[:1] == [client.SERVE]:
        from qtuning.warm.server import run

        if not run(*arguments[1:]):
            return
        # this is a forked job now, and sys.argv holds its command
    else:
        owner.end_with_owner()
        if client.wanted(arguments) and (status := client.run(arguments)) is not None:
            sys.exit(status)
    from qtuning.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
