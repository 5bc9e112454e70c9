"""Experiments -> trainings and evaluations, each once, with what each will cost and what has been done of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qtuning.experiment.grid import Grid
from qtuning.experiment.names import AUXILIARY, ResultPaths, cell_id, evaluation_id, pair_id
from qtuning.experiment.needs import schedule_of
from qtuning.experiment.schema import Cell, Evaluation, Model
from qtuning.plan.answers import Answers, answers_of
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.lengths import Lengths, lengths_of
from qtuning.plan.machines import Machine
from qtuning.plan.memory import Memory, evaluation_memory, training_memory
from qtuning.plan.shapes import BYTES, Shape, shape_of_model
from qtuning.plan.work import Work, trained_shape, work_of


@dataclass(frozen=True)
class Training:
    """One training: its cell, the first experiment that asks for it, whether it is done, and what it takes."""

    cell: Cell
    identity: str
    experiment: str
    done: bool
    shape: Shape
    lengths: Lengths
    work: Work
    memory: Memory

    @property
    def processes(self) -> int:
        """Devices it takes."""
        return 1 if self.cell.training is None else self.cell.training.processes

    def scoring_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forwards without gradient."""
        passes, flops = self.work.scoring_passes / self.processes, self.work.scoring_flops / self.processes
        adapters = self._lora
        return machine.seconds(flops, passes, self.shape, self._arithmetic, adapters=adapters)

    def training_seconds(self, machine: Machine) -> float:
        """Wall-clock seconds of forward, backward and optimizer, and of what accompanies each update."""
        work, training = self.work, self.cell.training
        assert training is not None
        passes, flops = work.training_passes / self.processes, work.training_flops / self.processes
        assert self.cell.pruning is not None
        reused = schedule_of(self.cell.pruning) == "reuse-graph"
        factor = trained_shape(self.shape, training).passes - reused
        total = machine.seconds(flops, passes, self.shape, self._arithmetic, adapters=self._lora, factor=factor)
        trained = self.shape.lora_parameters(training.lora.r) if self._lora else self.shape.parameters
        # Adam reads weight, gradient and both moments and writes three of them
        step = 7 * trained * (4 if self._lora else BYTES[self.cell.dtype]) / machine.bandwidth
        return total + work.updates * (step + machine.update_seconds)

    @property
    def _lora(self) -> bool:
        return self.cell.training is not None and self.cell.training.tuning == "lora"

    @property
    def _arithmetic(self) -> str:
        training = self.cell.training
        return "bfloat16" if training is not None and training.mixed_precision == "bf16" else self.cell.dtype


@dataclass(frozen=True)
class Scores:
    """One evaluation of one cell."""

    cell: Cell
    identity: str
    experiment: str
    done: bool
    evaluation: Evaluation
    shape: Shape
    answers: tuple[Answers, ...]
    memory: Memory

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Wall-clock seconds by benchmark."""
        adapters = self.cell.training is not None and self.cell.training.tuning == "lora"
        dtype = self.evaluation.dtype
        return {asked.benchmark: asked.seconds(self.shape, machine, dtype, adapters) for asked in self.answers}


@dataclass
class Jobs:
    """Everything experiments ask for, each job once, in order; and the cells of each experiment.

    shared: of each experiment, its cells that an earlier one of these experiments has. finished: its cells of which
    nothing is left to do. kept: cells whose weights stay after evaluation.
    """

    trainings: dict[str, Training] = field(default_factory=dict)
    scores: dict[tuple[str, str], Scores] = field(default_factory=dict)
    cells: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    models: dict[str, tuple[Model, Shape, bool]] = field(default_factory=dict)
    train_sets: dict[str, tuple[str, Lengths]] = field(default_factory=dict)


def jobs_of(grids: Sequence[Grid], paths: ResultPaths, assumptions: Assumptions, data_dir: Path | None = None) -> Jobs:
    """All jobs of the experiments. UserError where a size is neither known nor assumed."""
    jobs, seen = Jobs(), set[str]()
    answers: dict[str, tuple[Answers, ...]] = {}
    for grid in grids:
        name, evaluation = grid.experiment.name, grid.evaluation
        identities = [cell_id(cell) for cell in grid.cells]
        jobs.cells[name] = tuple(identities)
        jobs.shared[name] = sum(identity in seen for identity in identities)
        seen.update(identities)
        finished = 0
        for cell, identity in zip(grid.cells, identities, strict=True):
            shape = _model(jobs, cell.model, paths.model(cell))
            scored = True
            if evaluation is not None:
                key = (identity, evaluation_id(evaluation))
                scored = (paths.root / "cells" / identity / key[1] / "scores.json").is_file()
                if key[1] not in answers:
                    answers[key[1]] = tuple(answers_of(evaluation, assumptions))
                asked = answers[key[1]]
                if key not in jobs.scores:
                    memory = evaluation_memory(cell, evaluation, shape, list(asked))
                    jobs.scores[key] = Scores(cell, identity, name, scored, evaluation, shape, asked, memory)
            trained = cell.training is None or _trained(paths, identity, scored)
            if cell.training is not None:
                if cell.training.tuning == "lora" or grid.experiment.keep_weights:
                    jobs.kept.add(identity)
                earlier = jobs.trainings.get(identity)
                if earlier is None or (earlier.done and not trained):
                    first = name if earlier is None else earlier.experiment
                    jobs.trainings[identity] = _training(
                        jobs, cell, identity, first, trained, paths, assumptions, data_dir
                    )
            finished += scored and trained
        jobs.finished[name] = finished
    return jobs


def _trained(paths: ResultPaths, identity: str, scored: bool) -> bool:
    """Whether nothing is left to train: full weights go after evaluation, and another evaluation trains again."""
    folder = paths.root / "cells" / identity
    return (folder / "train.json").is_file() and (scored or (folder / "weights").is_dir())


def _model(jobs: Jobs, model: Model, ready: Path) -> Shape:
    """Shape of a model, noted with whether it is at hand."""
    if ready.name not in jobs.models:
        jobs.models[ready.name] = model, shape_of_model(model, ready), (ready / "model.json").is_file()
    return jobs.models[ready.name][1]


def _training(
    jobs: Jobs,
    cell: Cell,
    identity: str,
    experiment: str,
    done: bool,
    paths: ResultPaths,
    assumptions: Assumptions,
    data_dir: Path | None,
) -> Training:
    assert cell.train_set is not None and cell.pruning is not None
    shape = _model(jobs, cell.model, paths.model(cell))
    pair = pair_id(cell)
    if pair not in jobs.train_sets:
        jobs.train_sets[pair] = cell.train_set.name, lengths_of(cell, paths.samples(cell), assumptions, data_dir)
    lengths = jobs.train_sets[pair][1]
    helpers = {}
    for role in AUXILIARY:
        model, ready = getattr(cell.pruning, role), paths.auxiliary(cell, role)
        if model is not None and ready is not None:
            helpers[role] = _model(jobs, model, ready)
    work, memory = work_of(cell, shape, lengths, helpers), training_memory(cell, shape, lengths)
    return Training(cell, identity, experiment, done, shape, lengths, work, memory)
