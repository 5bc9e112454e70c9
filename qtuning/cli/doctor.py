"""The command that looks at the machine and at results, before something goes wrong or after it did."""

import sys
from typing import Annotated

import typer

from qtuning.cli.options import RESULTS, Results


def doctor(
    results: Results = RESULTS,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="remove damaged checkpoints, leftovers and idle locks; set refused resume states aside"
        ),
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="compare all files with the digests of what was written")
    ] = False,
) -> None:
    """Say what this machine and these results are, what would go wrong, and what to type.

    GPUs and whether torch sees them, the hub, disk, locks; cells that are unfinished, failed or damaged. Exit status 1
    if there is a problem. `--repair` does nothing that could lose a result, and prints what it did.

    `qtuning doctor --results results`
    """
    from rich.console import Console

    from qtuning.doctor.finding import print_findings
    from qtuning.doctor.finding import repair as mend
    from qtuning.doctor.machine import look_at_machine
    from qtuning.doctor.results import look_at_results
    from qtuning.doctor.storage import look_at_hub, look_at_results_folder
    from qtuning.experiment.ids import ResultPaths

    disk, locks_tell = look_at_results_folder(results)
    sections = {"machine": look_at_machine(), "hub": list(look_at_hub()), "disk": disk}
    if locks_tell:  # else nobody can say what is at work
        sections["results"] = list(look_at_results(ResultPaths(results), thorough))
    console = Console(width=10_000, highlight=False, markup=False)  # the terminal wraps, and a pipe does not
    print_findings(sections, console)
    findings = [finding for section in sections.values() for finding in section]
    problems = sum(finding.level == "problem" for finding in findings)
    if repair:
        done, problems = mend(findings)
        for line in done:
            console.print(f"repaired: {line}")
        if not done:
            console.print("repaired: nothing had to be")
    console.print(f"{problems} problem(s)" if problems else "no problem")
    if problems:
        sys.exit(1)
