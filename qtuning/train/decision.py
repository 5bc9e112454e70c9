"""What passes through one update: where training is, and what was decided of each batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.batch import Packed, pack, without
from qtuning.pruners.method import Selection
from qtuning.train.pool import Pool
from qtuning.train.reuse import Graphs
from qtuning.train.schedule import Window

TENSORS = ("drawn", "weights", "ppl", "ent")


@dataclass
class Place:
    """Where training is: the next update, and what the current epoch holds.

    drawn: positions of the samples of the epoch, ascending; None before an epoch is drawn. weights: [n] factors of
    all samples' losses in this epoch, or None for 1. ppl, ent: [n] scores that they were drawn by, or None. log: what
    the sample pruner said of the draw. pool: what was decided of the batches that the next update is made of, where an
    earlier one is made of them, too (schedule `pool`).
    """

    update: int = 0
    epoch: int = 0
    index: int = 0
    drawn: Tensor | None = None
    weights: Tensor | None = None
    ppl: Tensor | None = None
    ent: Tensor | None = None
    log: Mapping[str, float] = field(default_factory=dict)
    pool: Pool | None = None

    def advance(self, window: Window) -> None:
        """The update of `window` is made."""
        self.update, self.index = window.update + 1, window.index + 1
        if window.last:
            self.pool = None
        if self.index == window.count:
            self.epoch, self.index, self.log = self.epoch + 1, 0, {}
            self.drawn = self.weights = self.ppl = self.ent = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, for a checkpoint."""
        found = {f"pruner.{name}": getattr(self, name) for name in TENSORS}
        found |= {} if self.pool is None else self.pool.tensors()
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def restored(cls, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Place":
        """From a checkpoint."""
        place = cls(int(numbers["update"]), int(numbers["epoch"]), int(numbers["index"]), log=numbers["draw"])
        for name in TENSORS:
            setattr(place, name, tensors.get(f"pruner.{name}"))
        place.pool = Pool.restored(tensors)
        return place

    def dropped(self, samples: Sequence[Sample]) -> Iterator[tuple[Any, ...]]:
        """Trace rows of the samples that were scored before this epoch and not drawn (journal.TRACE_SCHEMA)."""
        if self.drawn is None or self.ppl is None or self.ent is None:
            return
        drawn, ppl, ent = set(self.drawn.tolist()), self.ppl.tolist(), self.ent.tolist()
        for position, sample in enumerate(samples):
            if position not in drawn:
                scores = (ppl[position], ent[position])
                decision = (0, False, False, sample.response_length, 0, None, None)
                yield (self.update, self.epoch, sample.number, *scores, *decision)


@dataclass(frozen=True)
class Decision:
    """One pruned batch: its samples, what was known of them, what was selected, what is trained.

    weights: factors of the samples' losses, None for 1. ppl, ent: scores, where the batch or its epoch was scored.
    losses: filled in training, mean NLL of the trained tokens by sample. graphs: of the forward that scored the kept
    samples, where they are trained through it.
    """

    samples: Sequence[Sample]
    selection: Selection
    weights: Sequence[float] | None
    ppl: Sequence[float] | None
    ent: Sequence[float] | None
    kept: Packed | None
    losses: dict[int, float] = field(default_factory=dict)
    graphs: Graphs | None = None

    def trace(self, window: Window) -> Iterator[tuple[Any, ...]]:
        """One row a sample, in the order of journal.TRACE_SCHEMA."""
        chosen, nothing = self.selection.samples, [None] * len(self.samples)
        lengths = [sample.response_length for sample in self.samples]
        kept_tokens = [int(part.sum()) for part in self.selection.tokens.split(lengths)]
        columns = (
            self.ppl or nothing,
            self.ent or nothing,
            chosen.quadrant.tolist(),
            chosen.kept.tolist(),
            chosen.supplement.tolist(),
        )
        for index, (sample, *decision, length, kept) in enumerate(
            zip(self.samples, *columns, lengths, kept_tokens, strict=True)
        ):
            weight = 1.0 if self.weights is None else self.weights[index]
            last = (weight if decision[3] else None, self.losses.get(index))
            yield (window.update, window.epoch, sample.number, *decision, length, kept, *last)


def pack_kept(
    samples: Sequence[Sample], keep: Sequence[Tensor], weights: Sequence[float] | None, removed: bool
) -> Packed | None:
    """What is trained of the samples, which may be none; keep: [|T_i|] bool a sample. removed: pruned tokens leave the
    sequence (A8)."""
    if not samples:
        return None
    if removed:
        samples = [without(*pair) for pair in zip(samples, keep, strict=True)]
        keep = [mask[mask] for mask in keep]
    return pack(samples, keep, weights)


def mean_logs(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the sample pruners logged, each number as its mean over the selections that have it."""
    found: dict[str, list[float]] = {}
    for log in logs:
        for key, value in log.items():
            found.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in found.items()}
