"""The answer of `qtuning plan`, on a terminal or as JSON: the bill, what the tables will show, and how sure that is."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from qtuning.experiment.cell import VLLM_SEQUENCES
from qtuning.experiment.needs import schedule_of
from qtuning.files import canonical_json
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.bill import Bill
from qtuning.plan.check import PredictionCheck
from qtuning.plan.effect import Detectable, Effect
from qtuning.plan.jobs import Hours, Jobs, TrainingJob
from qtuning.plan.lengths import CHARACTERS
from qtuning.plan.machines import GIB, Machine
from qtuning.plan.work import Q2_SHARE, VLLM_REACHED, token_losers

WIDTH = 100
LABEL_WIDTH = 12
REFERENCE = {"random+random": "random + random", "full": "full data", "zero-shot": "zero-shot"}
Line = tuple[str, str]  # label and text


def plan_json(
    bill: Bill, effects: Sequence[Effect], check: PredictionCheck, assumed: Sequence[str], too_large: Sequence[str]
) -> str:
    """Everything, for machines."""
    found = {"effects": [asdict(effect) for effect in effects], "check": asdict(check), "wall_hours": bill.wall_hours}
    return canonical_json(asdict(bill) | found | {"assumed": assumed, "too_large": too_large})


def print_plan(bill: Bill, effects: Sequence[Effect], check: PredictionCheck, assumed: Sequence[str]) -> None:
    """Print all of it, 100 columns wide."""
    console = Console(width=WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    left = bill.cells - bill.done
    say(f"{bill.cells:,} cells, {bill.done:,} done, {left:,} to do, on {bill.machine.label}\n", "bold")
    console.print(_experiments(bill, console))
    say("\n" + "\n".join(textwrap.wrap(bill.dominates, WIDTH)) + "\n", "bold")
    console.print(_models(bill))
    console.print()
    for label, text in [*(_facts(bill) if left else []), *_detectable(effects), *_checked(check)]:
        say(_labelled(label, text))
    for text in assumed:
        say(_labelled("assumed", text), "dim")


def list_assumptions(jobs: Jobs, machine: Machine, assumptions: Assumptions) -> list[str]:
    """What the bill rests on that was not measured."""
    read = {name: lengths.rows for name, lengths in jobs.train_sets.values() if lengths.basis == "characters"}
    notes = [
        f"{name}: {rows:,} rows of its file, {CHARACTERS:g} characters a token, until it has been prepared"
        for name, rows in sorted(read.items())
    ]
    for name in sorted({name for name, lengths in jobs.train_sets.values() if lengths.basis == "assumed"}):
        guess = assumptions.train_set(name)
        size = f"{guess.rows:,} rows, {guess.prompt_tokens:g} + {guess.response_tokens:g} tokens"
        whose = "" if name in assumptions.train_sets else " (default: no entry of its own)"
        notes.append(f"{name}: {size}, from planning.yaml{whose}, until it has been prepared")
    notes += _decisions([job for name, job in jobs.trainings.items() if name in jobs.open], machine)
    prunings = [job.cell.pruning for job in jobs.trainings.values()]
    if any(pruning is not None and 0 < token_losers(pruning) < 1 for pruning in prunings):
        notes.append(
            f"Q-Tuning: {100 * Q2_SHARE:.0f}% of the samples that it keeps lose tokens (Q2), the others stay whole "
            "(Q4), and it keeps no surplus"
        )
    backends = {job.settings.backend for job in jobs.evaluations.values()}
    if "hf" in backends and machine.device == "cuda":
        notes.append(
            f"HF: a token of a batch waits for {1e3 * machine.layer_seconds:g} ms a layer and for the weights to be "
            "read, a batch for its longest answer; adapters are merged"
        )
    if "vllm" in backends:
        notes.append(
            f"vLLM: {100 * VLLM_REACHED:.0f}% of what reading and arithmetic allow, at {VLLM_SEQUENCES} sequences; "
            f"{machine.vllm_start_seconds:g} s to start, once for all adapters of a model; each answer's likelihood "
            "with its prompt anew; marking on a CPU, not in the hours"
        )
    return [*notes, _speed(machine)]


def _speed(machine: Machine) -> str:
    """What the seconds rest on, and whether it was measured."""
    unit, name = (1e12, "TFLOP/s") if machine.device == "cuda" else (1e9, "GFLOP/s")
    dtypes = ("bfloat16", "float32")
    rates = ", ".join(f"{dtype} {machine.rate(dtype) / unit:.3g} {name}" for dtype in dtypes)
    shares = " and ".join(f"{100 * machine.reached[dtype]:.0f}%" for dtype in dtypes)
    text = f"speed: {'large products at ' if machine.streaming else ''}{rates} ({shares} of the peaks), "
    if machine.streaming:
        moved = machine.streaming * machine.bandwidth / 1e12
        text += f"what moves beside them at {moved:.3g} TB/s ({100 * machine.streaming:.0f}% of the bandwidth), "
    text += f"{1e3 * machine.layer_seconds:.2g} ms a layer"
    return text + (f"; measured: {machine.measured}" if machine.measured else "")


def _decisions(jobs: Sequence[TrainingJob], machine: Machine) -> list[str]:
    """What is decided in how many trainings. The machine that trains decides anew."""
    if not jobs:
        return []
    recomputing = sum(job.settings.gradient_checkpointing for job in jobs)
    reusing = sum(job.cell.pruning is not None and schedule_of(job.cell.pruning) == "reuse-graph" for job in jobs)
    return [
        f"decided for {machine.label} and one process a training, and anew on the machine that trains: "
        f"{recomputing:,} of {len(jobs):,} trainings recompute activations, because they do not fit into the memory; "
        f"{reusing:,} train through the graphs of scoring (reuse-graph), because that fits and takes less time"
    ]


def _experiments(bill: Bill, console: Console) -> Table:
    """The table of experiments, with the widest spacing that fits."""
    in_minutes = bill.total.total < 2
    unit = ("GPU" if bill.machine.device == "cuda" else "CPU") + ("-minutes" if in_minutes else "-hours")
    headers = ["\nExperiment", "\ncells", "\ndone", "\nshared", "to do:\ntrain", "\nevaluate"]
    headers += [f"{unit}\nscoring", "\ntraining", "\nevaluation", "\ntotal"]
    table = _table(headers if bill.price is None else [*headers, "\nUSD"])

    def add(name: str, counts: Iterable[int], hours: Hours, style: str = "") -> None:
        stages = (hours.scoring, hours.training, hours.evaluation, hours.total)
        numbers = [_amount(60 * value if in_minutes else value) for value in stages]
        if bill.price is not None:
            numbers.append(_amount(hours.total * bill.price))
        table.add_row(name, *(f"{count:,}" for count in counts), *numbers, style=style)

    for row in bill.rows:
        add(row.experiment, (row.cells, row.done, row.shared, row.trainings, row.evaluations), row.hours)
    if len(bill.rows) > 1:
        table.add_section()
        sums = (sum(getattr(row, count) for row in bill.rows) for count in ("shared", "trainings", "evaluations"))
        add("All", (bill.cells, bill.done, *sums), bill.total, "bold")
    unlimited = console.options.update(max_width=10_000)
    for gap in (3, 2, 1):
        table.padding = (0, gap, 0, 0)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    return table


def _models(bill: Bill) -> Table:
    room = bill.machine.usable
    table = _table(["Model", "parameters", "train", "GiB to train", "GiB to evaluate", f"of {_gib(room)}"])
    for row in bill.models:
        largest = max(row.training_bytes, row.evaluation_bytes)
        verdict = "–" if largest == 0 else "fits" if largest <= room else "TOO LARGE"
        gib = _gib(row.training_bytes), _gib(row.evaluation_bytes)
        style = "bold red" if verdict == "TOO LARGE" else ""
        table.add_row(row.model, _count(row.parameters), f"{row.trainings:,}", *gib, verdict, style=style)
    return table


def _facts(bill: Bill) -> list[Line]:
    """Time, FLOPs, questions and disk of what is to do."""
    devices = "one at a time" if bill.parallel == 1 else f"{bill.parallel} at a time"
    price = "" if bill.price is None else f", at {bill.price:g} USD an hour"
    lines = [
        ("wall clock", f"{_duration(bill.wall_hours)} with {devices}{price}"),
        ("FLOPs", ", ".join(f"{name} {value:.2e}" for name, value in bill.flops.items())),
    ]
    if references := sum(row.references for row in bill.rows):
        models = "reference model" if references == 1 else "reference models"
        told = f"{references} {models} (or warm-ups of LESS) to train, in the hours but not in the counts above"
        lines.append(("references", told))
    if bill.items:
        likelihoods = f"{bill.likelihoods:,} likelihoods of answers and " if bill.likelihoods else ""
        generated = f" of {_count(bill.generated[0])} tokens (at most {_count(bill.generated[1])})"
        lines.append(("questions", f"{bill.items:,} items: {likelihoods}{bill.generations:,} generations{generated}"))
    disk = bill.disk
    parts = f"models to fetch {_size(disk.base_models)}, weights that stay {_size(disk.kept_weights)}, records "
    parts += f"{_size(disk.records)}, and {_size(disk.passing)} of weights and checkpoints that go again"
    return [*lines, ("disk", f"{_size(disk.peak)} at most: {parts}")]


def _detectable(effects: Sequence[Effect]) -> list[Line]:
    """What the tables will be able to mark of each experiment, or why they will mark nothing."""
    lines = []
    for effect in effects:
        text = f"{effect.experiment}: {effect.note}"
        found = ", ".join(
            f"{_points(each.points)} from {REFERENCE.get(each.against, each.against)}{_family(each)}"
            for each in effect.detects
        )
        test = "80% power, 5% level"
        if effect.note:
            text += f"; {found} over items alone ({test}; {effect.items:,} items)" if found else ""
        else:
            text += f"differences of Avg of {found} ({test}; {effect.seeds} seeds, {effect.items:,} items; seed sd "
            text += f"{effect.seed_sd:.2f}, correlation of answers {effect.correlation:.2f}: {effect.basis})"
        lines.append(("detects", text))
    return lines


def _family(found: Detectable) -> str:
    return f" after Holm's correction for {found.comparisons} comparisons" if found.comparisons > 1 else " by itself"


def _checked(check: PredictionCheck) -> list[Line]:
    """Predictions beside what finished cells took."""
    texts = []
    for what, ratio in (
        ("FLOPs", check.flops),
        ("seconds of training", check.training_seconds),
        ("seconds of evaluation", check.evaluation_seconds),
        ("peak memory", check.memory),
    ):
        if ratio is not None:
            text = f"{what}: predicted / measured {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), "
            furthest = f", furthest {ratio.worst}" if ratio.cells > 1 else ""
            texts.append(f"{text}{ratio.cells} finished cells{furthest}")
    if check.elsewhere:
        texts.append(f"{check.elsewhere} finished cells ran on a GPU: their seconds are not compared")
    return [("checked", text) for text in texts or ["no finished cell to compare predictions with yet"]]


def _table(headers: Sequence[str]) -> Table:
    """A table whose first column is text, and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", no_wrap=True)
    return table


def _labelled(label: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=f"{label:<{LABEL_WIDTH}}", subsequent_indent=" " * LABEL_WIDTH,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _points(points: float) -> str:
    """`6.1 points`; two scores differ by 100 at most."""
    return f"{points:.1f} points" if points < 100 else "none (over 100 points)"


def _duration(hours: float) -> str:
    if hours < 2:
        return f"{60 * hours:,.0f} minutes"
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"


def _amount(value: float) -> str:
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
