"""Where everything lies below `results/` (docs/results.md)."""

from dataclasses import dataclass
from pathlib import Path

from qtuning.experiment.names import cell_id, evaluation_id, model_id, pair_id
from qtuning.experiment.schema import Cell, Evaluation

HELPERS = ("reference", "proxy")
"""Roles of the models that a cell may need beside its own."""


@dataclass(frozen=True)
class Layout:
    """Paths below the results folder `root`."""

    root: Path

    def configuration(self, identity: str) -> Path:
        """File with the canonical configuration of a cell, model, pair or evaluation."""
        return self.root / "configurations" / f"{identity}.json"

    def cell(self, cell: Cell) -> Path:
        """Folder of a cell."""
        return self.root / "cells" / cell_id(cell)

    def state(self, cell: Cell) -> Path:
        """Folder of a cell's resume state; outside the cell, because Snakemake deletes outputs of restarted jobs."""
        return self.root / "state" / cell_id(cell)

    def model(self, cell: Cell) -> Path:
        """Folder of a base model made ready."""
        return self.root / "models" / model_id(cell.model)

    def helper(self, cell: Cell, role: str) -> Path | None:
        """Folder of another model that a cell needs: its `reference` (rho-1) or its `proxy` (scoring)."""
        model = None if cell.pruning is None else getattr(cell.pruning, role)
        return None if model is None else self.root / "models" / model_id(model)

    def samples(self, cell: Cell) -> Path:
        """Folder of a validated, tokenised train set."""
        return self.root / "train_sets" / pair_id(cell)

    def evaluation(self, cell: Cell, evaluation: Evaluation) -> Path:
        """Folder of a cell's scores."""
        return self.cell(cell) / evaluation_id(evaluation)

    def lock(self, identity: str) -> Path:
        """Lock file of the job of that name."""
        return self.root / "locks" / f"{identity}.lock"
