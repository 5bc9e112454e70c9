"""What the workflow tells a job of the run that mirrors its cell: the experiments that the cell belongs to."""

import os
from collections.abc import Sequence

from qtuning.dashboard.variants import order_groups
from qtuning.workflow.inputs import WorkflowInputs

ASKED = "QTUNING_EXPERIMENTS"
"""Environment variable: the experiments that Snakemake was asked for. It starts processes of its own for jobs, which
read the Snakefile again and have no targets."""


class TrackedRuns:
    """The options of `qtuning train` and `qtuning evaluate` that say which run a cell is.

    targets: of this Snakemake; None in a process that it started itself.
    """

    def __init__(self, inputs: WorkflowInputs, targets: Sequence[str] | None) -> None:
        self._inputs = inputs
        if targets is not None:
            found = ("mini" if target == "all" else inputs.experiment_of(target) for target in targets or ["mini"])
            os.environ[ASKED] = " ".join(dict.fromkeys(name for name in found if name is not None))
        self._asked = os.environ.get(ASKED, "").split()

    def options(self, cell: str) -> str:
        """`--group A --group B`: A is the experiment that was asked for. The same for all jobs of a cell, and for cells
        of the same experiments, since Snakemake groups no jobs whose text resources differ."""
        return " ".join(f"--group {name}" for name in order_groups(self._inputs.experiments_of[cell], self._asked))
