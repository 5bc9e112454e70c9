"""Experiments -> the trainings and evaluations they ask for, each once: what a job takes, and whether it is done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qtuning.experiment.cell import Cell, Evaluation, Model, Training
from qtuning.experiment.decide import decided, is_open, ways
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import AUXILIARY, ResultPaths, cell_id, evaluation_id, model_id, pair_id
from qtuning.experiment.influence import Measurement, measurement_of
from qtuning.experiment.needs import schedule_of
from qtuning.experiment.references import references_of, with_references
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.lengths import Lengths, counted, lengths_of
from qtuning.plan.machines import MACHINES, Machine
from qtuning.plan.memory import ALONE, Memory, Place, evaluation_memory, moments_bytes, trained_bytes, training_memory
from qtuning.plan.shapes import Shape, shape_of_model
from qtuning.plan.work import BenchmarkWork, TrainingWork, evaluation_work, measuring_work, trained_shape, training_work
from qtuning.train.launch import Launch

ONE_PROCESS = Launch()


@dataclass(frozen=True)
class Hours:
    """Device-hours by stage. The start of each process is part of training or of evaluation."""

    scoring: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other: "Hours") -> "Hours":
        return Hours(self.scoring + other.scoring, self.training + other.training, self.evaluation + other.evaluation)

    @property
    def total(self) -> float:
        """All stages."""
        return self.scoring + self.training + self.evaluation


@dataclass(frozen=True)
class Job:
    """A training or an evaluation of one cell.

    identity: the cell's name. experiment: the first that asks for it, and pays. done: nothing is left to do.
    """

    cell: Cell
    identity: str
    experiment: str
    done: bool
    shape: Shape

    @property
    def lora(self) -> bool:
        """Whether the cell trains adapters."""
        return self.cell.training is not None and self.cell.training.tuning == "lora"


@dataclass(frozen=True)
class TrainingJob(Job):
    """The training of one cell. auxiliary: shapes of its `reference` and `proxy`, where they are of configs/models.

    measurement: of influence, if the cell is the warm-up of one (LESS). place: where it is trained. cell: without an
    `auto`, once that is decided (decide.py).
    """

    lengths: Lengths
    auxiliary: dict[str, Shape]
    measurement: Measurement | None = None
    place: Place = ALONE

    @cached_property
    def work(self) -> TrainingWork:
        """Of the whole training, and of the measurement that it is the warm-up of."""
        work = training_work(self.cell, self.shape, self.lengths, self.auxiliary)
        if self.measurement is not None:
            work += measuring_work(self.measurement, self.shape, self.lengths)
        return work

    @cached_property
    def memory(self) -> Memory:
        """At its peak."""
        return training_memory(self.cell, self.shape, self.lengths, self.place)

    @property
    def reference(self) -> bool:
        """Whether it is a reference model of other cells, and no row of a table."""
        return self.cell.part is not None

    @property
    def settings(self) -> Training:
        """How the cell is trained."""
        assert self.cell.training is not None
        return self.cell.training

    def changed(self, **settings: Any) -> "TrainingJob":
        """The same job with other keys of `training`."""
        training = self.settings.model_copy(update=settings)
        return replace(self, cell=self.cell.model_copy(update={"training": training}))

    def on(self, machine: Machine, launch: Launch = ONE_PROCESS) -> "TrainingJob":
        """The same job as it is done there, every `auto` decided (decide.py)."""
        sharded = launch.processes > 1 and launch.shards(self.cell)
        dtype = "bfloat16" if self.settings.mixed_precision == "bf16" else self.cell.dtype
        place = Place(launch.processes, sharded, machine.attention(dtype))
        jobs = [
            replace(self, cell=cell, place=place) for cell in ways(self.cell, machine.device, sharded, launch.recompute)
        ]
        if len(jobs) == 1:
            return jobs[0]
        fitting = [job for job in jobs if job.memory.total <= machine.usable]
        if not fitting:
            return min(jobs, key=lambda job: job.memory.total)
        return min(fitting, key=lambda job: job.scoring_seconds(machine) + job.training_seconds(machine))

    def as_trained(self, found: Mapping[str, Any]) -> "TrainingJob":
        """The same job as it was done. found: `decided` of its train.json, empty where nothing was to be decided."""
        if not found:
            return self
        return replace(
            self, cell=decided(self.cell, found["gradient_checkpointing"], found["schedule"] == "reuse-graph")
        )

    @property
    def trained_bytes(self) -> int:
        """Bytes of the weights that are trained."""
        return trained_bytes(self.shape, self.settings, self.cell.dtype)

    def scoring_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forwards without gradient, and of what is decided by them."""
        work = self.work
        decided = work.decisions / self.settings.batch_size if work.scoring_flops else 0.0
        seconds = self._seconds(machine, work.scoring_flops, work.scoring_traffic, work.scoring_passes)
        return seconds + decided * machine.decision_seconds

    def training_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forward, backward and optimizer, and of what accompanies each update."""
        assert self.cell.pruning is not None
        reused = schedule_of(self.cell.pruning) == "reuse-graph"  # the forward was that which scored
        passes = trained_shape(self.shape, self.settings).passes - reused
        # Adam reads weight, gradient and both moments, and writes all but the gradient
        moments = moments_bytes(self.shape, self.settings, self.cell.dtype)
        optimizer = (3 * self.trained_bytes + 2 * moments) / machine.bandwidth
        work = self.work
        seconds = self._seconds(machine, work.training_flops, work.training_traffic, work.training_passes, passes)
        return seconds + work.updates * (optimizer + machine.update_seconds)

    def _seconds(self, machine: Machine, flops: float, traffic: float, batches: float, passes: float = 1.0) -> float:
        dtype = "bfloat16" if self.settings.mixed_precision == "bf16" else self.cell.dtype
        return machine.seconds(flops, batches, self.shape, dtype, traffic=traffic, adapters=self.lora, factor=passes)

    def hours(self, machine: Machine) -> Hours:
        """Device-hours, the start of the process among them."""
        training = self.training_seconds(machine) + machine.start_seconds
        return Hours(scoring=self.scoring_seconds(machine) / 3600, training=training / 3600)


def training_of(cell: Cell, paths: ResultPaths) -> TrainingJob:
    """The training of a cell whose model and train set are ready, without its references."""
    shape, lengths = shape_of_model(cell.model, paths.model(cell)), counted(paths.samples(cell) / "samples.parquet")
    return TrainingJob(cell, cell_id(cell), "", False, shape, lengths, {})


@dataclass(frozen=True)
class EvaluationJob(Job):
    """One evaluation of one cell. work: benchmark by benchmark. starts: whether a process starts for it; under vLLM an
    engine goes on to other cells of its base model."""

    settings: Evaluation
    work: tuple[BenchmarkWork, ...]
    starts: bool = True

    @cached_property
    def memory(self) -> Memory:
        """At its peak."""
        return evaluation_memory(self.cell, self.settings, self.shape, self.work)

    def changed(self, **settings: Any) -> "EvaluationJob":
        """The same job with other keys of `evaluation`."""
        evaluation = self.settings.model_copy(update=settings)
        work = tuple(replace(asked, batch_size=evaluation.batch_size) for asked in self.work)
        return replace(self, settings=evaluation, work=work)

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Wall-clock seconds by benchmark, under vLLM those that it holds a GPU."""
        dtype = self.settings.dtype
        if self.settings.backend == "vllm":
            return {asked.benchmark: asked.vllm_seconds(self.shape, machine, dtype) for asked in self.work}
        adapters = self.lora and machine.device == "cpu"  # on a GPU they are merged into the weights
        return {asked.benchmark: asked.seconds(self.shape, machine, dtype, adapters) for asked in self.work}

    def start_seconds(self, machine: Machine) -> float:
        """Until it can begin."""
        if not self.starts:
            return 0.0
        return machine.vllm_start_seconds if self.settings.backend == "vllm" else machine.start_seconds

    def hours(self, machine: Machine) -> Hours:
        """Device-hours, the start of the process among them."""
        return Hours(evaluation=(sum(self.seconds(machine).values()) + self.start_seconds(machine)) / 3600)


class Jobs:
    """All jobs of some experiments, each once, in order; and the cells of each experiment.

    trainings: by cell, references that the workflow trains among them. evaluations: by cell and evaluation. cells: of
    each experiment. shared: how many of them an earlier experiment has. finished: how many of them have nothing left to
    do. kept: cells whose weights stay after evaluation. models: by folder, with whether it is at hand. train_sets: name
    and lengths, by folder. open: trainings in which something was to be decided (decide.py).

    machine, launch: what each cell is trained on, models that the package ships on a CPU. Raises UserError where a size
    is neither known nor assumed.
    """

    def __init__(
        self,
        grids: Iterable[Grid],
        paths: ResultPaths,
        assumptions: Assumptions,
        data_dir: Path | None = None,
        machine: Machine = MACHINES["h100"],
        launch: Launch = ONE_PROCESS,
    ) -> None:
        self._machine, self._launch = machine, launch
        self.open: set[str] = set()
        self._alike: dict[tuple[str, str], TrainingJob] = {}  # what differs by seeds alone is decided once
        self.trainings: dict[str, TrainingJob] = {}
        self.evaluations: dict[tuple[str, str], EvaluationJob] = {}
        self.cells: dict[str, tuple[str, ...]] = {}
        self.shared: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.kept: set[str] = set()
        self.models: dict[str, tuple[Model, Shape, bool]] = {}
        self.train_sets: dict[str, tuple[str, Lengths]] = {}
        self._engines: set[tuple[str, str]] = set()  # evaluation, and whose weights it starts with
        self._paths, self._assumptions, self._data_dir = paths, assumptions, data_dir
        for grid in grids:
            name, cells = grid.experiment.name, tuple(cell_id(cell) for cell in grid.cells)
            earlier = {identity for others in self.cells.values() for identity in others}
            self.cells[name], self.shared[name] = cells, sum(identity in earlier for identity in cells)
            self.finished[name] = sum([self._add(grid, *pair) for pair in zip(grid.cells, cells, strict=True)])

    def _add(self, grid: Grid, cell: Cell, identity: str) -> bool:
        """Add the jobs of a cell, and say whether nothing is left to do of them."""
        experiment, folder = grid.experiment.name, self._paths.root / "cells" / identity
        shape = self._shape(cell.model, self._paths.model(cell))
        evaluated = trained = True
        if grid.evaluation is not None:
            name = evaluation_id(grid.evaluation)
            evaluated = (folder / name / "scores.json").is_file()
            work = evaluation_work(grid.evaluation, self._assumptions)
            own = cell.training is not None and cell.training.tuning == "full"
            engine = name, identity if own or grid.evaluation.backend == "hf" else model_id(cell.model)
            starts = engine not in self._engines
            if not evaluated:
                self._engines.add(engine)
            job = EvaluationJob(cell, identity, experiment, evaluated, shape, grid.evaluation, work, starts)
            self.evaluations.setdefault((identity, name), job)
        if cell.training is not None:
            # full weights go after evaluation, so another evaluation of the same cell trains it again
            trained = (folder / "train.json").is_file() and (evaluated or (folder / "weights").is_dir())
            self._add_training(grid, cell, shape, trained)
            for reference in with_references(references_of(cell)):
                # its weights are wanted until all who need them are trained; of what is replayed, only the trace
                replayed = cell.pruning is not None and cell.pruning.replay is not None
                left = self._paths.cell(reference) / ("train.json" if replayed else "weights")
                self._add_training(grid, reference, shape, trained or left.exists())
            if (measured := measurement_of(cell)) is not None:
                done = trained or (self._paths.influence(measured.identity) / "influence.json").is_file()
                self._add_training(grid, measured.warmup, shape, done, measured)
        return evaluated and trained

    def _add_training(
        self, grid: Grid, cell: Cell, shape: Shape, trained: bool, measurement: Measurement | None = None
    ) -> None:
        assert cell.training is not None
        identity = cell_id(cell)
        if cell.training.tuning == "lora" or grid.experiment.keep_weights:
            self.kept.add(identity)
        earlier = self.trainings.get(identity)
        if earlier is None or (earlier.done and not trained):
            pays = grid.experiment.name if earlier is None else earlier.experiment
            others = {
                role: self._shape(getattr(cell.pruning, role), ready)
                for role in AUXILIARY
                if (ready := self._paths.auxiliary(cell, role)) is not None
            }
            lengths = self._lengths(cell)
            job = TrainingJob(cell, identity, pays, trained, shape, lengths, others, measurement)
            self.trainings[identity] = self._decided(job)

    def _decided(self, job: TrainingJob) -> TrainingJob:
        machine = self._machine if job.cell.model.takes_gpus else MACHINES["cpu"]
        if not is_open(job.cell, machine.device):
            return job.on(machine, self._launch)
        self.open.add(job.identity)
        alike = job.cell.model_dump_json(exclude={"seeds"}), pair_id(job.cell)
        if alike not in self._alike:
            self._alike[alike] = job.on(machine, self._launch)
        known = self._alike[alike]
        return replace(job, cell=known.cell.model_copy(update={"seeds": job.cell.seeds}), place=known.place)

    def _shape(self, model: Model, ready: Path) -> Shape:
        if ready.name not in self.models:
            self.models[ready.name] = model, shape_of_model(model, ready), (ready / "model.json").is_file()
        return self.models[ready.name][1]

    def _lengths(self, cell: Cell) -> Lengths:
        assert cell.train_set is not None
        pair = pair_id(cell)
        if pair not in self.train_sets:
            lengths = lengths_of(cell, self._paths.samples(cell), self._assumptions, self._data_dir)
            self.train_sets[pair] = cell.train_set.name, lengths
        return self.train_sets[pair][1]
