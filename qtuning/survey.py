"""What is known of samples before they are pruned: forwards without gradient, and what earlier updates left behind."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from qtuning.batch import Sample
from qtuning.cost import Cost, ModelShape
from qtuning.packed_model import PackedModel
from qtuning.pruners.base import Candidates, Instructions
from qtuning.pruners.together import concatenate
from qtuning.scores import NonFinite, Observation, observe


@dataclass(frozen=True)
class TrainSet:
    """The samples of a cell, and what is known of each beyond its tokens.

    instructions: of all samples, or None. reference: per sample, [|T_i|] token NLL under the reference model, or None.
    """

    samples: Sequence[Sample]
    instructions: Instructions | None = None
    reference: Sequence[Tensor] | None = None


@dataclass
class Surveyor:
    """Makes the candidates that a pruner chooses from, and keeps account of what that cost.

    losses: [n] float64, mean token NLL of each sample when it was last trained, NaN before; part of the resume state.
    """

    train_set: TrainSet
    accelerator: Accelerator
    model: PackedModel
    shape: ModelShape
    cost: Cost
    batch_size: int
    epochs: int
    layer: int | None
    losses: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.losses = torch.full((len(self.train_set.samples),), torch.nan, dtype=torch.float64)
        self._position = {sample.number: index for index, sample in enumerate(self.train_set.samples)}

    def candidates(self, positions: Sequence[int], needs: Collection[str], epoch: int) -> Candidates:
        """The samples at `positions`, with what `needs` asks for. Raises NonFinite."""
        samples = [self.train_set.samples[position] for position in positions]
        chosen = torch.tensor(positions)
        observed = self._observe(samples, needs)
        texts, reference = self.train_set.instructions, self.train_set.reference
        if "instructions" in needs:
            assert texts is not None
            texts = Instructions(texts.characters[chosen], texts.entropy[chosen])
        return Candidates(
            numbers=torch.tensor([sample.number for sample in samples]),
            lengths=torch.tensor([sample.response_length for sample in samples]),
            prompts=torch.tensor([sample.prompt for sample in samples]),
            scores=None if observed is None else observed.scores,
            attention=None if observed is None else observed.attention,
            reference=torch.cat([reference[position] for position in positions]) if reference is not None else None,
            losses=self.losses[chosen] if "losses" in needs else None,
            instructions=texts if "instructions" in needs else None,
            epoch=epoch,
            epochs=self.epochs,
        )

    def whole_train_set(self, needs: Collection[str], epoch: int) -> Candidates:
        """All samples; the forwards they need are shared out over the processes."""
        count = len(self.train_set.samples)
        if not {"scores", "sequence-entropy", "attention"} & set(needs):
            return self.candidates(range(count), needs, epoch)
        starts = range(0, count, self.batch_size)
        mine = starts[self.accelerator.process_index :: self.accelerator.num_processes]
        parts: list[tuple[int, Candidates | str]] = []
        try:
            for start in mine:
                positions = range(start, min(start + self.batch_size, count))
                parts.append((start, self.candidates(positions, needs, epoch)))
        except NonFinite as error:  # the other processes would wait for this one for ever
            parts.append((-1, str(error)))
        everyone = sorted(gather_object(parts), key=lambda part: part[0])
        failures = [part for _, part in everyone if isinstance(part, str)]
        if failures:
            raise NonFinite("; ".join(failures))
        return concatenate([part for _, part in everyone])

    def remember(self, number: int, loss: float) -> None:
        """The mean token NLL of sample `number` in the update just made."""
        self.losses[self._position[number]] = loss

    def _observe(self, samples: Sequence[Sample], needs: Collection[str]) -> Observation | None:
        if not {"scores", "sequence-entropy", "attention"} & set(needs):
            return None
        with self.accelerator.autocast():
            observed = observe(self.model, samples, needs, self.layer, self.accelerator.device)
        self.cost.samples_scored += len(samples)
        self.cost.tokens_scored += observed.packed.tokens
        self.cost.flops_scoring += self.shape.forward_flops(observed.packed, observed.depth)
        return observed
