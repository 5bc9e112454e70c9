"""The command line. Commands are thin; every stage of the workflow is one, and the rules call these same commands."""

import contextlib
import sys
import traceback
from pathlib import Path

import typer

from qtuning.cli.doctor import doctor
from qtuning.cli.draw import audit, compare, export, figures, instrument, report, tables
from qtuning.cli.explore import explore
from qtuning.cli.extras import extra_of
from qtuning.cli.look import check_pruner, contamination, experiments, plan, plane
from qtuning.cli.run import (
    ask,
    base_model,
    cells,
    collect,
    evaluate,
    influence,
    localise,
    prefetch,
    prepare,
    token_kinds,
    train,
)
from qtuning.cli.status import status
from qtuning.cli.track import dashboard, replay
from qtuning.errors import UserError, memory_problem, storage_problem

app = typer.Typer(
    name="qtuning",
    help="Data pruning in supervised fine-tuning: reproduce, ablate and benchmark Q-Tuning and its rivals.\n\n"
    "`snakemake --cores all EXPERIMENT` runs everything; these commands are its stages, by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# in the order of `qtuning --help`
for _command in (
    *(cells, prefetch, base_model, prepare, influence, train, ask, evaluate, status, collect, tables, check_pruner),
    *(replay, dashboard, experiments, plan, localise, token_kinds, compare, instrument, figures, report, explore),
    *(export, audit, contamination, plane, doctor),
):
    app.command(_command.__name__.replace("_", "-"))(_command)


def main() -> None:
    """Entry point: a UserError or a missing extra is one line and exit status 2; anything else has its traceback.

    A disk or a memory that is full is told like a UserError, wherever it was met.
    """
    try:
        app()
    except Exception as error:
        told = error if isinstance(error, UserError) else storage_problem(error) or memory_problem(error)
        if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name or "")) is not None:
            needed = f"needs {error.name}, which is not installed; pip install 'qtuning[{extra}]'"
            told = UserError(f"{' '.join(sys.argv[1:2])} {needed}")
        with contextlib.suppress(OSError):  # the log may be on the disk that is full
            if told is None:
                _print_traceback(error)
            else:
                print(f"error: {told}", file=sys.stderr)
        sys.exit(1 if told is None else 2)


def _print_traceback(error: Exception) -> None:
    """The traceback from our command on. What called it (typer, a server that forks) is no help to the user."""
    ours = Path(__file__).parents[1]
    frame = error.__traceback__
    below = None if frame is None else frame.tb_next  # the first frame is `main`
    while below is not None and ours not in Path(below.tb_frame.f_code.co_filename).parents:
        below = below.tb_next
    traceback.print_exception(type(error), error, below or frame)
