"""What is known of samples before they are pruned: forwards without gradient, and what earlier updates left behind."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.schema import Scoring
from qtuning.model.flops import ModelShape
from qtuning.model.packed import PackedModel, half_weights
from qtuning.pruners.base import Candidates, Instructions
from qtuning.pruners.together import concatenate
from qtuning.scoring.scores import SCORES, BatchScores, NonFinite, Observation, observe
from qtuning.train.cost import Cost
from qtuning.train.reuse import Graphs, observe_with_graphs

Batch = TypeVar("Batch")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TrainSet:
    """The samples of a cell, and what is known of each beyond its tokens.

    instructions: of all samples, or None. reference: per sample, [|T_i|] token NLL under the reference model, or None.
    """

    samples: Sequence[Sample]
    instructions: Instructions | None = None
    reference: Sequence[Tensor] | None = None


def share_out(accelerator: Accelerator, batches: Sequence[Batch], work: Callable[[Batch], Result]) -> list[Result]:
    """`work` on every batch, shared by the processes; all results, in order, on each of them.

    A UserError of one process is raised on all, which would otherwise wait for that one for ever.
    """
    mine = range(accelerator.process_index, len(batches), accelerator.num_processes)
    done: list[tuple[int, Any]] = []
    try:
        done = [(index, work(batches[index])) for index in mine]
    except UserError as error:
        done = [(-1, error)]
    everyone = sorted(gather_object(done), key=lambda pair: pair[0])
    raise_first([result for _, result in everyone if isinstance(result, UserError)])
    return [result for _, result in everyone]


def raise_first(failures: Sequence[UserError]) -> None:
    """Raise what the processes met, if anything; a mistake of the user's goes before a training that diverged."""
    if not failures:
        return
    mistakes = [failure for failure in failures if not isinstance(failure, NonFinite)]
    raise (mistakes or [NonFinite("; ".join(map(str, failures)))])[0]


@dataclass
class Surveyor:
    """Makes the candidates that a pruner chooses from, and keeps account of what that cost.

    scoring: when and how precisely. losses: [n] float64, mean token NLL of each sample in the update it was last part
    of, under the weights of that time, NaN before. table: scores of the whole train set, where the schedule does not
    score each batch. Both are part of the resume state.
    """

    train_set: TrainSet
    accelerator: Accelerator
    model: PackedModel
    shape: ModelShape
    cost: Cost
    batch_size: int
    epochs: int
    layer: int | None
    scoring: Scoring = field(default_factory=Scoring)
    losses: Tensor = field(init=False)
    table: BatchScores | None = None
    _at_rest: bool = field(default=False, init=False)
    _half: Mapping[str, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.losses = torch.full((len(self.train_set.samples),), torch.nan, dtype=torch.float64)
        self._position = {sample.number: index for index, sample in enumerate(self.train_set.samples)}

    @contextmanager
    def weights_at_rest(self) -> Iterator[None]:
        """Within, the model does not learn, so that scoring in bfloat16 copies its weights once, and frees them after.

        The copies take 2 bytes a weight of the linear layers, while nothing is trained.
        """
        self._at_rest = True
        try:
            yield
        finally:
            self._at_rest, self._half = False, None

    def candidates(self, positions: Sequence[int], needs: Collection[str], epoch: int) -> Candidates:
        """The samples at `positions`, with what `needs` asks for. Raises NonFinite."""
        return self.look(positions, needs, epoch)[0]

    def look(
        self, positions: Sequence[int], needs: Collection[str], epoch: int, with_graphs: bool = False
    ) -> tuple[Candidates, Graphs | None]:
        """The same, and the graphs of the forward that scored them, if these are wanted."""
        samples = [self.train_set.samples[position] for position in positions]
        chosen = torch.tensor(positions)
        tabled = None if self.table is None else self.table.of(positions)
        observed, graphs = self._observe(samples, set(needs) - (SCORES if tabled else set()), with_graphs)
        texts, reference = self.train_set.instructions, self.train_set.reference
        if "instructions" in needs:
            assert texts is not None
            texts = Instructions(texts.characters[chosen], texts.entropy[chosen])
        candidates = Candidates(
            numbers=torch.tensor([sample.number for sample in samples]),
            lengths=torch.tensor([sample.response_length for sample in samples]),
            prompts=torch.tensor([sample.prompt for sample in samples]),
            scores=tabled or (None if observed is None else observed.scores),
            attention=None if observed is None else observed.attention,
            reference=torch.cat([reference[position] for position in positions]) if reference is not None else None,
            losses=self.losses[chosen] if "losses" in needs else None,
            instructions=texts if "instructions" in needs else None,
            epoch=epoch,
            epochs=self.epochs,
        )
        return candidates, graphs

    def whole_train_set(self, needs: Collection[str], epoch: int) -> Candidates:
        """All samples; the forwards they need are shared out over the processes."""
        count = len(self.train_set.samples)
        if not {"scores", "sequence-entropy", "attention"} & set(needs):
            return self.candidates(range(count), needs, epoch)
        starts = range(0, count, self.batch_size)
        batches = [range(start, min(start + self.batch_size, count)) for start in starts]
        with self.weights_at_rest():
            parts = share_out(self.accelerator, batches, lambda batch: self.candidates(batch, needs, epoch))
        return concatenate(parts)

    def refresh(self, needs: Collection[str], epoch: int) -> None:
        """Before an epoch: score the train set anew, if the schedule says so (`stale`)."""
        if self.scoring.schedule == "stale" and epoch % self.scoring.epochs == 0:
            self.table = None
            self.table = self.whole_train_set(set(needs) & SCORES, epoch).scores

    def fresh(self, positions: Sequence[int], needs: Collection[str], epoch: int) -> Candidates:
        """The same candidates by exact scores, at nobody's cost: to see what an approximation changes."""
        exact = replace(self, cost=Cost(), scoring=Scoring(), table=None)
        exact.losses = self.losses
        return exact.candidates(positions, needs, epoch)

    def tensors(self) -> dict[str, Tensor]:
        """The resume state. (Scores are float32 by origin.)"""
        found = {"pruner.losses": self.losses}
        if self.table is not None and self.scoring.schedule == "stale":
            found |= {"pruner.table_nll": self.table.nll.float(), "pruner.table_entropy": self.table.entropy.float()}
            if self.table.sequence_ent is not None:
                found["pruner.table_sequence_ent"] = self.table.sequence_ent
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.losses = tensors["pruner.losses"]
        if "pruner.table_nll" in tensors:
            lengths = torch.tensor([sample.response_length for sample in self.train_set.samples])
            nll, entropy = tensors["pruner.table_nll"].double(), tensors["pruner.table_entropy"].double()
            self.table = BatchScores(nll, entropy, lengths, tensors.get("pruner.table_sequence_ent"))

    def remember(self, number: int, loss: float) -> None:
        """What sample `number` lost in the update just made: its mean token NLL."""
        self.losses[self._position[number]] = loss

    def _observe(
        self, samples: Sequence[Sample], needs: Collection[str], with_graphs: bool
    ) -> tuple[Observation | None, Graphs | None]:
        if not {"scores", "sequence-entropy", "attention"} & set(needs):
            return None, None
        device, impl, graphs = self.accelerator.device, self.scoring.impl, None
        with self._precision():
            if with_graphs:
                observed, graphs = observe_with_graphs(self.model, samples, needs, device, impl)
            else:
                observed = observe(self.model, samples, needs, self.layer, device, self._weights(), impl)
        self.cost.samples_scored += len(samples)
        self.cost.tokens_scored += observed.packed.tokens
        self.cost.flops_scoring += self.shape.forward_flops(observed.packed, observed.depth)
        return observed, graphs

    def _weights(self) -> Mapping[str, Tensor] | None:
        """bfloat16 copies of the weights, where autocast would make some."""
        kind = self.accelerator.device.type
        half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        if not half:
            return None
        weights = self._half or half_weights(self.model)
        if self._at_rest:
            self._half = weights
        return weights

    def _precision(self) -> AbstractContextManager[Any]:
        if self.scoring.precision == "bfloat16":
            return torch.autocast(self.accelerator.device.type, torch.bfloat16)
        return self.accelerator.autocast()
