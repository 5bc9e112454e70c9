"""What a method may need beside its own training: a reference model that the workflow trains, a measured influence."""

from typing import Literal

from pydantic import Field

from qtuning.experiment.base import Config, Name


class TrainedReference(Config):
    """`options.reference` as a mapping: a reference model that the workflow trains.

    It is the cell's own model, trained as the cell is but for the keys below, on a part of the cell's train set that is
    drawn at random. references.py makes cells of it.
    """

    samples: float = Field(gt=0, le=100, description="per cent of the train set that the reference is trained on first")
    epochs: int = Field(1, gt=0, description="over each part")
    seed: int = Field(
        0,
        ge=0,
        description="of the draw and of the training; a reference serves all budgets of a method, and all seeds that "
        "read one file of the train set",
    )
    parts: int = Field(
        1,
        gt=0,
        description="self-evolving: the rest of the train set is cut into so many equal parts; each is scored by the "
        "reference as the parts before it have left it",
    )

    @property
    def label(self) -> str:
        """What tables call it: `10% of the data`, `20% of the data, then 4 parts, seed 1`."""
        more = [f"then {self.parts} parts"] * (self.parts > 1) + [f"{self.epochs} epochs"] * (self.epochs > 1)
        more += [f"seed {self.seed}"] * (self.seed > 0)
        return ", ".join([f"{self.samples:g}% of the data", *more])


class Part(Config):
    """The samples that a reference is trained on: `number` 0 is the first `samples` per cent of the train set in the
    random order of `seed`; 1, 2, ... are the equal parts into which `parts` cuts the rest.
    """

    samples: float = Field(gt=0, le=100)
    parts: int = Field(1, gt=0)
    seed: int = Field(0, ge=0)
    number: int = Field(0, ge=0)

    def bounds(self, count: int) -> tuple[int, int]:
        """From which place to before which place of that order the part reaches, in a train set of `count` samples."""
        first = min(count, max(1, round(count * self.samples / 100)))
        edges = [0, *(first + round((count - first) * cut / self.parts) for cut in range(self.parts + 1))]
        return edges[self.number], edges[self.number + 1]


class Influence(Config):
    """`options.influence`: how LESS measures influence, and how its warm-up is trained (influence.py).

    One measurement serves all budgets of a model and a train set, and all seeds that read one file of the train set.
    """

    targets: tuple[Name, ...] = Field((), description="benchmarks; none: those that the experiment asks")
    source: Literal["hub", "data-dir", "mini-world"] | None = Field(
        None, description="where their train splits are; null: where the questions come from"
    )
    examples: int = Field(8, gt=0, description="of each target")
    dimension: int = Field(8192, gt=0, description="of the random projection of the gradients")
    samples: float = Field(5, gt=0, lt=100, description="per cent of the train set that the warm-up is trained on")
    epochs: int = Field(4, gt=0, description="of the warm-up; after each one gradients are taken")
    seed: int = Field(0, ge=0, description="of the warm-up, the examples and the projection")
