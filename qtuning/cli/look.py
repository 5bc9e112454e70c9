"""Commands that look: what experiments there are and cost, what a train set holds, whether a pruner keeps the rules."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from qtuning.cli.options import CONFIGS, RESULTS, DataDir, Results, Threads, counting, hold_gpus, set_threads
from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.data.contamination import BenchmarkSource

GPUS = ("h100", "a100", "4090", "h200", "l40s", "a6000", "3090", "cpu")
SOURCES = ("hub", "data-dir", "mini-world")


def experiments(
    configs: Annotated[Path, typer.Option(help="folder with experiments/, scales/, models/, train_sets/")] = CONFIGS,
) -> None:
    """List the experiments of configs/experiments: name, cells, scales, title.

    `table1` at scale `mini` is the target `table1-mini`. An experiment that cannot be read is listed with the first
    thing that is wrong with it.
    """
    from rich.console import Console
    from rich.table import Table

    from qtuning.experiment.grid import ConfigFolder

    folder = ConfigFolder(configs)
    table = Table("name", "cells", "scales (cells)", "title", header_style="bold", box=None)
    for name in folder.files.stems("experiments"):
        scales = folder.files.scales_of(name)
        grids, problems = folder.expand_valid([name, *(f"{name}-{scale}" for scale in scales)])
        counts = {grid.experiment.name: len(grid.cells) for grid in grids}
        editions = [f"{scale} ({counts.get(f'{name}-{scale}', 'invalid')})" for scale in scales]
        first = next(iter(problems.values()), "").partition("\n")[0]
        title = next((grid.experiment.title for grid in grids if grid.experiment.name == name), "")
        table.add_row(name, str(counts.get(name, "–")), ", ".join(editions), title or f"invalid: {first}")
        if title and first:
            table.add_row("", "", "", f"invalid: {first}")
    width = 10_000  # one line an experiment; the terminal wraps, and a pipe does not
    Console(width=width, highlight=False, markup=False).print(table)


def plan(
    experiments: Annotated[list[str], typer.Argument(help="names of files in configs/experiments, without .yaml")],
    gpu: Annotated[
        str,
        typer.Option(
            help=f"what it shall run on: {', '.join(GPUS)} (published speeds, until `make gpu-check` has measured them)"
        ),
    ] = GPUS[0],
    devices: Annotated[int, typer.Option(min=1, help="how many of them work at a time, for days and disk")] = 1,
    usd_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="price of an hour of one of them")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON, for machines")] = False,
    configs: Annotated[Path, typer.Option(help="folder with experiments/, models/, planning.yaml")] = CONFIGS,
    results: Annotated[Path, typer.Option(help="folder of everything generated: what is done is not paid")] = RESULTS,
    data_dir: Annotated[Path | None, typer.Option(help="local copies of train sets and benchmarks")] = None,
) -> None:
    """What experiments will cost: cells, GPU-hours by stage, memory, disk, price; and what they will be able to show.

    Nothing is launched or fetched. Exit status 2 where something cannot fit into memory, with the key that helps.
    Predictions are compared with finished cells. docs/plan.md says what is assumed.

    `qtuning plan table1 table2 --gpu h100 --devices 8 --usd-per-gpu-hour 2.5`
    """
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.plan.assumptions import read_assumptions
    from qtuning.plan.bill import bill_of
    from qtuning.plan.check import check_predictions
    from qtuning.plan.effect import effects_of
    from qtuning.plan.fits import list_too_large
    from qtuning.plan.jobs import Jobs
    from qtuning.plan.machines import find_machine
    from qtuning.plan.print import list_assumptions, plan_json, print_plan

    machine = find_machine(gpu, configs)
    grids = ConfigFolder(configs, data_dir).expand(experiments)
    assumptions = read_assumptions(configs)
    jobs = Jobs(grids, ResultPaths(results), assumptions, data_dir, machine)
    bill = bill_of(jobs, machine, devices, usd_per_gpu_hour)
    effects, checked = effects_of(grids, results, assumptions), check_predictions(jobs, results, machine)
    too_large, assumed = list_too_large(jobs, machine), list_assumptions(jobs, machine, assumptions)
    if as_json:
        print(plan_json(bill, effects, checked, assumed, too_large))
    else:
        print_plan(bill, effects, checked, assumed)
    if too_large:
        raise UserError("\n".join(too_large))


def plane(
    model: Annotated[
        str, typer.Argument(help="name in configs/models, a folder with a model, or owner/name on the Hugging Face hub")
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="name in configs/train_sets, or a .json, .jsonl (.gz) or .parquet file of instruction, input, output "
            "columns or of chats (messages)"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="folder to write MODEL-DATA.svg, .pdf, .png, .csv to; default: planes/ of the results"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="score a fixed random draw of so many samples")] = None,
    sample_ratio: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="share of the samples that the triage should keep")
    ] = 0.25,
    template: Annotated[
        str | None, typer.Option(help="plain, alpaca or chat; default: the model's in configs/models, else alpaca")
    ] = None,
    cutoff: Annotated[
        int,
        typer.Option(
            min=2, help="tokens per sample, at most what the model has positions for; a longer response is cut"
        ),
    ] = 2048,
    configs: Annotated[Path, typer.Option(help="folder with models/ and train_sets/")] = CONFIGS,
    results: Annotated[Path, typer.Option(help="folder of everything generated: models made ready")] = RESULTS,
    data_dir: Annotated[Path | None, typer.Option(help="local copies of train sets, instead of the hub")] = None,
    threads: Threads = 1,
) -> None:
    """Score every sample of an SFT file under a model, and draw its Error-Uncertainty plane.

    Prints the shares of the quadrants at a median split and at the thresholds that keep `--sample-ratio`, and how error
    and uncertainty correlate. Nothing is trained.

    `qtuning plane mini mini` or `qtuning plane HuggingFaceTB/SmolLM2-135M my_data.jsonl --limit 500`
    """
    set_threads(threads, tokenise=True)
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.hub.fetch import ensure
    from qtuning.hub.repositories import repository_of_model, repository_of_train_set
    from qtuning.probes.inputs import find_model, find_train_set

    # before torch is imported, which takes seconds: a misspelt name is told at once
    folder = ConfigFolder(configs, data_dir)
    chosen, train_set = find_model(model, template, folder), find_train_set(data, folder)
    folders = ResultPaths(results)
    ensure([repository_of_model(chosen), repository_of_train_set(train_set)], folders)

    from rich.console import Console

    from qtuning.figures.plane import draw_plane
    from qtuning.figures.style import save
    from qtuning.probes.score_file import print_plane, score_file

    hold_gpus(int(chosen.takes_gpus))
    with counting("scoring") as progress:
        found = score_file(
            chosen,
            train_set,
            folders,
            sample_ratio=sample_ratio,
            limit=limit,
            cutoff=cutoff,
            data_dir=data_dir,
            progress=progress,
        )
    lines = found.thresholds
    tails = (lines.ppl_low, lines.ppl_high, lines.ent_low, lines.ent_high)
    drawing = draw_plane(found.samples, tails=tails, kept=f"kept at {100 * sample_ratio:g}%")
    paths = save(drawing, out or results / "planes", f"{chosen.name}-{train_set.name}")
    print_plane(found, sample_ratio, Console())
    for path in paths:
        print(path)


def contamination(
    train_sets: Annotated[list[str], typer.Argument(help="names of files in configs/train_sets, without .yaml")],
    benchmarks: Annotated[str, typer.Option(help="names, separated by commas; default: all")] = "",
    source: Annotated[
        str, typer.Option(help="questions from hub, data-dir or mini-world; default: where the train set comes from")
    ] = "",
    protocol: Annotated[str, typer.Option(help="which items: standard or paper (docs/data.md)")] = "standard",
    ngram: Annotated[int, typer.Option(min=1, help="words in a row that count as overlap; 13, or 8 to see more")] = 13,
    draw: Annotated[int, typer.Option(min=0, help="data seed, of a train set that has several draws")] = 0,
    configs: Annotated[Path, typer.Option(help="folder with train_sets/")] = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Count the benchmark items that share an n-gram with a train set, and write results/contamination/*.json.

    `qtuning contamination gsm8k alpaca --benchmarks gsm8k,squad --data-dir DIR`
    """
    from qtuning.data.contamination import OverlapCheck, print_report, run_check
    from qtuning.experiment.benchmarks import BENCHMARKS, Protocol, averaged
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.experiment.scales import section_folder
    from qtuning.experiment.yaml_files import nearest
    from qtuning.hub.fetch import ensure
    from qtuning.hub.repositories import repositories_of_benchmarks, repository_of_train_set
    from qtuning.manifest import write_sealed

    names = tuple(dict.fromkeys(name.strip() for name in benchmarks.split(","))) if benchmarks else averaged(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--benchmarks = {name!r}: unknown{nearest(name, BENCHMARKS)}")
    if source and source not in SOURCES:
        raise UserError(f"--source = {source!r}: unknown{nearest(source, SOURCES)}")
    if protocol not in get_args(Protocol):
        raise UserError(f"--protocol = {protocol!r}: unknown{nearest(protocol, get_args(Protocol))}")
    section_folder(configs, "train_sets")
    folder = ConfigFolder(configs, data_dir)
    known, checks = folder.names("train_sets"), []
    for name in train_sets:
        if name not in known:
            raise UserError(f"train set = {name!r}: unknown{nearest(name, known)}")
        train_set = folder.train_set(name).drawn(draw)
        origin = "mini-world" if train_set.source.kind == "mini-world" else "hub" if data_dir is None else "data-dir"
        asked = "standard" if "mini-world" in (source, origin) else protocol
        where = cast("BenchmarkSource", source or origin)
        checks.append(OverlapCheck(train_set, where, names, ngram, cast("Protocol", asked), draw))
    paths = ResultPaths(results)
    for check in checks:
        questions = repositories_of_benchmarks(check.source, check.benchmarks)
        ensure([repository_of_train_set(check.train_set), *questions], paths)
        started = time.monotonic()
        report = run_check(check, data_dir=data_dir, hub=paths.hub)
        write_sealed(check.path(results), report)
        print_report(report, time.monotonic() - started, check.path(results))


def check_pruner(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="built-in pruners, entry points, or module:attribute of your own; none: every built-in"),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="sample or token, where a name means both")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, an option of the pruner; repeatable")] = None,
) -> None:
    """Try pruners on random and degenerate batches: budget, determinism, order, rounding, processes, resume.

    Exit status 1 if any of them breaks a rule. docs/pruners.md explains the rules, and how to write a pruner.

    `qtuning check-pruner my_pruners:keep_hard --option share=0.3`
    """
    from qtuning.pruners.check import run_checks

    if not run_checks(names or [], kind, option or []):
        sys.exit(1)
