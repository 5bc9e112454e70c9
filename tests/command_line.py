"""Commands as they are typed, in this process."""

from typing import Any

from typer.testing import CliRunner, Result

from qtuning.cli.app import app


def invoke(*arguments: Any) -> Result:
    """What `qtuning ARGUMENTS` prints and raises; `main`, which turns errors into messages, is left out."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
