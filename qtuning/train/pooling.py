"""How many updates are made of the batches of a pool (schedule `pool`); without torch, since plans ask it, too."""

import math
from dataclasses import dataclass

from qtuning.experiment.schema import Pruning


@dataclass(frozen=True)
class Pooling:
    """How many updates' batches are scored at once, and which share of their samples is kept (schedule `pool`).

    The kept samples of P updates' batches are trained in ceil(P * ratio) updates.
    """

    batches: int = 1
    ratio: float = 1.0

    @classmethod
    def of(cls, pruning: Pruning, by_epoch: bool) -> "Pooling":
        """That of a method which is pooled. by_epoch: its batches hold only samples that were drawn before."""
        ratio = 1.0 if by_epoch else pruning.sample_ratio
        if pruning.passes == "twice":
            ratio *= pruning.sample_ratio
        return cls(pruning.scoring.batches, ratio)

    def updates(self, plain: int) -> list[int]:
        """How many updates each pool makes, in an epoch that would have `plain` updates without pools."""
        sizes = [min(self.batches, plain - start) for start in range(0, plain, self.batches)]
        # 0.1 * 30 is a little above 3 in floating point
        return [max(1, math.ceil(round(size * self.ratio, 9))) for size in sizes]
