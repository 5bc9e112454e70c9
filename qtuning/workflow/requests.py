"""What a job asks a cluster for: GPUs, host memory and time, from the estimates of `qtuning plan`.

A job on this machine asks for the same. Nothing here depends on which machine that is.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from qtuning.errors import UserError, raise_problems
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id
from qtuning.experiment.influence import measurement_of
from qtuning.experiment.references import references_of
from qtuning.files import short_hash
from qtuning.plan.assumptions import Assumptions, read_assumptions
from qtuning.plan.jobs import EvaluationJob, Jobs, TrainingJob
from qtuning.plan.machines import GIB, MACHINES, Machine, find_machine
from qtuning.workflow.inputs import WorkflowInputs

PROCESS = {"cpu": 2.0 * GIB, "cuda": 6.0 * GIB}  # host memory of a process without weights; that with CUDA is assumed
MARGIN = 2.0  # of time: estimates for GPUs were never measured
START_MINUTES = 10.0  # from the start of a job to that of its work: a busy file system, imports, W&B
UNKNOWN = 64.0 * GIB, 12 * 3600.0  # memory and seconds where a size is neither known nor assumed
TOKENISING = 8  # threads that tokenise a train set, where there are so many
SHORT_MINUTES = 10.0  # training and evaluations of up to this are grouped
GROUP_MINUTES = 160  # what a group may ask for: its parts' minutes together, at the fourth attempt
GROUP = "short"  # what `--group-components` calls these groups


@dataclass(frozen=True)
class Request:
    """Of one job. memory: bytes of the host. seconds: expected. limit: minutes that no job may exceed, if there are."""

    memory: float
    seconds: float
    limit: int | None = None

    def mem_mb(self, attempt: int) -> int:
        """Megabytes of 2^20 bytes, in steps of 500; more with every attempt."""
        return 500 * math.ceil(attempt * self.memory / 2**20 / 500)

    def minutes(self, attempt: int) -> int:
        """Time limit; more with every attempt, up to the cluster's own. A training goes on in the next attempt."""
        return minutes_within(self.limit, attempt * (START_MINUTES + MARGIN * self.seconds / 60))

    @property
    def fits(self) -> bool:
        """Whether the first attempt may take as long as it is expected to."""
        return self.limit is None or START_MINUTES + self.seconds / 60 <= self.limit


def minutes_within(limit: int | None, wanted: float) -> int:
    """Minutes to ask for: as many as wanted, at most the cluster's limit."""
    return math.ceil(wanted) if limit is None else min(math.ceil(wanted), limit)


class Requests:
    """Requests of the jobs of all cells. machine: what is planned for; limit: most minutes of a job, if any."""

    def __init__(self, inputs: WorkflowInputs, assumptions: Assumptions, machine: Machine, limit: int | None) -> None:
        self._inputs, self._machine, self._limit = inputs, machine, limit

        @cache
        def jobs(experiment: str) -> Jobs:
            grids, launch = [inputs.grids[experiment]], inputs.launch
            return Jobs(grids, inputs.paths, assumptions, inputs.data_dir, machine, launch)

        self._jobs = jobs

    def _machine_of(self, cell: Cell) -> Machine:
        return self._machine if cell.model.takes_gpus else MACHINES["cpu"]

    def marking(self, attempt: int) -> int:
        """Minutes of marking what vLLM replied, which takes no GPU: the checker of MATH takes minutes on one core."""
        return minutes_within(self._limit, 30 * attempt)

    def check_targets(self, experiments: Iterable[str]) -> None:
        """UserError for jobs that start anew when they are stopped, and would be stopped by the time limit."""
        problems = []
        for name in experiments:
            grid = self._inputs.grids[name]
            measured = [cell_id(c) for c in grid.cells if grid.experiment.measure and not c.zero_shot]
            asked = {f"the measurement of {cell}": self.training(cell) for cell in measured}
            for cell in grid.cells:
                if (measurement := measurement_of(cell)) is not None:
                    asked[measurement.identity] = self.scoring(cell_id(measurement.warmup))
            problems += [
                f"time_limit = {self._limit}: {job} takes some {math.ceil(START_MINUTES + request.seconds / 60)} "
                "minutes and cannot go on where it is stopped; choose a partition with a longer limit"
                for job, request in asked.items()
                if not request.fits
            ]
        raise_problems(problems)

    def gpus(self, cell: str, *, evaluation: bool = False) -> int:
        """GPUs of a training, one a process, or of an evaluation."""
        return (1 if evaluation else self._inputs.launch.processes) if self._inputs.cells[cell].model.takes_gpus else 0

    def tokenising(self, pair: str) -> int:
        """Threads that prepare a train set: many jobs wait for a large one, and those of the mini world are small."""
        train_set = self._inputs.cell(pair).train_set
        assert train_set is not None
        return 1 if train_set.source.kind == "mini-world" else TOKENISING

    def training(self, cell: str) -> Request:
        """Of a training, or of its measurement."""
        launch = self._inputs.launch
        return self._training(cell, launch.processes, sharded=launch.shards(self._inputs.cells[cell]))

    def scoring(self, cell: str) -> Request:
        """Of what looks at the samples of a training once more, in one process."""
        return self._training(cell, 1, sharded=False)

    def _training(self, cell: str, processes: int, *, sharded: bool) -> Request:
        try:
            job = self._jobs(self._inputs.experiments_of[cell][0]).trainings[cell]
        except UserError:
            return Request(*UNKNOWN, self._limit)
        # moments and gradients pass through the host when they are saved
        on_host = job.memory.weights + 3.0 * job.trained_bytes
        if sharded:  # of the slices; the first process also reads the whole model, and gathers what it saves
            on_host = on_host / processes + 2.0 * job.memory.weights / processes
        return self._request(job, on_host, processes)

    def evaluation(self, cell: str, evaluation: str) -> Request:
        """Of one evaluation of a cell; under vLLM of all cells that its engine may go on to."""
        for name in self._inputs.experiments_of[cell]:
            try:
                jobs = self._jobs(name).evaluations
            except UserError:
                return Request(*UNKNOWN, self._limit)
            job = jobs.get((cell, evaluation))
            if job is not None:
                own = self._request(job, job.memory.weights, 1)
                if job.settings.backend != "vllm":
                    return own
                beside = [j for (_, asked), j in jobs.items() if asked == evaluation and j.cell.model == job.cell.model]
                return replace(own, seconds=sum(self._request(each, 0.0, 1).seconds for each in beside))
        return Request(*UNKNOWN, self._limit)

    def _request(self, job: TrainingJob | EvaluationJob, on_host: float, processes: int) -> Request:
        machine = self._machine_of(job.cell)
        if machine.device == "cpu":
            on_host += job.memory.total
        memory = processes * (PROCESS[machine.device] + on_host)
        return Request(memory, 3600 * job.hours(machine).total / processes, self._limit)

    def groups(self, components: dict[str, str]) -> Callable[[Any], str | None]:
        """Snakemake's `group` of the rules of a cell, as a function of the wildcards.

        `components` (Snakemake's `parent_groupids`) is told that each of these groups is one of GROUP: the name by
        which `--group-components` knows them all.
        """

        def of(wildcards: Any) -> str | None:
            if (name := self.group(wildcards.cell)) is not None:
                components[name] = GROUP
            return name

        return of

    def group(self, cell: str) -> str | None:
        """Name of the group of a cell's training and evaluations where they are short, else None.

        The jobs of a group are one job of the cluster. Without GPUs cells whose jobs have the same settings share a
        name (Snakemake refuses to group others), so that `--group-components` can put many of them into one job. Cells
        that others read, or that read others, those that are observed, and those that vLLM answers for (its engine goes
        on to other cells) stay alone.
        """
        asked, names = self._inputs.cells[cell], self._inputs.experiments_of[cell]
        if asked.part is not None or references_of(asked) or self._inputs.observe_option(cell):
            return None
        if self._limit is not None and self._limit < GROUP_MINUTES:
            return None
        try:
            known = [self._jobs(name) for name in names]
        except UserError:
            return None
        every = self._inputs.evaluations
        evaluations = [jobs.evaluations[cell, e] for jobs in known for e in every if (cell, e) in jobs.evaluations]
        if any(job.settings.backend == "vllm" for job in evaluations):
            return None
        trainings = [jobs.trainings[cell] for jobs in known[:1] if cell in jobs.trainings]
        jobs: list[TrainingJob | EvaluationJob] = [*trainings, *evaluations]
        hours = sum(job.hours(self._machine_of(asked)).total for job in jobs)
        if 60 * hours > SHORT_MINUTES:
            return None
        return f"{GROUP}-{cell if asked.model.takes_gpus else short_hash([names, asked.zero_shot])}"


def requests_of(config: Mapping[str, Any], inputs: WorkflowInputs, configs: Path = Path("configs")) -> Requests:
    """Requests as the settings (configs/config.yaml) want them; UserError for a setting."""
    limit = config["time_limit"]
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"time_limit = {limit!r}: must be a whole number of minutes above 0, or null")
    machine = find_machine(str(config["machine"]), configs, "machine")
    if machine.device != "cuda":
        raise UserError(
            f"machine = {machine.name!r}: must be a GPU; models that need none are planned for a CPU anyway"
        )
    return Requests(inputs, read_assumptions(configs), machine, limit)
