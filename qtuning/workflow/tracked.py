"""What the workflow tells a job of the run that mirrors its cell: the experiments, and the variant."""

import os
from collections.abc import Sequence
from shlex import quote

from qtuning.dashboard.variants import order_groups, variant_of
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

    def options(self, cell: str, evaluation: str | None = None) -> str:
        """`--group A --group B --variant lambda=0.3`: A is the experiment that was asked for, the group of the run.

        evaluation: one that is made; experiments with another one come later.
        """
        inputs = self._inputs
        groups = order_groups(inputs.grids, inputs.experiments_of[cell], self._asked, evaluation)
        variant = variant_of(inputs.cells[cell], inputs.grids[groups[0]])
        return " ".join(
            [*(f"--group {name}" for name in groups), *([f"--variant {quote(variant)}"] if variant else [])]
        )
