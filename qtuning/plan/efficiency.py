"""What a plan predicts of the paper's own measurement (table 6): LLaMA2-7B on WizardLM, 8 x A100."""

from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np

from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths
from qtuning.paper.efficiency import Budget, Planned
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.jobs import Jobs, TrainingJob
from qtuning.plan.lengths import Lengths
from qtuning.plan.machines import Machine, find_machine
from qtuning.train.launch import Launch

EXPERIMENT, MACHINE, PROCESSES = "table6", "a100", 8
"""docs/method.md, Efficiency."""


def jobs_of_the_paper(configs: Path) -> dict[Budget, TrainingJob]:
    """By budget, the training of the paper's run; nothing where `configs` have no such experiment.

    Activations are recomputed, as LLaMA-Factory does by default, whatever we would choose. Lengths are assumed
    (planning.yaml), so that the prediction does not depend on what has been run here.
    """
    try:
        grids = ConfigFolder(configs).expand([EXPERIMENT])
    except UserError:
        return {}
    machine, launch = find_machine(MACHINE), Launch(PROCESSES, recompute="always")  # as LLaMA-Factory does
    assumptions = read_assumptions(configs)
    jobs = Jobs(grids, ResultPaths(Path("/nonexistent")), assumptions, machine=machine, launch=launch)
    found = {}
    for job in jobs.trainings.values():
        assert job.cell.pruning is not None
        budget = job.cell.pruning.sample_ratio, job.cell.pruning.token_ratio
        found[budget] = job
    return found


def plan_of_the_paper(configs: Path) -> dict[Budget, Planned]:
    """By budget, what our training of the paper's run would take on the paper's machines."""
    machine, found = find_machine(MACHINE), {}
    for budget, job in jobs_of_the_paper(configs).items():
        minutes = shared_seconds(job, machine, PROCESSES) / 60
        found[budget] = Planned(float(minutes), float(100 * job.memory.total / machine.memory))
    return found


def shared_seconds(job: TrainingJob, machine: Machine, processes: int) -> float:
    """Wall-clock seconds of a training on several GPUs, its start among them.

    They share the samples of every update equally, but not its tokens: all wait for the one with the most. To add up
    the gradients of adapters takes some milliseconds an update, which is left out.
    """
    assert job.cell.pruning is not None
    own = job.settings.batches * job.settings.batch_size / processes
    kept = own * job.work.samples_kept / job.work.decisions
    scoring = job.scoring_seconds(machine) * waiting(job.lengths, own, processes)
    training = job.training_seconds(machine) * waiting(job.lengths, kept, processes)
    return (scoring + training) / processes + machine.start_seconds


def waiting(lengths: Lengths, samples: float, processes: int) -> float:
    """The most tokens of `samples` samples that one of the processes is expected to have, over the mean.

    Sums of lengths are nearly normal; the largest of n normal variables is expected near the quantile
    (n - 3/8) / (n + 1/4) (Blom 1958).
    """
    if processes == 1:
        return 1.0
    largest = NormalDist().inv_cdf((processes - 0.375) / (processes + 0.25))
    return 1.0 + largest * float(lengths.tokens.std() / lengths.tokens.mean()) / sqrt(max(1.0, samples))


def padded(lengths: Lengths, batch_size: int) -> Lengths:
    """Lengths as a trainer makes them that pads every batch to its longest sample, and has logits everywhere.

    Each is that of the longest of `batch_size` samples, by its quantiles.
    """
    points = len(lengths.tokens)
    quantiles = ((np.arange(points) + 0.5) / points) ** (1 / batch_size)
    longest = np.quantile(lengths.tokens, quantiles)
    return replace(lengths, prompts=np.ones(points), responses=longest - 1)
