"""`qtuning audit`: the paper's claims, recomputed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtuning.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from qtuning.paper.audit import Audit

COLOURS = {"holds": "green", "partly": "yellow", "contradicted": "red", "not testable": "dim"}
UNBOUNDED = 160
"""Columns of a file or pipe, which has no width of its own."""


def audit(
    store: Annotated[
        Path | None,
        typer.Option(help="folder with our scores.parquet; published scores alone without it", show_default="results"),
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="claims and how to recompute them; default: those shipped (docs/audit.md)")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="published scores; default: those shipped")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Recompute the paper's claims from its own tables, and from our cells where they exist.

    Exit status 1 if a recomputed verdict is not the one that the claims' file states.

    `qtuning audit --store docs/example/store`
    """
    from qtuning.paper.audit import audit as run
    from qtuning.paper.audit_report import audit_json
    from qtuning.paper.claims import read_claims
    from qtuning.paper.ours import read_store
    from qtuning.paper.reference import PAPER, read_published
    from qtuning.statistics.interval import Intervals
    from qtuning.store.store import Store

    if store is not None and not store.is_dir():
        raise UserError(f"--store = {str(store)!r}: no such folder; leave it out for the published scores alone")
    store = store or Path("results")
    published = read_published(scores or PAPER / "reference_scores.csv")
    ours = read_store(store)
    result = run(published, read_claims(published, claims or PAPER / "claims.yaml"), ours, Intervals(Store(store)))
    if as_json:
        print(json.dumps(audit_json(result), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)
        print_audit(result, console)
        if ours is None:
            console.print(f"{store}/scores.parquet: no such file; published scores alone", style="dim", markup=False)
    if result.differing:
        sys.exit(1)


def print_audit(result: "Audit", console: "Console") -> None:
    """The table of verdicts, the arithmetic of every claim, the checks beside them, and the sum of it all."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from qtuning.paper.audit_report import TOLERANCE, checks, details, our_verdict

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for header in ("Claim", "Recomputed", "File says", "From our cells"):
        table.add_column(header, no_wrap=header in ("Recomputed", "File says"))
    for ruling in result.rulings:
        verdict = ruling.published.verdict
        table.add_row(
            Text(ruling.claim.text),
            Text(verdict, style=COLOURS[verdict]),
            Text(ruling.claim.verdict, style="" if ruling.agrees else "bold red"),
            Text(our_verdict(ruling), style=COLOURS[ruling.ours.verdict]),
        )
    console.print(table)
    console.print(TOLERANCE, style="dim", markup=False)
    for ruling in result.rulings:
        console.print()
        title = Text(f"{ruling.claim.id}: ", style="bold")
        console.print(title.append(ruling.published.verdict, style=COLOURS[ruling.published.verdict]))
        for line in details(ruling):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    for heading, found in checks(result):
        console.print()
        console.print(Text(heading, style="bold"))
        for line in found:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    console.print()
    for ruling in result.differing:
        console.print(
            Text(f"{ruling.claim.id}: the file says {ruling.claim.verdict}, the numbers say ", style="bold red").append(
                ruling.published.verdict
            )
        )
    agreeing = len(result.rulings) - len(result.differing)
    console.print(f"{agreeing} of {len(result.rulings)} verdicts are as the file states them", markup=False)
