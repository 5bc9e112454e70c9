"""The audit's page: the claims with their verdicts, then what the printed numbers say against each other.

`audit_page` builds it, `print_audit` shows it in a terminal, `audit_json` gives the same to programs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from qtuning.paper.arithmetic import (
    ITEMS,
    check_averages,
    check_deltas,
    copied_rows,
    derived_share,
    item_counts,
    repeated_cells,
    selection_shares,
    token_pairs,
)
from qtuning.paper.claims import Finding
from qtuning.paper.claims_results import q_tuning_rows
from qtuning.paper.judge import TOLERANCE, VERDICTS, Verdict
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import Rival, recompute
from qtuning.tables.labels import benchmark_label
from qtuning.tables.page import Block, Column, Page, Table
from qtuning.tables.terminal import open_console

COLOURS: dict[str, str] = {"holds": "green", "partly": "yellow", "contradicted": "red", "cannot be judged": "dim"}
TRAIN_SETS = {"wizardlm": "WizardLM", "mathinstruct": "MathInstruct", "openhermes": "OpenHermes-2.5"}
MISTAKES = {"sign": "Wrong sign", "size": "Wrong size", "rounding": "Off by 0.01, which unrounded scores would explain"}


def audit_page(findings: Sequence[Finding], published: Published) -> Page:
    """Verdicts first, then the mistakes of the printed numbers, then Q-Tuning's margins."""
    counts = Counter(finding.paper.verdict for finding in findings)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    lead = [f"{len(findings)} claims, recomputed from the numbers that the paper prints: {told}."]
    if not any(finding.ours for finding in findings):
        lead.append("We have no runs of the paper's models on its train sets, so ours judge none of them.")
    tables = (
        _claims_table(findings),
        _summary_table(published),
        _deltas_table(published),
        _averages_table(published),
        _copies_table(published),
        _repeats_table(published),
        _margins_table(published),
    )
    return Page("audit", "Published claims, recomputed", tuple(lead), tuple(table for table in tables if table.blocks))


def _claims_table(findings: Sequence[Finding]) -> Table:
    """A block per verdict, in the paper's order."""
    with_ours = any(finding.ours for finding in findings)
    blocks = []
    for verdict in VERDICTS:
        rows = []
        for each in (finding for finding in findings if finding.paper.verdict == verdict):
            mine = ("" if each.ours is None else f"{each.ours.verdict}: {each.ours.numbers}",) if with_ours else ()
            rows.append((each.where, each.statement, each.paper.numbers, *mine))
        if rows:
            blocks.append(Block(_heading(verdict, len(rows)), tuple(rows)))
    headers = ("Where", "Claim", "The paper's numbers", *(["Our runs"] if with_ours else []))
    columns = tuple(Column(name, words=True) for name in headers)
    notes = (
        "Holds: all parts of the claim are true by the paper's own numbers; partly: some; contradicted: none.",
        "v1: claims about the first version, put to the second's numbers.",
        TOLERANCE,
    )
    return Table("claims", "Claims", columns, tuple(blocks), notes=notes)


def _heading(verdict: Verdict, count: int) -> str:
    return f"{verdict.capitalize()}: {count}"


def _table(
    name: str, title: str, headers: Iterable[str], blocks: Mapping[str, Sequence[tuple[str, ...]]], *notes: str
) -> Table:
    """A table whose columns hold words, but for those whose header begins with `#`."""
    columns = tuple(Column(header.removeprefix("#"), words=not header.startswith("#")) for header in headers)
    drawn = tuple(Block(heading, tuple(rows)) for heading, rows in blocks.items() if rows)
    return Table(name, title, columns, drawn, notes=notes)


def _summary_table(published: Published) -> Table:
    """Each check of the printed numbers in a line."""
    deltas, averages = check_deltas(published), check_averages(published)
    by_delta, by_average = (Counter(each.mistake for each in found) for found in (deltas, averages))
    repeats = repeated_cells(published)
    differ = sum(len({score for _, score in cells}) > 1 for _, cells in repeats)
    counts, pairs = item_counts(published), token_pairs(published, "sparsevlm")
    same = ", ".join(f"{TRAIN_SETS[name]} {equal} of {total}" for name, (equal, total) in pairs.items())
    derived = [derived_share(published, part) for part in ("sample_selection", "token_selection")]  # type: ignore[arg-type]
    both = {f"{100 * share.both:.0f}%" for share in selection_shares(published)}
    rows = [
        (
            "Differences from random pruning (arrows)",
            f"{len(deltas):,}",
            f"{by_delta['exact']:,} exact, {by_delta['rounding']} off by 0.01, {by_delta['sign']} of the wrong sign, "
            f"{by_delta['size']} wrong",
        ),
        (
            "Averages",
            f"{len(averages):,}",
            f"{by_average['exact']} right, {by_average['rounding']} off by what unrounded scores would explain, "
            f"{by_average['size']} wrong",
        ),
        (
            "Scores that must be k of n questions",
            f"{sum(each.cells for each in counts):,}",
            f"{sum(each.possible for each in counts):,} are possible ("
            + ", ".join(f"{benchmark_label(name)}: {items:,} questions" for name, items in ITEMS.items())
            + ")",
        ),
        ("Cells that several tables print", f"{len(repeats):,}", f"{differ} differ"),
        ("Rows that return under another budget", f"{len(copied_rows(published))}", f"SparseVLM at 50 and 70%: {same}"),
        (
            "Selection times of table 6",
            f"{2 * len(selection_shares(published))}",
            " and ".join("no common share" if share is None else f"{share} x the total time" for share in derived)
            + f" at every budget (together {', '.join(sorted(both))}): "
            + ("they look measured" if None in derived else "they look derived, not measured"),
        ),
    ]
    headers = ("What is printed", "#Checked", "Found")
    return _table("numbers", "What the printed numbers say against each other", headers, {"": rows})


def _deltas_table(published: Published) -> Table:
    blocks: dict[str, list[tuple[str, ...]]] = {heading: [] for heading in MISTAKES.values()}
    for each in check_deltas(published):
        if each.mistake != "exact":
            arithmetic = f"{each.score:.2f} - {each.base:.2f} = {each.exact:+.2f}"
            row = (str(each.row), benchmark_label(each.benchmark), arithmetic, f"{each.printed:+.2f}")
            blocks[MISTAKES[each.mistake]].append(row)
    wrong = sum(len(rows) for heading, rows in blocks.items() if heading != MISTAKES["rounding"])
    title = f"{wrong} printed differences are wrong"
    return _table("deltas", title, ("Row", "Benchmark", "#Score - random", "#Printed"), blocks)


def _averages_table(published: Published) -> Table:
    found = check_averages(published)
    wrong = [each for each in found if each.mistake == "size"]
    rows = [
        (str(each.row), f"{each.exact:.3f}", f"{each.printed:.2f}", f"{each.printed - each.exact:+.3f}", each.note)
        for each in wrong
    ]
    title = f"{len(rows)} of {len(found)} printed averages are not the mean of their benchmarks"
    headers = ("Row", "#Mean", "#Printed", "#Off by", "What would explain it")
    return _table("averages", title, headers, {"": rows}, "By more than rounding explains.")


def _copies_table(published: Published) -> Table:
    """Copies of one train set, token pruner and pair of budgets share a line."""
    groups: dict[tuple[str, ...], list[list[PaperRow]]] = {}
    for rows in copied_rows(published):
        places = tuple(f"{budget} ({tables})" for budget, tables in _budgets(rows).items())
        names = {row.token_pruner for row in rows}
        method = rows[0].method if len(names) > 1 or rows[0].q_tuning else f"any + {rows[0].labels[1]}"
        groups.setdefault((TRAIN_SETS[rows[0].train_set], method, " = ".join(places)), []).append(rows)
    drawn = [
        (*key, f"{len(found)}", ", ".join(dict.fromkeys(MODEL_LABEL[rows[0].model] for rows in found)))
        for key, found in groups.items()
    ]
    total = sum(map(len, groups.values()))
    headers = ("Train set", "Method", "Same scores on every benchmark", "#Rows", "Models")
    return _table("copies", f"{total} rows are those of another budget", headers, {"": drawn})


def _budgets(rows: Sequence[PaperRow]) -> dict[str, str]:
    """Budget -> the tables that print the row there: `tables 5, 8`."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.budget, []).append(str(row.table))
    return {budget: f"table{'s' * (len(tables) > 1)} {', '.join(tables)}" for budget, tables in found.items()}


def _repeats_table(published: Published) -> Table:
    rows = []
    for name, cells in repeated_cells(published):
        values: dict[str, list[str]] = {}
        for row, score in cells:
            values.setdefault(f"{score:.2f}", []).append(str(row.table))
        if len(values) > 1:
            row = cells[0][0]
            printed = "; ".join(f"{score} in table {', '.join(tables)}" for score, tables in values.items())
            rows.append((f"{MODEL_LABEL[row.model]}, {row.budget}, {row.method}", benchmark_label(name), printed))
    title = f"{len(rows)} cells have two values in two tables"
    return _table("repeats", title, ("Row", "Benchmark", "Printed"), {"": rows})


def _margins_table(published: Published) -> Table:
    """Q-Tuning's averages minus their rivals'."""
    rivals: tuple[Rival, ...] = ("random", "best", "weakest", "full", "zero-shot")
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for row in q_tuning_rows(published):
        gains = (recompute(published, published, row, rival=rival) for rival in rivals)
        score = f"{published.values(row, 'avg')[0]:.2f}"
        fields = (str(row.table), MODEL_LABEL[row.model], row.budget, score, *(f"{each.value:+.2f}" for each in gains))
        blocks.setdefault(TRAIN_SETS[row.train_set], []).append(fields)
    headers = (
        "Table",
        "Model",
        "Budget",
        "#Q-Tuning",
        "#random + random",
        "#best of 16",
        "#weakest of 16",
        "#full data",
    )
    title = "Q-Tuning's average minus that of its rivals, in points"
    return _table("margins", title, (*headers, "#zero-shot"), blocks)


def print_audit(page: Page) -> None:
    """Print the page, with verdicts in colour."""
    say = partial(open_console().print, markup=False, highlight=False)
    for text in page.lead:
        say(text)
    for table in page.tables:
        say(f"\n{table.title}", style="bold")
        for block in table.blocks:
            verdict = block.title.partition(":")[0].lower()
            if block.title:
                say(f"\n{block.title}", style=COLOURS.get(verdict, "cyan"))
            drawn = RichTable(
                box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", show_lines=table.name == "claims"
            )
            for index, column in enumerate(table.columns):
                drawn.add_column(column.name, no_wrap=index == 0, justify="left" if column.words else "right")
            for row in block.rows:
                drawn.add_row(*(Text(str(field)) for field in row))
            say(drawn)
        for note in table.notes:
            say(note, style="dim")


def audit_json(findings: Sequence[Finding], published: Published) -> dict[str, Any]:
    """The findings, and every mistake of the printed numbers."""
    deltas, averages = check_deltas(published), check_averages(published)
    return {
        "claims": [asdict(finding) for finding in findings],
        "differences": {
            "checked": len(deltas),
            "wrong": [
                {"row": str(each.row), "benchmark": each.benchmark, "mistake": each.mistake}
                | {"printed": float(each.printed), "exact": float(each.exact)}
                for each in deltas
                if each.mistake != "exact"
            ],
        },
        "averages": {
            "checked": len(averages),
            "wrong": [
                {"row": str(each.row), "printed": float(each.printed), "exact": float(each.exact), "note": each.note}
                for each in averages
                if each.mistake == "size"
            ],
        },
        "copied_rows": [[str(row) for row in rows] for rows in copied_rows(published)],
        "cells_that_differ": [
            {"benchmark": name, "printed": {str(row): float(score) for row, score in cells}}
            for name, cells in repeated_cells(published)
            if len({score for _, score in cells}) > 1
        ],
        "possible_scores": [asdict(each) for each in item_counts(published)],
        "selection_share_of_table6": {each.budget: float(round(each.both, 4)) for each in selection_shares(published)},
    }
