"""Commands that make results: the stages of the workflow, each for one cell, and the store that they end in."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtuning.cli.options import (
    CONFIGS,
    RESULTS,
    CellFile,
    Configs,
    DataDir,
    EvaluationFile,
    Experiments,
    Groups,
    Results,
    Threads,
    TrackingOption,
    check_tracking,
    hold_gpus,
    read_cell,
    read_evaluation,
    read_measurement,
    set_threads,
)
from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.experiment.cell import Cell
    from qtuning.experiment.ids import ResultPaths
    from qtuning.train.launch import Launch

VLLM_PYTHON = Path(".venv-vllm/bin/python")
"""What `make vllm-env` makes."""


def cells(
    experiments: Experiments,
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    write: Annotated[bool, typer.Option("--write", help="also write their configurations")] = False,
) -> None:
    """List the cells of experiments; equal cells of different experiments are listed once."""
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.files import write_text
    from qtuning.workflow.inputs import WorkflowInputs

    inputs = WorkflowInputs(ConfigFolder(configs, data_dir).expand(experiments), ResultPaths(results), data_dir)
    for identity in inputs.rows:
        print(identity)
    if write:
        for identity in [*inputs.cells, *inputs.evaluations, *inputs.measurements]:
            write_text(inputs.paths.configuration(identity), inputs.configuration(identity) + "\n")


def prefetch(
    wanted: Annotated[
        list[str],
        typer.Argument(help="experiments, or single repositories, as results/hub calls them (hub-model-...)"),
    ],
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
) -> None:
    """Fetch the models, train sets and benchmarks of experiments from the hub, on a machine with network.

    All are looked at before the first is fetched: gated ones, misspelt ones and a full disk are told at once. Files go
    to the cache of huggingface_hub (HF_HOME); results/hub has the commit that each revision meant. Jobs then need no
    network.

    `qtuning prefetch table1 table2`
    """
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.experiment.yaml_files import nearest
    from qtuning.hub.fetch import prefetch as fetch
    from qtuning.hub.repositories import repositories_of

    folder = ConfigFolder(configs, data_dir)
    single = [name for name in wanted if name.startswith("hub-")]
    repositories = repositories_of(folder.expand(name for name in wanted if name not in single))
    if single:
        every = repositories_of(folder.expand_valid(folder.names("experiments"))[0])
        known = {each.identity: each for each in every}
        for name in single:
            if name not in known:
                raise UserError(f"repository = {name!r}: unknown{nearest(name, known)}")
        repositories += [known[name] for name in single]
    if not repositories:
        print(f"{', '.join(wanted)}: nothing is on the hub")
    fetch(repositories, ResultPaths(results))


def base_model(
    cell: CellFile,
    results: Results = RESULTS,
    cutoff: Annotated[int | None, typer.Option(help="longest sample that it is trained on, in tokens")] = None,
    max_length: Annotated[int | None, typer.Option(help="longest sequence of its evaluations, in tokens")] = None,
    template: Annotated[list[str] | None, typer.Option(help="template of its train sets; repeatable")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="its evaluations use its chat template")] = False,
) -> None:
    """Make a cell's base model ready: convert it, or find it in the package or among what was fetched.

    The options say what it must be able to take; what does not fit is told here, before anything is trained.
    """
    from qtuning.data.limits import Wanted, check_limits
    from qtuning.experiment.ids import ResultPaths
    from qtuning.locks import exclusive
    from qtuning.model.load import make_ready, model_path

    loaded, paths = read_cell(cell), ResultPaths(results)
    with exclusive(paths.lock(cell.stem), f"base model {loaded.model.name}"):
        make_ready(loaded.model, paths.model(loaded), paths.hub)
    if cutoff or max_length or template or chat:
        wanted = Wanted(cutoff, max_length, tuple(template or ()), chat)  # type: ignore[arg-type]  # names of templates
        check_limits(model_path(paths.model(loaded)), wanted)


def prepare(cell: CellFile, results: Results = RESULTS, data_dir: DataDir = None, threads: Threads = 1) -> None:
    """Validate and tokenise a cell's train set; bad rows are counted by reason and listed with file and line."""
    set_threads(threads, tokenise=True)
    from rich.console import Console

    from qtuning.data.prepare import prepare as run
    from qtuning.data.prepare import print_summary
    from qtuning.experiment.ids import ResultPaths
    from qtuning.locks import exclusive
    from qtuning.model.load import model_path

    loaded, paths = read_cell(cell, trained=True), ResultPaths(results)
    folder = paths.samples(loaded)
    with exclusive(paths.lock(cell.stem), f"preparing {folder.name}"):
        report = run(loaded, model_path(paths.model(loaded)), folder, data_dir=data_dir, hub=paths.hub)
        print_summary(report, Console())


def train(
    cell: CellFile,
    results: Results = RESULTS,
    processes: Annotated[int, typer.Option(help="processes that train the cell together, one a GPU")] = 1,
    nodes: Annotated[int, typer.Option(help="machines that they run on; this command runs on each")] = 1,
    parallel: Annotated[
        str,
        typer.Option(
            help="ddp: each process has the whole model; fsdp: a slice of it; auto: fsdp for full fine-tuning of more "
            "than 2 billion parameters"
        ),
    ] = "auto",
    recompute: Annotated[
        str, typer.Option(help="activations, in the backward pass: always, never; auto: where memory is short")
    ] = "auto",
    accelerate: Annotated[str | None, typer.Option(hidden=True)] = None,
    tracking: TrackingOption = "auto",
    group: Groups = None,
    configs: Configs = CONFIGS,
    checkpoint_seconds: Annotated[float, typer.Option(help="seconds between checkpoints")] = 60.0,
    observe: Annotated[
        bool, typer.Option("--observe", help="watch 100 training samples, and record which tokens are pruned")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="write measured.json (time and memory) and nothing else; run nothing beside it"),
    ] = False,
    threads: Threads = 1,
) -> None:
    """Train one cell, on one GPU or several. Kill it and type it again: it goes on where it was."""
    from qtuning.experiment.ids import AUXILIARY, ResultPaths
    from qtuning.experiment.influence import measurement_of
    from qtuning.experiment.references import references_of
    from qtuning.train.launch import Launch

    loaded, paths = read_cell(cell, trained=True), ResultPaths(results)
    check_tracking(tracking)
    if accelerate is not None:
        raise UserError(f"--accelerate = {accelerate}: no such option any more; write --processes N")
    how = Launch(processes, nodes, parallel, recompute)  # type: ignore[arg-type]  # checked there
    assert loaded.training is not None
    loaded.training.accumulation(processes)  # refused here, not in every process
    options = ["--cell", str(cell), "--model", str(paths.model(loaded)), "--samples", str(paths.samples(loaded))]
    state = paths.state(loaded).with_name(f"{cell.stem}-measured") if measure else paths.state(loaded)
    options += ["--out", str(paths.cell(loaded)), "--state", str(state), "--tracking", tracking]
    options += ["--checkpoint-seconds", str(checkpoint_seconds)]
    options += ["--observe"] * observe + ["--measure"] * measure + ["--shard"] * how.shards(loaded)
    for role in AUXILIARY:
        if (folder := paths.auxiliary(loaded, role)) is not None:
            options += [f"--{role}", str(folder)]
    for reference in references_of(loaded):
        options += ["--trained-reference", str(paths.cell(reference))]
    if (measurement := measurement_of(loaded)) is not None:
        options += ["--influence", str(paths.influence(measurement.identity))]
    for name in group or []:
        options += ["--group", name]
    if group and tracking != "disabled":
        from qtuning.dashboard.variants import in_group

        options += ["--variant", in_group(loaded, group, configs, None)[0]]
    set_threads(threads)
    hold_gpus(how.here if loaded.model.takes_gpus else 0, "processes on this machine")
    options += _decisions(loaded, paths, how, state)
    if how.processes > 1:
        command = how.command(options)
        os.execv(command[0], command)  # the launcher takes the place of this process, and with it the GPUs it holds
    from qtuning.train.__main__ import main

    main(options)


def _decisions(cell: "Cell", paths: "ResultPaths", launch: "Launch", state: Path) -> list[str]:
    """Options that say how the cell is trained on the GPUs that this job holds, or on the CPU."""
    from qtuning.experiment.decide import is_open
    from qtuning.train.launch import TOO_LARGE

    if (state / TOO_LARGE).is_file() and launch.recompute != "never":
        return ["--recompute"]  # and no graphs, since the memory was too small
    if not is_open(cell, "cuda"):
        return ["--recompute"] * (launch.recompute == "always")
    from qtuning.experiment.needs import schedule_of
    from qtuning.gpus.torch_sees import smallest_gpu
    from qtuning.plan.jobs import training_of
    from qtuning.plan.machines import MACHINES, machine_of_gpu

    gpu = smallest_gpu()
    machine = MACHINES["cpu"] if gpu is None else machine_of_gpu(*gpu)
    job = training_of(cell, paths).on(machine, launch)
    assert job.cell.pruning is not None
    reuse = schedule_of(job.cell.pruning) == "reuse-graph"
    return ["--recompute"] * job.settings.gradient_checkpointing + ["--reuse"] * reuse


def evaluate(
    cell: CellFile,
    evaluation: EvaluationFile,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    tracking: TrackingOption = "auto",
    group: Groups = None,
    configs: Configs = CONFIGS,
    threads: Threads = 1,
) -> None:
    """Evaluate one cell on its benchmarks with lm-eval, in one process. After `ask` it marks the answers, on a CPU."""
    check_tracking(tracking)
    set_threads(threads)
    loaded, asked = read_cell(cell), read_evaluation(evaluation)
    hold_gpus(int(loaded.model.takes_gpus and asked.backend == "hf"))
    from qtuning.evaluation.run import evaluate_cell
    from qtuning.experiment.ids import ResultPaths
    from qtuning.locks import exclusive
    from qtuning.train.wanted import has_used

    paths = ResultPaths(results)
    with exclusive(paths.lock(f"{cell.stem}-{evaluation.stem}"), f"evaluating {cell.stem}"):
        evaluate_cell(loaded, asked, paths, data_dir=data_dir)
    has_used(results, cell.stem, paths.evaluation(loaded, asked) / "scores.json")
    if tracking != "disabled":
        from qtuning.dashboard.cells import Tracking, mirror_cell
        from qtuning.dashboard.variants import in_group

        variant, owner = in_group(loaded, group or (), configs, data_dir)
        mirror_cell(loaded, paths, Tracking(tracking, group or (), variant, owner or evaluation.stem))


def ask(
    cell: CellFile,
    evaluation: EvaluationFile,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    vllm: Annotated[Path | None, typer.Option(help="Python of the environment that has vLLM")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="experiment whose cells the same engine answers for, too; repeatable")
    ] = None,
    configs: Configs = CONFIGS,
    threads: Threads = 1,
) -> None:
    """Let vLLM answer the questions of an evaluation (backend: vllm); `evaluate` then marks the answers on a CPU.

    `qtuning ask results/configurations/CELL.json results/configurations/evaluation-ID.json`
    """
    set_threads(threads)
    from qtuning.evaluation.ask import ask_cell
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths, evaluation_id
    from qtuning.locks import exclusive

    paths, loaded, asked = ResultPaths(results), read_cell(cell), read_evaluation(evaluation)
    if asked.backend != "vllm":
        raise UserError(f"{evaluation}: backend = {asked.backend!r}: only vllm is asked; `qtuning evaluate` does all")
    grids = ConfigFolder(configs, data_dir).expand(group or [])
    wanted = (grid for grid in grids if grid.evaluation and evaluation_id(grid.evaluation) == evaluation.stem)
    python = vllm or next((path for path in (VLLM_PYTHON,) if path.is_file()), Path(sys.executable))
    with exclusive(paths.lock(f"{cell.stem}-{evaluation.stem}"), f"asking {cell.stem}"):
        ask_cell(
            loaded, asked, paths, data_dir=data_dir, python=python,
            hold_gpu=lambda: hold_gpus(int(loaded.model.takes_gpus)),
            beside=[other for grid in wanted for other in grid.cells],
        )  # fmt: skip


def influence(
    measurement: Annotated[
        Path, typer.Argument(help="configuration of a measurement, results/configurations/*-influence-*.json")
    ],
    results: Results = RESULTS,
    data_dir: DataDir = None,
    threads: Threads = 1,
) -> None:
    """Measure the influence of a train set's samples on target examples, for LESS (docs/pruners.md).

    Writes results/influence/ID. Its warm-up must be trained. Killed, it starts anew.

    `qtuning influence results/configurations/ID.json`
    """
    set_threads(threads)
    asked = read_measurement(measurement)
    hold_gpus(int(asked.warmup.model.takes_gpus))
    from qtuning.experiment.ids import ResultPaths
    from qtuning.files import remove_leftovers
    from qtuning.locks import exclusive
    from qtuning.train.influence import measure_influence

    paths = ResultPaths(results)
    with exclusive(paths.lock(measurement.stem), f"measuring {measurement.stem}"):
        remove_leftovers(paths.influence(asked.identity))
        print(measure_influence(asked, paths, data_dir))


def localise(
    cell: Annotated[Path, typer.Argument(help="configuration of a trained cell, results/configurations/CELL.json")],
    results: Results = RESULTS,
    threads: Threads = 1,
) -> None:
    """Compare what a cell's scores and pruning find with the planted errors of its train set.

    Writes localisation.json into the cell's folder: AUC of token perplexity and of the smoothed score, precision and
    recall of the pruned tokens, for the base model and for the trained one (docs/experiments.md).

    `qtuning localise results/configurations/CELL.json`
    """
    set_threads(threads)
    loaded = read_cell(cell)
    hold_gpus(int(loaded.model.takes_gpus))
    from qtuning.experiment.ids import ResultPaths
    from qtuning.locks import exclusive
    from qtuning.probes.planted_errors import find_planted_errors
    from qtuning.train.wanted import has_used

    paths = ResultPaths(results)
    with exclusive(paths.lock(f"{cell.stem}-localisation"), f"localising errors of {cell.stem}"):
        print(found := find_planted_errors(loaded, paths))
    has_used(results, cell.stem, found)


def token_kinds(cell: CellFile, results: Results = RESULTS, data_dir: DataDir = None) -> None:
    """Count what kinds of tokens a cell's training pruned and kept: token_kinds.json in its folder.

    The cell must have been trained with `--observe`; docs/experiments.md has the kinds.

    `qtuning token-kinds results/configurations/CELL.json`
    """
    from qtuning.experiment.ids import ResultPaths
    from qtuning.locks import exclusive
    from qtuning.probes.token_kinds import count_token_kinds

    loaded, paths = read_cell(cell, trained=True), ResultPaths(results)
    with exclusive(paths.lock(f"{cell.stem}-token-kinds"), f"counting kinds of tokens of {cell.stem}"):
        print(count_token_kinds(loaded, paths, data_dir))


def collect(
    experiments: Experiments, configs: Configs = CONFIGS, results: Results = RESULTS, data_dir: DataDir = None
) -> None:
    """Collect the cells of experiments into the score store, results/*.parquet, which everything is drawn from."""
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.store.store import write_store

    write_store(ConfigFolder(configs, data_dir).expand(experiments), results)
