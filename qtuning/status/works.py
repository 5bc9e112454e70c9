"""What an experiment consists of: each job with its result, its lock and its log, in the order of the workflow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import AUXILIARY, ResultPaths, cell_id, evaluation_id, pair_id
from qtuning.experiment.influence import measurement_of
from qtuning.experiment.references import references_of, with_references
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.jobs import EvaluationJob, Jobs, TrainingJob
from qtuning.plan.machines import MACHINES, Machine
from qtuning.train.launch import Launch

ORDER = ("base model", "prepare", "train", "influence", "measure", "evaluate", "localise", "token_kinds")


@dataclass(frozen=True, eq=False)
class Work:
    """A job. kind: what it does, as in `train CELL`. name: of what it makes. cell: whose, if it is of one cell.

    marker: what it writes last. halfway: what is there while it waits for its second log. failure: where a training
    says why it failed. job: as planned, if the plan knows it. seconds: planned. done: it was done when the list was
    made.
    """

    kind: str
    name: str
    marker: Path
    lock: Path
    logs: tuple[Path, ...]
    cell: str | None = None
    failure: Path | None = None
    halfway: Path | None = None
    job: TrainingJob | EvaluationJob | None = None
    seconds: float = 0.0
    done: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.cell or self.name}"

    @property
    def again(self) -> bool:
        """Whether it is to be done although its marker is there: full weights are gone that somebody wants anew."""
        return self.kind == "train" and not self.done


def works_of(
    grids: Sequence[Grid],
    paths: ResultPaths,
    assumptions: Assumptions,
    data_dir: Path | None,
    machine: Machine,
    launch: Launch,
) -> list[Work]:
    """All jobs of some experiments, each once. machine, launch: what the plan is for."""
    try:
        jobs = Jobs(grids, paths, assumptions, data_dir, machine, launch)
    except UserError:  # a size is not known yet: the time left is not known either, and all else is
        jobs = None
    found: dict[tuple[str, str], Work] = {}
    for grid in grids:
        for cell in grid.cells:
            for work in _of_cell(grid, cell, paths, jobs, machine):
                found.setdefault((work.kind, work.name), work)
    return sorted(found.values(), key=lambda work: ORDER.index(work.kind))


def _of_cell(grid: Grid, cell: Cell, paths: ResultPaths, jobs: Jobs | None, machine: Machine) -> Iterator[Work]:
    root, identity, asked = paths.root, cell_id(cell), grid.experiment
    for folder in (paths.model(cell), *(paths.auxiliary(cell, role) for role in AUXILIARY)):
        if folder is not None:
            yield _shared("base model", folder.name, folder / "model.json", "base_model", paths)
    if cell.training is not None:
        pair = pair_id(cell)
        yield _shared("prepare", pair, paths.samples(cell) / "report.json", "prepare", paths)
        trained = [] if grid.measures_only else [cell, *with_references(references_of(cell))]
        if (measurement := measurement_of(cell)) is not None:
            trained.append(measurement.warmup)
            name = measurement.identity
            yield _shared("influence", name, paths.influence(name) / "influence.json", "influence", paths)
        for each in trained:
            yield _training(each, identity if each is cell else None, paths, jobs, machine)
        if asked.measure:
            yield _training(cell, identity, paths, jobs, machine, measure=True)
        for rule, made, wanted in (
            ("localise", "localisation", asked.localisation),
            ("token_kinds", "token_kinds", asked.observe),
        ):
            if wanted:
                marker, lock = paths.cell(cell) / f"{made}.json", paths.lock(f"{identity}-{made.replace('_', '-')}")
                yield Work(rule, identity, marker, lock, (root / f"logs/{rule}/{identity}.log",), identity)
    if grid.evaluation is not None:
        name = evaluation_id(grid.evaluation)
        stages = ("evaluate",) if grid.evaluation.backend == "hf" else ("ask", "mark")
        job = None if jobs is None else jobs.evaluations.get((identity, name))
        yield Work(
            "evaluate",
            f"{identity}/{name}",
            paths.evaluation(cell, grid.evaluation) / "scores.json",
            paths.lock(f"{identity}-{name}"),
            tuple(root / f"logs/{stage}/{identity}/{name}.log" for stage in stages),
            identity,
            halfway=paths.asked(cell, grid.evaluation),
            job=job,
            seconds=_seconds(job, machine),
            done=job is not None and job.done,
        )


def _training(
    cell: Cell, owner: str | None, paths: ResultPaths, jobs: Jobs | None, machine: Machine, measure: bool = False
) -> Work:
    """The training of a cell, or its repetition for time and memory. owner: the cell that it counts for, if any."""
    identity, kind = cell_id(cell), "measure" if measure else "train"
    job = None if jobs is None else jobs.trainings.get(identity)
    marker = paths.cell(cell) / ("measured.json" if measure else "train.json")
    state = paths.state(cell).with_name(f"{identity}-measured") if measure else paths.state(cell)
    done = marker.is_file() if job is None or measure else job.done
    return Work(
        kind,
        identity,
        marker,
        state.with_name(f"{state.name}.lock"),
        (paths.root / f"logs/{kind}/{identity}.log",),
        owner,
        paths.cell(cell) / "failed.json",
        job=job,
        seconds=_seconds(job, machine),
        done=done,
    )


def _shared(kind: str, name: str, marker: Path, rule: str, paths: ResultPaths) -> Work:
    """What several cells share, made ready before them."""
    return Work(kind, name, marker, paths.lock(name), (paths.root / f"logs/{rule}/{name}.log",))


def _seconds(job: TrainingJob | EvaluationJob | None, machine: Machine) -> float:
    if job is None:
        return 0.0
    return 3600 * job.hours(machine if job.cell.model.takes_gpus else MACHINES["cpu"]).total
