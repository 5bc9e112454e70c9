"""`qtuning contamination`: do the benchmarks' items stand in the train sets?"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from qtuning.data.contamination import BenchmarkSource
    from qtuning.experiment.schema import TrainSet

SOURCES = ("hub", "data-dir", "mini-world")


def contamination(
    train_sets: Annotated[list[str], typer.Argument(help="names of files in configs/train_sets, without .yaml")],
    benchmarks: Annotated[str, typer.Option(help="names, separated by commas; default: all")] = "",
    source: Annotated[
        str, typer.Option(help="questions from hub, data-dir or mini-world; default: where the train set comes from")
    ] = "",
    ngram: Annotated[int, typer.Option(min=1, help="words in a row that count as overlap; 13, or 8 to see more")] = 13,
    configs: Annotated[Path, typer.Option(help="folder with train_sets/")] = Path("configs"),
    results: Annotated[Path, typer.Option(help="folder of everything generated")] = Path("results"),
    data_dir: Annotated[
        Path | None, typer.Option(help="local copies of train sets and benchmarks, instead of the hub")
    ] = None,
) -> None:
    """Count the benchmark items that share an n-gram with a train set, and write results/contamination/*.json.

    `qtuning contamination gsm8k alpaca --benchmarks gsm8k,squad --data-dir DIR`
    """
    from qtuning.data.contamination import Check, check
    from qtuning.errors import UserError
    from qtuning.experiment.benchmarks import BENCHMARKS
    from qtuning.experiment.yaml_files import nearest
    from qtuning.files import write_json

    names = tuple(dict.fromkeys(name.strip() for name in benchmarks.split(","))) if benchmarks else tuple(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--benchmarks = {name!r}: unknown{nearest(name, BENCHMARKS)}")
    if source and source not in SOURCES:
        raise UserError(f"--source = {source!r}: unknown{nearest(source, SOURCES)}")
    jobs = []
    for name in train_sets:
        train_set = read_train_set(configs, name, data_dir)
        chosen = cast("BenchmarkSource", source or _origin(train_set, data_dir))
        jobs.append(Check(train_set, chosen, names, ngram))
    for job in jobs:
        started = time.monotonic()
        report = check(job, data_dir=data_dir, progress=sys.stderr.isatty())
        write_json(job.path(results), report)
        print_report(report, time.monotonic() - started, job.path(results))


def read_train_set(configs: Path, name: str, data_dir: Path | None) -> "TrainSet":
    """configs/train_sets/NAME.yaml; with a data_dir its local copy replaces the hub, as in experiments."""
    from qtuning.errors import UserError
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.scales import section_folder
    from qtuning.experiment.yaml_files import nearest

    section_folder(configs, "train_sets")
    folder = ConfigFolder(configs, data_dir)
    if name not in (known := folder.names("train_sets")):
        raise UserError(f"train set = {name!r}: unknown{nearest(name, known)}")
    return folder.train_set(name)


def _origin(train_set: "TrainSet", data_dir: Path | None) -> str:
    if train_set.source.kind == "mini-world":
        return "mini-world"
    return "hub" if data_dir is None else "data-dir"


def print_report(report: dict[str, Any], seconds: float, path: Path) -> None:
    """The counts of one train set, an example of each benchmark, and where the report is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qtuning.experiment.benchmarks import BENCHMARKS

    console = Console() if sys.stdout.isatty() else Console(width=160)
    title = f"{report['label']}: {report['read']:,} rows, {report['ngram']}-grams, {seconds:.1f} s"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Benchmark")
    for header in ("Items", "Contaminated", "Share", "Half in one sample", "Coverage", "Short", "Short, found"):
        table.add_column(header, justify="right")
    table.add_column("Overlap in")
    for name, result in report["benchmarks"].items():
        coverage = result["coverage_of_contaminated"]
        table.add_row(
            BENCHMARKS[name].label,
            f"{result['items']:,}",
            f"{result['contaminated']:,}",
            f"{100 * result['share']:.2f}%",
            f"{result['copied']:,}",
            "" if coverage is None else f"{100 * coverage:.0f}%",
            f"{result['short']:,}",
            f"{result['short_found']:,}",
            ", ".join(f"{part} {count:,}" for part, count in result["by_part"].items() if count),
        )
    console.print(table)
    for name, result in report["benchmarks"].items():
        if (example := result["example"]) is not None:
            text = f"{BENCHMARKS[name].label} item {example['item']} ({example['part']}), line {example['line']}: "
            console.print(Text(text, style="bold").append(example["shared"], style="not bold"))
    console.print(f"{path}\n", markup=False, highlight=False, style="dim")
