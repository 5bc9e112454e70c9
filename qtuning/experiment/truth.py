"""What is known of planted samples: their kinds, and how flaws are planted. Controls (pruners/controls.py) use it."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from qtuning.experiment.base import Config

Kind = Literal["clean", "misconception", "redundant", "ambiguous", "noise"]
"""What a planted sample is: right and new; right where pretraining told otherwise; right and known; of several right
answers one; wrong."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds. Their codes (base.Candidates.kinds) are their places here."""


class Planted(Config):
    """Flaws that preparation plants in a train set, so that its samples have kinds and errors (data/planted.py)."""

    noise: float = Field(0.0, ge=0, le=1, description="share of the samples that get a wrong answer")
    redundant: float = Field(0.0, ge=0, le=1, description="share that becomes a copy of another sample")
    ambiguous: float = Field(0.0, ge=0, le=1, description="share that loses the second half of its question")
    slips: float = Field(0.0, ge=0, le=1, description="share that gets one wrong number in an otherwise right response")
    seed: int = Field(0, ge=0, description="of the draw")
    draws: int = Field(
        1, gt=0, description="how many draws there are; a cell has number (data seed modulo draws), by seed + number"
    )

    @model_validator(mode="after")
    def _something_stays_right(self) -> "Planted":
        if self.noise + self.redundant + self.ambiguous + self.slips >= 1:
            raise ValueError("noise, redundant, ambiguous and slips: must leave some samples as they are")
        return self

    def drawn(self, seed: int) -> "Planted":
        """The one draw of the cells with this data seed."""
        return self.model_copy(update={"seed": self.seed + seed % self.draws, "draws": 1})
