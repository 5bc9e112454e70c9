"""`qtuning contamination`: do the benchmarks' items stand in the train sets?"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

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
    from qtuning.data.contamination import Check, print_report, run_check
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
    checks = []
    for name in train_sets:
        train_set = read_train_set(configs, name, data_dir)
        chosen = cast("BenchmarkSource", source or _origin(train_set, data_dir))
        checks.append(Check(train_set, chosen, names, ngram))
    for check in checks:
        started = time.monotonic()
        report = run_check(check, data_dir=data_dir, progress=sys.stderr.isatty())
        write_json(check.path(results), report)
        print_report(report, time.monotonic() - started, check.path(results))


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
