"""`qtuning check-pruner`: tries the rules of conformance.py on pruners, and prints how they fare."""

from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qtuning.errors import UserError
from qtuning.experiment.lookup import BUILT_IN, bind_options, find_pruner, kinds_of
from qtuning.experiment.registry import PrunerKind
from qtuning.pruners.conformance import Outcome, Subject, check_pruners
from qtuning.pruners.habit_trials import habits_of

_MARKS = {True: ("ok", None), False: ("FAIL", "bold red")}  # text and style of a row


def run_checks(names: Sequence[str], kind: str | None, options: Sequence[str]) -> bool:
    """Check and print; whether all rules were kept. No names: every built-in. UserError for an unknown pruner."""
    if kind not in (None, "sample", "token"):
        raise UserError(f"--kind = {kind!r}: must be sample or token")
    kinds: list[PrunerKind] = ["sample", "token"] if kind is None else [kind]  # type: ignore[list-item]
    chosen = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise UserError(f"--option = {option!r}: must be KEY=VALUE")
        chosen[key] = yaml.safe_load(value)
    if chosen and len(names) != 1:
        raise UserError("--option: give the options of one pruner at a time")
    subjects = [
        subject for name in names for subject in subjects_of(name, kinds_of(name) if kind is None else kinds, chosen)
    ]
    if not names:
        subjects = [Subject(info, known) for known in kinds for info in BUILT_IN[known].values()]
    for subject in subjects:
        bind_options(subject.info, subject.options, subject.kind)  # wrong options are the caller's, not the pruner's
    results = check_pruners(subjects)
    console = Console()
    if len(subjects) > 2:
        console.print(_overview(subjects, results))
    for subject, outcomes in zip(subjects, results, strict=True):
        if len(subjects) <= 2 or not all(outcome.passed for outcome in outcomes):
            console.print(_table(subject, outcomes))
        if names and all(outcome.passed for outcome in outcomes):
            for line in habits_of(subject):
                console.print(f"[yellow]warning:[/] {subject.kind} pruner {subject.info.name}: {escape(line)}")
    failed = sum(not outcome.passed for outcomes in results for outcome in outcomes)
    verdict = f"{failed} rule{'s' * (failed != 1)} broken" if failed else "all rules kept"
    console.print(f"{len(subjects)} pruner{'s' * (len(subjects) != 1)}: {verdict}")
    return failed == 0


def subjects_of(name: str, kinds: Sequence[PrunerKind], chosen: dict[str, Any]) -> list[Subject]:
    """The pruners of that name. An option that only one of two knows is for that one."""
    infos = {kind: find_pruner(name, kind) for kind in kinds}
    known = {
        kind: {field.alias or key for key, field in info.options.model_fields.items()} for kind, info in infos.items()
    }
    # an option that none knows goes to all, who refuse it
    foreign = {kind: set().union(*known.values()) - known[kind] for kind in kinds}
    return [
        Subject(info, kind, {key: value for key, value in chosen.items() if key not in foreign[kind]})
        for kind, info in infos.items()
    ]


def _table(subject: Subject, outcomes: Sequence[Outcome]) -> Table:
    title = f"{subject.kind} pruner {subject.info.name}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(width=4)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for outcome in outcomes:
        mark, style = _MARKS[outcome.passed]
        table.add_row(mark, outcome.name, escape(outcome.detail), style=style)
    return table


def _overview(subjects: Sequence[Subject], results: Sequence[Sequence[Outcome]]) -> Table:
    """One row a pruner, with the rules that it breaks."""
    table = Table(box=None, header_style="bold")
    for heading in ("", "kind", "pruner", "rules broken"):
        table.add_column(heading, overflow="fold")
    for subject, outcomes in zip(subjects, results, strict=True):
        broken = ", ".join(outcome.name for outcome in outcomes if not outcome.passed)
        mark, style = _MARKS[not broken]
        table.add_row(mark, subject.kind, subject.info.name, broken or "none", style=style)
    return table
