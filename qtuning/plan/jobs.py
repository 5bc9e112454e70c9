"""Experiments -> the trainings and evaluations they ask for, each once: what a job takes, and whether it is done."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qtuning.experiment.grid import Grid
from qtuning.experiment.names import AUXILIARY, ResultPaths, cell_id, evaluation_id, pair_id
from qtuning.experiment.needs import schedule_of
from qtuning.experiment.schema import Cell, Evaluation, Model, Training
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.lengths import Lengths, lengths_of
from qtuning.plan.machines import Machine
from qtuning.plan.memory import Memory, evaluation_memory, trained_bytes, training_memory
from qtuning.plan.shapes import Shape, shape_of_model
from qtuning.plan.work import BenchmarkWork, TrainingWork, evaluation_work, trained_shape, training_work


@dataclass(frozen=True)
class TrainingJob:
    """The training of one cell.

    identity: the cell's name. experiment: the first that asks for it, and pays. done: nothing is left to train.
    """

    cell: Cell
    identity: str
    experiment: str
    done: bool
    shape: Shape
    lengths: Lengths
    work: TrainingWork
    memory: Memory

    @property
    def settings(self) -> Training:
        """How the cell is trained."""
        assert self.cell.training is not None
        return self.cell.training

    @property
    def lora(self) -> bool:
        """Whether adapters are trained."""
        return self.settings.tuning == "lora"

    @property
    def trained_bytes(self) -> int:
        """Bytes of the weights that are trained."""
        return trained_bytes(self.shape, self.settings, self.cell.dtype)

    def scoring_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forwards without gradient."""
        return self._seconds(machine, self.work.scoring_flops, self.work.scoring_passes)

    def training_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forward, backward and optimizer, and of what accompanies each update."""
        assert self.cell.pruning is not None
        reused = schedule_of(self.cell.pruning) == "reuse-graph"  # the forward was that which scored
        passes = trained_shape(self.shape, self.settings).passes - reused
        # Adam reads weight, gradient and both moments, and writes all but the gradient
        optimizer = 7 * self.trained_bytes / machine.bandwidth
        seconds = self._seconds(machine, self.work.training_flops, self.work.training_passes, passes)
        return seconds + self.work.updates * (optimizer + machine.update_seconds)

    def _seconds(self, machine: Machine, flops: float, batches: float, passes: float = 1.0) -> float:
        dtype = "bfloat16" if self.settings.mixed_precision == "bf16" else self.cell.dtype
        processes = self.settings.processes
        return machine.seconds(
            flops / processes, batches / processes, self.shape, dtype, adapters=self.lora, factor=passes
        )


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation of one cell. work: benchmark by benchmark. The other fields are those of a TrainingJob."""

    cell: Cell
    identity: str
    experiment: str
    done: bool
    shape: Shape
    evaluation: Evaluation
    work: tuple[BenchmarkWork, ...]
    memory: Memory

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Wall-clock seconds by benchmark."""
        adapters = self.cell.training is not None and self.cell.training.tuning == "lora"
        dtype = self.evaluation.dtype
        return {asked.benchmark: asked.seconds(self.shape, machine, dtype, adapters) for asked in self.work}


class Jobs:
    """All jobs of some experiments, each once, in order; and the cells of each experiment.

    trainings: by cell. evaluations: by cell and evaluation. cells: of each experiment. shared: how many of them an
    earlier experiment has. finished: how many of them have nothing left to do. kept: cells whose weights stay after
    evaluation. models: by folder, with whether it is at hand. train_sets: name and lengths, by folder.

    Raises UserError where a size is neither known nor assumed.
    """

    def __init__(
        self, grids: Iterable[Grid], paths: ResultPaths, assumptions: Assumptions, data_dir: Path | None = None
    ) -> None:
        self.trainings: dict[str, TrainingJob] = {}
        self.evaluations: dict[tuple[str, str], EvaluationJob] = {}
        self.cells: dict[str, tuple[str, ...]] = {}
        self.shared: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.kept: set[str] = set()
        self.models: dict[str, tuple[Model, Shape, bool]] = {}
        self.train_sets: dict[str, tuple[str, Lengths]] = {}
        self._paths, self._assumptions, self._data_dir = paths, assumptions, data_dir
        self._work: dict[str, tuple[BenchmarkWork, ...]] = {}  # of evaluations, which many cells share
        for grid in grids:
            self._add(grid)

    def _add(self, grid: Grid) -> None:
        name = grid.experiment.name
        earlier = {identity for cells in self.cells.values() for identity in cells}
        self.cells[name] = tuple(cell_id(cell) for cell in grid.cells)
        self.shared[name] = sum(identity in earlier for identity in self.cells[name])
        self.finished[name] = 0
        for cell, identity in zip(grid.cells, self.cells[name], strict=True):
            evaluated = self._add_evaluation(name, cell, identity, grid.evaluation)
            trained = self._add_training(name, cell, identity, evaluated, grid.experiment.keep_weights)
            self.finished[name] += evaluated and trained

    def _add_evaluation(self, experiment: str, cell: Cell, identity: str, evaluation: Evaluation | None) -> bool:
        """Whether nothing is left to evaluate."""
        shape = self._shape(cell.model, self._paths.model(cell))
        if evaluation is None:
            return True
        name = evaluation_id(evaluation)
        done = (self._paths.root / "cells" / identity / name / "scores.json").is_file()
        if name not in self._work:
            self._work[name] = tuple(evaluation_work(evaluation, self._assumptions))
        if (identity, name) not in self.evaluations:
            work = self._work[name]
            memory = evaluation_memory(cell, evaluation, shape, work)
            job = EvaluationJob(cell, identity, experiment, done, shape, evaluation, work, memory)
            self.evaluations[identity, name] = job
        return done

    def _add_training(self, experiment: str, cell: Cell, identity: str, evaluated: bool, keep_weights: bool) -> bool:
        """Whether nothing is left to train.

        Full weights go after evaluation, so another evaluation of the same cell trains it again.
        """
        if cell.training is None:
            return True
        folder = self._paths.root / "cells" / identity
        done = (folder / "train.json").is_file() and (evaluated or (folder / "weights").is_dir())
        if cell.training.tuning == "lora" or keep_weights:
            self.kept.add(identity)
        earlier = self.trainings.get(identity)
        if earlier is None or (earlier.done and not done):
            first = experiment if earlier is None else earlier.experiment
            shape, lengths = self._shape(cell.model, self._paths.model(cell)), self._lengths(cell)
            work = training_work(cell, shape, lengths, self._auxiliary_shapes(cell))
            memory = training_memory(cell, shape, lengths)
            self.trainings[identity] = TrainingJob(cell, identity, first, done, shape, lengths, work, memory)
        return done

    def _shape(self, model: Model, ready: Path) -> Shape:
        if ready.name not in self.models:
            self.models[ready.name] = model, shape_of_model(model, ready), (ready / "model.json").is_file()
        return self.models[ready.name][1]

    def _auxiliary_shapes(self, cell: Cell) -> dict[str, Shape]:
        shapes = {}
        for role in AUXILIARY:
            model, ready = getattr(cell.pruning, role), self._paths.auxiliary(cell, role)
            if model is not None and ready is not None:
                shapes[role] = self._shape(model, ready)
        return shapes

    def _lengths(self, cell: Cell) -> Lengths:
        assert cell.train_set is not None
        pair = pair_id(cell)
        if pair not in self.train_sets:
            lengths = lengths_of(cell, self._paths.samples(cell), self._assumptions, self._data_dir)
            self.train_sets[pair] = cell.train_set.name, lengths
        return self.train_sets[pair][1]
