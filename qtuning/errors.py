"""The one exception a user is meant to read."""

from collections.abc import Sequence
from textwrap import shorten


class UserError(Exception):
    """Bad input or a missing resource: one line saying what, where (file, key, line) and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that is raised is
    a defect of ours and keeps its traceback (status 1).
    """


def raise_problems(problems: Sequence[str]) -> None:
    """UserError with a line for each problem, if there is any."""
    if problems:
        raise UserError("\n".join(problems))


def one_line(error: Exception) -> str:
    """What a library's exception says, on one line of at most 200 characters, to stand in a message of ours."""
    return shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
