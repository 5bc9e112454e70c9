"""LESS: the warm-up that it trains, and the measurement of influence that all cells of a model and train set share.

A cell says how its influence is measured (`Pruning.influence`). From that and from its own model, train set and
training, `measurement_of` derives the measurement, whose warm-up is a cell that the rule `train` trains like any other.
It is no row of a table and answers no benchmark.
"""

from qtuning.experiment.auxiliary import Influence, Part
from qtuning.experiment.base import Config
from qtuning.experiment.cell import Cell, Lora, Pruning, Seeds
from qtuning.experiment.ids import cell_json, slug
from qtuning.experiment.needs import needs_of
from qtuning.files import short_hash


class Measurement(Config):
    """What the rule `influence` makes: the influence of each sample of a train set on each target.

    warmup: the cell whose epochs give the checkpoints.
    """

    warmup: Cell
    influence: Influence

    @property
    def identity(self) -> str:
        """Folder name."""
        assert self.warmup.train_set is not None
        digest = short_hash([cell_json(self.warmup), self.influence.model_dump(mode="json")])
        return slug(self.warmup.train_set.name, self.warmup.model.name, "influence", digest)


def measurement_of(cell: Cell) -> Measurement | None:
    """The measurement whose result the training of `cell` needs; None if its method needs none.

    The warm-up is LoRA, whatever the cell trains, on a random share of its train set, the same in every epoch.
    """
    if cell.pruning is None or cell.pruning.influence is None or "influence" not in needs_of(cell.pruning).all:
        return None
    assert cell.training is not None and cell.train_set is not None
    influence = cell.pruning.influence
    full = cell.training.tuning == "full"  # then the cell's settings of LoRA are no part of its identity
    training = cell.training.model_copy(
        update={
            "tuning": "lora",
            "lora": Lora() if full else cell.training.lora,
            "epochs": influence.epochs,
            "dtype": cell.dtype,
            "each_epoch": True,
            "optimizer": "adamw",  # whose moments are read
        }
    )
    warmup = cell.model_copy(
        update={
            "model": cell.model.model_copy(update={"lora_targets": "all-linear"}) if full else cell.model,
            "train_set": cell.train_set.without_ratings(),
            "pruning": Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1),
            "part": Part(samples=influence.samples, seed=influence.seed),
            "training": training,
            "seeds": Seeds(data=influence.seed, pruner=influence.seed, init=influence.seed),
        }
    )
    return Measurement(warmup=warmup, influence=influence)
