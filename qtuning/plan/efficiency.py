"""What a plan predicts of the paper's own measurement (table 6): LLaMA2-7B on WizardLM, 8 x A100."""

from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths
from qtuning.paper.efficiency import Budget, Planned
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import find_machine
from qtuning.train.launch import Launch

EXPERIMENT, MACHINE, PROCESSES = "table6", "a100", 8
"""docs/method.md, Efficiency."""


def plan_of_the_paper(configs: Path) -> dict[Budget, Planned]:
    """By budget, what `configs` let us predict; nothing where there is no such experiment.

    Lengths are assumed (planning.yaml), so that the prediction does not depend on what has been run here.
    """
    try:
        grids = ConfigFolder(configs).expand([EXPERIMENT])
    except UserError:
        return {}
    machine, found = find_machine(MACHINE), {}
    assumptions, launch = read_assumptions(configs), Launch(PROCESSES, recompute="always")  # as LLaMA-Factory does
    jobs = Jobs(grids, ResultPaths(Path("/nonexistent")), assumptions, machine=machine, launch=launch)
    for job in jobs.trainings.values():
        assert job.cell.pruning is not None
        # the processes share the samples of every update equally
        seconds = (job.scoring_seconds(machine) + job.training_seconds(machine)) / PROCESSES + machine.start_seconds
        budget = job.cell.pruning.sample_ratio, job.cell.pruning.token_ratio
        found[budget] = Planned(float(seconds) / 60, float(100 * job.memory.total / machine.memory))
    return found
