"""`qtuning audit`: the paper's claims, recomputed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtuning.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from qtuning.tables.page import Page

COLOURS = {"holds": "green", "holds in part": "yellow", "contradicted": "red", "cannot be judged": "dim"}
UNBOUNDED = 160
"""Columns of a file or pipe, which has no width of its own."""


def audit(
    store: Annotated[
        Path | None,
        typer.Option(help="folder with our scores.parquet; published scores alone without it", show_default="results"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Recompute the paper's claims from its own tables, and from our cells where they exist.

    `qtuning audit --store docs/example/store`
    """
    from qtuning.paper.claims import check_claims, claims_json, claims_page
    from qtuning.paper.published import read_published
    from qtuning.paper.recompute import read_ours
    from qtuning.store.store import Store

    if store is not None and not store.is_dir():
        raise UserError(f"--store = {str(store)!r}: no such folder; leave it out for the published scores alone")
    published, store = read_published(), store or Path("results")
    found = (store / "scores.parquet").exists()
    findings = check_claims(published, read_ours(Store(store), published) if found else None)
    if as_json:
        print(json.dumps(claims_json(findings, published), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)
    print_page(claims_page(findings, published), console)
    if not found:
        console.print(f"{store}/scores.parquet: no such file; published scores alone", style="dim", markup=False)


def print_page(page: "Page", console: "Console") -> None:
    """The tables of the page, with verdicts in colour."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for text in page.lead:
        console.print(text, markup=False, highlight=False)
    for table in page.tables:
        drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_lines=True)
        for column in table.columns:
            drawn.add_column(column.name, no_wrap=column.name == "Verdict", justify="left" if column.words else "right")
        for row in table.rows:
            drawn.add_row(*(Text(str(field), style=COLOURS.get(str(field), "")) for field in row))
        console.print()
        if table.title:
            console.print(table.title, style="bold", markup=False, highlight=False)
        console.print(drawn)
        for note in table.notes:
            console.print(note, style="dim", markup=False, highlight=False)
