"""The bill on a terminal: what it costs, whether it fits, what dominates, what it can show, how sure it is."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from qtuning.plan.bill import Bill, Hours
from qtuning.plan.check import Check, Ratio
from qtuning.plan.effect import Effect
from qtuning.plan.machines import GIB

WIDTH = 100


def print_bill(
    bill: Bill, effects: Sequence[Effect], check: Check, notes: Sequence[str], console: Console | None = None
) -> None:
    """Print all of it, 100 columns wide."""
    console = console or Console(width=WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    left = bill.cells - bill.done
    say(f"{bill.cells:,} cells, {bill.done:,} done, {left:,} to do, on {bill.machine.label}", "bold")
    console.print()
    console.print(_experiments(bill, console))
    console.print()
    say("\n".join(textwrap.wrap(bill.dominates, WIDTH)), "bold")
    console.print()
    console.print(_models(bill))
    console.print()
    facts = _facts(bill) if left else []
    for label, text in [*facts, *_detectable(effects), *_checked(check)]:
        say(f"{label:<12}{_wrapped(text)}")
    for note in notes:
        say(f"{'assumed':<12}{_wrapped(note)}", "dim")


def _experiments(bill: Bill, console: Console) -> Table:
    """The widest spacing that fits."""
    unlimited = console.options.update(max_width=10_000)
    tables = [_spaced(bill, gap) for gap in (3, 2, 1)]
    return next((t for t in tables if console.measure(t, options=unlimited).maximum <= console.width), tables[-1])


def _spaced(bill: Bill, gap: int) -> Table:
    short = bill.total.total < 2
    unit = "GPU" if bill.machine.device == "cuda" else "CPU"
    unit += "-minutes" if short else "-hours"
    table = _table(gap)
    table.add_column("\nExperiment", no_wrap=True)
    for header in ("\ncells", "\ndone", "\nshared", "to do:\ntrain", "\nevaluate"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in (f"{unit}\nscoring", "\ntraining", "\nevaluation", "\ntotal"):
        table.add_column(header, justify="right", no_wrap=True)
    if bill.price is not None:
        table.add_column("\nUSD", justify="right", no_wrap=True)

    def numbers(hours: Hours) -> list[str]:
        stages = (hours.scoring, hours.training, hours.evaluation, hours.total)
        texts = [amount(60 * value if short else value) for value in stages]
        return texts if bill.price is None else [*texts, amount(hours.total * bill.price)]

    for row in bill.rows:
        counts = (row.cells, row.done, row.shared, row.trainings, row.evaluations)
        table.add_row(row.experiment, *(f"{count:,}" for count in counts), *numbers(row.hours))
    if len(bill.rows) > 1:
        table.add_section()
        jobs = sum(row.trainings for row in bill.rows), sum(row.evaluations for row in bill.rows)
        counts = (bill.cells, bill.done, sum(row.shared for row in bill.rows), *jobs)
        table.add_row("All", *(f"{count:,}" for count in counts), *numbers(bill.total), style="bold")
    return table


def _models(bill: Bill) -> Table:
    table = _table()
    for header in (
        "Model",
        "parameters",
        "train",
        "GiB to train",
        "GiB to evaluate",
        f"of {_gib(bill.machine.usable)}",
    ):
        table.add_column(header, justify="left" if header == "Model" else "right", no_wrap=True)
    for row in bill.models:
        largest = max(row.training_bytes, row.evaluation_bytes)
        verdict = "–" if largest == 0 else "fits" if largest <= bill.machine.usable else "TOO LARGE"
        table.add_row(
            row.model, _count(row.parameters), f"{row.trainings:,}",
            _gib(row.training_bytes), _gib(row.evaluation_bytes), verdict,
            style="bold red" if verdict == "TOO LARGE" else "",
        )  # fmt: skip
    return table


def _facts(bill: Bill) -> list[tuple[str, str]]:
    disk, flops = bill.disk, bill.flops
    hours = bill.wall_hours
    time = (
        f"{60 * hours:,.0f} minutes"
        if hours < 2
        else f"{hours:,.1f} hours"
        if hours < 72
        else f"{hours / 24:,.1f} days"
    )
    devices = "one at a time" if bill.parallel == 1 else f"{bill.parallel} at a time"
    likelihoods = f"{bill.likelihoods:,} likelihoods of choices and " if bill.likelihoods else ""
    lines = [
        ("wall clock", f"{time} with {devices}" + ("" if bill.price is None else f", at {bill.price:g} USD an hour")),
        ("FLOPs", ", ".join(f"{name} {value:.2e}" for name, value in flops.items())),
    ]
    if bill.items:
        generated = f" of {_count(bill.generated[0])} tokens (at most {_count(bill.generated[1])})"
        lines.append(("questions", f"{bill.items:,} items: {likelihoods}{bill.generations:,} generations{generated}"))
    parts = f"models to fetch {_size(disk.base_models)}, weights that stay {_size(disk.kept_weights)}, records "
    parts += f"{_size(disk.records)}, and {_size(disk.passing)} of weights and checkpoints that go again"
    lines.append(("disk", f"{_size(disk.peak)} at most: {parts}"))
    return lines


REFERENCE = {"random+random": "random + random", "full": "full data", "zero-shot": "zero-shot"}


def _detectable(effects: Sequence[Effect]) -> list[tuple[str, str]]:
    """What the tables will be able to mark of each experiment, or why they will mark nothing."""
    lines = []
    for effect in effects:
        text = f"{effect.experiment}: {effect.note}"
        found = ", ".join(f"{_points(found.points)} from {REFERENCE[found.against]}" for found in effect.detects)
        families = ", ".join(f"{found.comparisons}" for found in effect.detects)
        test = f"80% power, 5% level after Holm's correction for {families} comparisons"
        if effect.note:
            text += f"; {found} over items alone ({test}; {effect.items:,} items)" if found else ""
        else:
            spread = f"measured on {effect.measured} group(s) of cells" if effect.measured else "assumed"
            text += f"differences of Avg of {found} ({test}; {effect.seeds} seeds, {effect.items:,} items; seed sd "
            text += f"{effect.seed_sd:.2f} {spread})"
        lines.append(("detects", text))
    return lines


def _points(points: float) -> str:
    """`6.1 points`; scores differ by 100 at most."""
    return f"{points:.1f} points" if points < 100 else "none (over 100 points)"


def _checked(check: Check) -> list[tuple[str, str]]:
    named = [
        ("FLOPs", check.flops),
        ("seconds of training", check.training_seconds),
        ("seconds of evaluation", check.evaluation_seconds),
        ("peak memory", check.memory),
    ]
    lines = [
        (
            "checked",
            f"{what}: predicted / measured {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {_of(ratio)}",
        )
        for what, ratio in named
        if ratio is not None
    ]
    if check.elsewhere:
        lines.append(("checked", f"{check.elsewhere} finished cells ran on a GPU: their seconds are not compared"))
    return lines or [("checked", "no finished cell to compare predictions with yet")]


def _of(ratio: Ratio) -> str:
    return f"{ratio.cells} finished cells" + (f", furthest {ratio.worst}" if ratio.cells > 1 else "")


def _table(gap: int = 2) -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")


def _wrapped(text: str) -> str:
    return ("\n" + 12 * " ").join(textwrap.wrap(text, WIDTH - 12, break_on_hyphens=False, break_long_words=False))


def amount(value: float) -> str:
    """Three digits, thousands apart."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _gib(value: float) -> str:
    return "–" if value == 0 else f"{value / GIB:.1f}"


def _size(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1e3:.0f} kB"


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
