"""`qtuning check-pruner`: which pruners are meant, and what the conformance kit says of them as a table."""

from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qtuning.errors import UserError
from qtuning.experiment.lookup import BUILT_IN, bind, find_pruner, kinds_of
from qtuning.experiment.registry import Kind
from qtuning.pruners.conformance import Outcome, Subject, check


def run_checks(names: Sequence[str], kind: str | None, options: Sequence[str]) -> bool:
    """Check and print; whether all rules were kept. No names: every built-in. UserError for an unknown pruner."""
    if kind not in (None, "sample", "token"):
        raise UserError(f"--kind = {kind!r}: must be sample or token")
    kinds: list[Kind] = ["sample", "token"] if kind is None else [kind]  # type: ignore[list-item]
    chosen = _chosen_options(options)
    if chosen and len(names) != 1:
        raise UserError("--option: give the options of one pruner at a time")
    subjects = [
        subject for name in names for subject in subjects_of(name, kinds_of(name) if kind is None else kinds, chosen)
    ]
    if not names:
        subjects = [Subject(info, known) for known in kinds for info in BUILT_IN[known].values()]
    for subject in subjects:
        bind(subject.info, subject.options, subject.kind)  # wrong options are the caller's, not the pruner's
    results = check(subjects)
    console = Console()
    if len(subjects) > 2:
        console.print(_overview(subjects, results))
    for subject, outcomes in zip(subjects, results, strict=True):
        if len(subjects) <= 2 or not all(outcome.passed for outcome in outcomes):
            console.print(_table(subject, outcomes))
    failed = sum(not outcome.passed for outcomes in results for outcome in outcomes)
    verdict = f"{failed} rule{'s' * (failed != 1)} broken" if failed else "all rules kept"
    console.print(f"{len(subjects)} pruner{'s' * (len(subjects) != 1)}: {verdict}")
    return failed == 0


def _chosen_options(options: Sequence[str]) -> dict[str, Any]:
    chosen = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise UserError(f"--option = {option!r}: must be KEY=VALUE")
        chosen[key] = yaml.safe_load(value)
    return chosen


def subjects_of(name: str, kinds: Sequence[Kind], chosen: dict[str, Any]) -> list[Subject]:
    """The pruners of that name. An option that only one of two knows is for that one."""
    infos = [(find_pruner(name, kind), kind) for kind in kinds]
    known = [{field.alias or key for key, field in info.options.model_fields.items()} for info, _ in infos]
    subjects = []
    for (info, kind), mine in zip(infos, known, strict=True):
        others = set().union(*known) - mine
        subjects.append(Subject(info, kind, {key: value for key, value in chosen.items() if key not in others}))
    return subjects


def _table(subject: Subject, outcomes: Sequence[Outcome]) -> Table:
    info = subject.info
    table = Table(title=f"{subject.kind} pruner {info.name}", title_justify="left", title_style="bold", box=None)
    table.show_header = False
    table.add_column(width=4)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for outcome in outcomes:
        passed = outcome.passed
        table.add_row(_mark(passed), outcome.name, escape(outcome.detail), style=None if passed else "bold red")
    return table


def _overview(subjects: Sequence[Subject], results: Sequence[Sequence[Outcome]]) -> Table:
    """One row a pruner, with the rules that it breaks."""
    table = Table(box=None, header_style="bold")
    for heading in ("", "kind", "pruner", "rules broken"):
        table.add_column(heading, overflow="fold")
    for subject, outcomes in zip(subjects, results, strict=True):
        broken = [outcome.name for outcome in outcomes if not outcome.passed]
        style = "bold red" if broken else None
        table.add_row(_mark(not broken), subject.kind, subject.info.name, ", ".join(broken) or "none", style=style)
    return table


def _mark(passed: bool) -> str:
    return "ok" if passed else "FAIL"
