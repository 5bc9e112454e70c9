"""The scores of all samples one epoch ago, for pruners with the need `previous-scores`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qtuning.pruners.base import PreviousScores
from qtuning.scoring.scores import BatchScores


@dataclass
class Remembered:
    """seen: the scores of the samples in this epoch, NaN for those not yet scored in it. previous: in the one before.

    Both are part of the resume state, and the same on every process. by_draw: all samples are scored when an epoch is
    drawn, because its batches will hold some of them only.
    """

    by_draw: bool
    seen: PreviousScores
    previous: PreviousScores

    @classmethod
    def nothing(cls, count: int, by_draw: bool) -> "Remembered":
        """Of `count` samples, before training."""
        return cls(by_draw, _unknown(count), _unknown(count))

    def note(self, positions: Sequence[int], ppl: Sequence[float], ent: Sequence[float]) -> None:
        """Samples, by their positions in the train set, have been scored."""
        places = torch.tensor(positions)
        self.seen.ppl[places] = torch.tensor(ppl, dtype=torch.float64)
        self.seen.ent[places] = torch.tensor(ent, dtype=torch.float64)

    def note_all(self, scores: BatchScores) -> None:
        """All samples have been scored, before an epoch."""
        self.seen = PreviousScores(scores.ppl.clone(), scores.ent.clone())  # a checkpoint holds no tensor twice

    def end_epoch(self) -> None:
        """What was seen in this epoch is previous in the next."""
        self.previous, self.seen = self.seen, _unknown(len(self.seen.ppl))

    def tensors(self) -> dict[str, Tensor]:
        """The resume state."""
        parts = {"seen": self.seen, "previous": self.previous}
        return {f"pruner.{when}_{name}": column for when, part in parts.items() for name, column in vars(part).items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the resume state."""
        for when in ("seen", "previous"):
            setattr(self, when, PreviousScores(tensors[f"pruner.{when}_ppl"], tensors[f"pruner.{when}_ent"]))


def _unknown(count: int) -> PreviousScores:
    return PreviousScores(*(torch.full((count,), torch.nan, dtype=torch.float64) for _ in range(2)))
