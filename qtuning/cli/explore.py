"""`qtuning explore`: samples and tokens on a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtuning.cli.options import CONFIGS, RESULTS, Configs, DataDir, Results, Threads, counting, hold_gpus, set_threads
from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.experiment.schema import Ratios
    from qtuning.explore.build import Explored


def explore(
    what: Annotated[
        str,
        typer.Argument(
            help="an experiment, a finished cell (its folder in results/cells), or with --model a train set: a name in "
            "configs/train_sets, or an SFT file"
        ),
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="methods that are shown; repeatable; default: Q-Tuning's and others")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="budgets that are shown, as 25x50; repeatable; of a train set one")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the trainings; default: the lowest that is done")] = None,
    lines: Annotated[int, typer.Option(min=1, help="most methods and budgets that are shown")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="most samples that are shown, a fixed draw")] = 10_000,
    model: Annotated[
        str | None, typer.Option(help="of a train set: the model that scores it, as `qtuning plane` has it")
    ] = None,
    template: Annotated[str | None, typer.Option(help="with --model: plain, alpaca or chat")] = None,
    cutoff: Annotated[int, typer.Option(min=2, help="with --model: tokens per sample")] = 2048,
    out: Annotated[
        Path | None, typer.Option(help="folder to write NAME.html to; default: explore/ of the results")
    ] = None,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    threads: Threads = 1,
) -> None:
    """Write a page that shows which samples and tokens pruning kept, and what it saw of them; open it in a browser.

    On the plane of perplexity and entropy, over the training; click a sample to read it, token by token, as two
    methods decided. The page needs no network and no other file. docs/explore.md says what is on it.

    `qtuning explore mini`, `qtuning explore mini --method q-tuning --method random+random --budget 25x50`,
    `qtuning explore my_data.jsonl --model HuggingFaceTB/SmolLM2-135M --samples 500`
    """
    set_threads(threads)
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths

    folder, paths, out = ConfigFolder(configs, data_dir), ResultPaths(results), out or results / "explore"
    if model is not None:
        _explore_data(what, model, template, cutoff, method or [], budget or [], samples, out, folder, paths, data_dir)
        return
    from qtuning.explore.find import find_cell, find_cells

    if (results / "cells" / what).is_dir() or Path(what).parent.name == "cells":
        title = Path(what).name
        found = find_cell(title, paths)
    elif (what in folder.names("train_sets") and what not in folder.names("experiments")) or Path(what).is_file():
        raise UserError(f"{what}: is data; add --model, the model that scores it (`--model mini`)")
    else:
        (grid,) = folder.expand([what])
        title = what
        found = find_cells(grid, paths, seed=seed, methods=method or [], budgets=budget or [], most=lines)
    from qtuning.explore.build import explore_trainings

    _tell(explore_trainings(title, found, paths, out / f"{title}.html", most=samples, data_dir=data_dir))


def _explore_data(
    what: str,
    model: str,
    template: str | None,
    cutoff: int,
    methods: list[str],
    budgets: list[str],
    samples: int,
    out: Path,
    folder: "ConfigFolder",
    paths: "ResultPaths",
    data_dir: Path | None,
) -> None:
    from qtuning.hub.fetch import ensure
    from qtuning.hub.repositories import repository_of_model, repository_of_train_set
    from qtuning.probes.inputs import find_model, find_train_set

    chosen, train_set = find_model(model, template, folder), find_train_set(what, folder)
    if len(budgets) > 1:
        raise UserError(f"--budget = {', '.join(budgets)}: a train set is shown at one budget")
    asked = _ratios(budgets[0] if budgets else "25x50")
    ensure([repository_of_model(chosen), repository_of_train_set(train_set)], paths)
    hold_gpus(int(chosen.takes_gpus))
    from qtuning.explore.build import explore_data

    with counting("deciding") as progress:
        page = explore_data(
            chosen,
            train_set,
            paths,
            out / f"{chosen.name}-{train_set.name}.html",
            methods=methods or ["q-tuning", "random+random"],
            budget=asked,
            most=samples,
            cutoff=cutoff,
            data_dir=data_dir,
            progress=progress,
        )
    _tell(page)


def _ratios(text: str) -> "Ratios":
    from pydantic import TypeAdapter, ValidationError

    from qtuning.experiment.schema import BudgetEntry, Ratios

    try:
        found: Ratios = TypeAdapter(BudgetEntry).validate_python(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"--budget = {text!r}: {problem}; write 25x50 (per cent of samples x of tokens)") from None
    return found


def _tell(page: "Explored") -> None:
    shown = f"{page.samples:,} samples" if page.samples == page.of else f"{page.samples:,} of {page.of:,} samples"
    print(f"{shown}, {len(page.lines)} method{'s' * (len(page.lines) > 1)}: {'; '.join(page.lines)}")
    print(f"{page.path} ({page.path.stat().st_size / 1e6:.1f} MB)")
