"""The training loop of one cell: score, select, rebuild, train. One optimizer update at a time.

Before an epoch, sample pruners that draw by epoch draw what it holds. An update works on a window of `processes x
accumulation` selection batches, consecutive in the order of the epoch:

    1. score every batch of the window without gradient (if the pruner needs scores)
    2. prune every batch, or all together (A9, `global`)   -> kept samples, kept tokens
    3. count the kept tokens of the whole window, over all processes: the one denominator of the loss
    4. forward and backward of what was kept; loss = sum of NLL / that count
    5. clip, update

Weights do not change inside a window, so scoring first is exact. With nothing pruned this is plain SFT, bit for bit.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from qtuning.batch import Packed, Sample, pack, without
from qtuning.config import Cell
from qtuning.cost import Cost, ModelShape
from qtuning.journal import TRACE_SCHEMA
from qtuning.packed_model import PackedModel
from qtuning.pruners.base import Candidates, sample_budget
from qtuning.pruners.select import Method, Selection
from qtuning.pruners.together import select_together
from qtuning.schedule import Window, rate_of, windows_of_epoch
from qtuning.scores import NonFinite
from qtuning.seeding import derived_seed, generator
from qtuning.survey import Surveyor, TrainSet


@dataclass
class Place:
    """Where training is: the next update, and what the current epoch holds.

    drawn: positions of the samples of the epoch, ascending; None before an epoch is drawn. weights: [n] factors of
    all samples' losses in this epoch, or None for 1.
    """

    update: int = 0
    epoch: int = 0
    index: int = 0
    drawn: Tensor | None = None
    weights: Tensor | None = None

    def advance(self, window: Window) -> None:
        """The update of `window` is made."""
        self.update, self.index = window.update + 1, window.index + 1
        if self.index == window.count:
            self.epoch, self.index, self.drawn, self.weights = self.epoch + 1, 0, None, None


@dataclass(frozen=True)
class Decision:
    """One pruned batch: its samples, what was known of them, what was selected, what is trained.

    weights: factors of the samples' losses, None for 1. losses: filled in training, mean token NLL by sample.
    """

    samples: Sequence[Sample]
    candidates: Candidates
    selection: Selection
    weights: Sequence[float] | None
    kept: Packed | None
    losses: dict[int, float] = field(default_factory=dict)

    def trace(self, window: Window) -> Iterator[tuple[Any, ...]]:
        """One row a sample, in the order of journal.TRACE_SCHEMA."""
        chosen, scores, nothing = self.selection.samples, self.candidates.scores, [None] * len(self.samples)
        ppl = nothing if scores is None else scores.ppl.tolist()
        ent = nothing if scores is None else scores.ent.tolist()
        lengths = [sample.response_length for sample in self.samples]
        kept_tokens = [int(part.sum()) for part in self.selection.tokens.split(lengths)]
        columns = (ppl, ent, chosen.quadrant.tolist(), chosen.kept.tolist(), chosen.supplement.tolist())
        for index, (sample, *decision, length, kept) in enumerate(
            zip(self.samples, *columns, lengths, kept_tokens, strict=True)
        ):
            weight = 1.0 if self.weights is None else self.weights[index]
            last = (weight if decision[3] else None, self.losses.get(index))
            yield (window.update, window.epoch, sample.number, *decision, length, kept, *last)


class Loop:
    """Runs the updates of one cell on one process. `model` is what accelerate prepared (DDP or plain)."""

    def __init__(
        self,
        cell: Cell,
        method: Method,
        train_set: TrainSet,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        shape: ModelShape,
    ) -> None:
        assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
        self.training, self.seeds, self.pruning = cell.training, cell.seeds, cell.pruning
        self.method, self.samples = method, train_set.samples
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        bare: PackedModel = accelerator.unwrap_model(model)
        self.bare, self.shape = bare, shape
        self.cost, self.place = Cost(), Place()
        training = self.training
        self.surveyor = Surveyor(
            train_set, accelerator, bare, shape, self.cost, training.batch_size, training.epochs, method.layer
        )

    def windows(self) -> Iterator[Window]:
        """Every update from `place` on, in order; before each epoch it is drawn what the epoch holds."""
        while self.place.epoch < self.training.epochs:
            if self.place.drawn is None:
                self._draw()
            place = self.place
            assert place.drawn is not None
            first = place.update - place.index
            epoch = list(
                windows_of_epoch(place.epoch, place.drawn, len(self.samples), self.training, self.seeds.data, first)
            )
            yield from epoch[place.index :]

    def state(self) -> tuple[dict[str, int], dict[str, Tensor]]:
        """(numbers, tensors) of the resume state, beside weights, optimizer and cost; the same on every process."""
        place, tensors = self.place, {"pruner.losses": self.surveyor.losses}
        if place.drawn is not None:
            tensors["pruner.drawn"] = place.drawn
        if place.weights is not None:
            tensors["pruner.weights"] = place.weights
        return {"epoch": place.epoch, "index": place.index}, tensors

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what `state` gave, the update, and the costs of all processes."""
        drawn, weights = tensors.get("pruner.drawn"), tensors.get("pruner.weights")
        self.place = Place(int(state["update"]), int(state["epoch"]), int(state["index"]), drawn, weights)
        self.surveyor.losses = tensors["pruner.losses"]
        for key, value in state["cost"][self.accelerator.process_index].items():
            setattr(self.cost, key, value)

    @property
    def expected_updates(self) -> int:
        """How many updates the cell will make, if every epoch holds what the budget says."""
        count = len(self.samples)
        if self.method.by_epoch:
            count = sample_budget(self.pruning.sample_ratio, count)
        batches = math.ceil(count / self.training.batch_size)
        return self.training.epochs * math.ceil(batches / (self.training.processes * self.training.accumulation))

    def _draw(self) -> None:
        epoch, started = self.place.epoch, time.perf_counter()
        candidates = self.surveyor.whole_train_set(self.method.epoch_needs, epoch)
        selection = self.method.select_epoch(candidates, generator(self.seeds.pruner, "epoch", epoch))
        self.place.drawn, self.place.weights = selection.kept.nonzero().flatten(), selection.weights
        self.cost.seconds_scoring += time.perf_counter() - started

    def step(self, window: Window) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """One update. Returns its metrics (the same on every process) and the trace rows of all processes.

        A window of which nothing is kept (A10, `none`) makes no update. Raises NonFinite, before the update, if scores,
        loss or gradient norm are not finite.
        """
        world = self.accelerator.num_processes
        mine = window.batches[self.accelerator.process_index :: world]
        rate = rate_of(window, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # dropout, where there is any: a stream of its own for every update and process
        torch.manual_seed(derived_seed(self.seeds.init, "dropout", window.update, self.accelerator.process_index))

        started = time.perf_counter()
        failures: list[str] = []
        candidates: list[Candidates] = []
        try:
            candidates = [self.surveyor.candidates(batch, self.method.batch_needs, window.epoch) for batch in mine]
        except NonFinite as error:
            failures = [str(error)]
        selections = self._select(window, candidates, failures)
        decisions = [
            self._decision(batch, known, selection)
            for batch, known, selection in zip(mine, candidates, selections, strict=False)
        ]
        # NaN in the sum tells the other processes, which would wait for this one for ever
        kept_tokens = math.nan if failures else float(sum(int(d.selection.tokens.sum()) for d in decisions))
        scored = time.perf_counter()
        everywhere = float(self._sum(torch.tensor(kept_tokens, dtype=torch.float64)))
        if math.isnan(everywhere):
            raise NonFinite("; ".join(gather_object(failures)))
        total = int(everywhere)
        loss = self._train(decisions, total) if total else {"loss": None, "grad_norm": None}
        trained = time.perf_counter()

        self._account(decisions, total, scored - started, trained - scored)
        trace = gather_object([row for decision in decisions for row in decision.trace(window)])
        columns = dict(zip(TRACE_SCHEMA, zip(*trace, strict=True), strict=True))
        for number, mean in zip(columns["sample"], columns["loss"], strict=True):
            if mean is not None:
                self.surveyor.remember(number, mean)
        logs = gather_object([dict(decision.selection.samples.log) for decision in decisions])
        self.place.advance(window)
        record = {
            "update": window.update,
            "epoch": window.epoch,
            "loss": loss["loss"],
            "learning_rate": rate,
            "grad_norm": loss["grad_norm"],
            "samples": len(trace),
            "samples_kept": sum(columns["kept"]),
            "samples_asked": self._total(d.selection.asked_samples for d in decisions),
            "response_tokens": sum(columns["response_tokens"]),
            "tokens_kept": total,
            "tokens_asked": self._total(d.selection.asked_tokens for d in decisions),
            **{f"selection/{key}": sum(log[key] for log in logs) / len(logs) for key in (logs[0] if logs else {})},
            "seconds_scoring": scored - started,
            "seconds_training": trained - scored,
        }
        return record, trace

    def _select(self, window: Window, candidates: Sequence[Candidates], failures: Sequence[str]) -> list[Selection]:
        """One decision a batch of this process (reading A9); none where a process of the selection has failed."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        places = range(rank, len(window.batches), world)
        if self.pruning.selection == "device":
            rngs = [generator(self.seeds.pruner, "batch", window.update, place) for place in places]
            return [self.method.select(*pair) for pair in zip(candidates, rngs, strict=False)]
        parts = gather_object([*zip(places, candidates, strict=False)] + [(-1, failure) for failure in failures])
        parts.sort(key=lambda part: part[0])
        if parts[0][0] < 0:
            return []
        rng = generator(self.seeds.pruner, "batch", window.update, 0)
        return select_together(self.method, [part for _, part in parts], rng)[rank::world]

    def _decision(self, batch: Sequence[int], candidates: Candidates, selection: Selection) -> Decision:
        samples = [self.samples[position] for position in batch]
        keep = list(selection.tokens.split(candidates.lengths.tolist()))
        factors = selection.samples.weights
        if self.method.by_epoch and self.place.weights is not None:
            factors = self.place.weights[torch.tensor(batch)]
        weights = None if factors is None else factors.tolist()
        trained: Sequence[Sample] = samples
        if self.pruning.pruned_tokens == "remove":
            trained = [without(*pair) for pair in zip(samples, keep, strict=True)]
            keep = [torch.ones(sample.response_length, dtype=torch.bool) for sample in trained]
        return Decision(samples, candidates, selection, weights, pack(trained, keep, weights))

    def _train(self, decisions: Sequence[Decision], total: int) -> dict[str, Any]:
        """Forward, backward and update on what was kept; returns the loss and the gradient norm."""
        world = self.accelerator.num_processes
        batches = [decision for decision in decisions if decision.kept is not None]
        self.model.train()
        summed = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for index, decision in enumerate(batches):
            packed = decision.kept
            assert packed is not None
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, nll = self.model(packed.to(self.accelerator.device))
                summed += loss.detach().double()
                # DDP averages over processes; the factor makes it the sum again
                self.accelerator.backward(loss * (world / total))
            for row, part in zip(packed.rows, nll.cpu().split(packed.counts), strict=True):
                decision.losses[row] = float(part.double().mean())
        if not batches:
            # a process without tokens must still take part in the synchronisation, with a gradient of exactly zero
            self.accelerator.backward(self.model(self._idle().to(self.accelerator.device))[0] * 0.0)
        mean = float(self._sum(summed)) / total
        limit = self.training.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)
        norm = float(norm)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            numbers = [sample.number for decision in decisions for sample in decision.samples]
            raise NonFinite(f"loss {mean}, gradient norm {norm}; samples of the update: {gather_object(numbers)}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": mean, "grad_norm": norm}

    def _idle(self) -> Packed:
        """One token of any sample, with weight zero."""
        sample = self.samples[0]
        packed = pack([Sample(sample.number, sample.tokens[: sample.prompt + 1], sample.prompt)], weights=[0.0])
        assert packed is not None
        return packed

    def _account(self, decisions: Sequence[Decision], total: int, scoring: float, training: float) -> None:
        cost = self.cost
        cost.updates += total > 0
        cost.updates_skipped += total == 0
        for decision in decisions:
            cost.response_tokens += sum(sample.response_length for sample in decision.samples)
            cost.samples_kept += int(decision.selection.samples.kept.sum())
            cost.tokens_kept += int(decision.selection.tokens.sum())
            if decision.kept is not None:
                cost.tokens_forwarded += decision.kept.tokens
                cost.flops_training += self.shape.training_flops(decision.kept)
        cost.seconds_scoring += scoring
        cost.seconds_training += training

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over processes."""
        if self.accelerator.num_processes == 1:
            return value
        return self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")  # type: ignore[return-value]

    def _total(self, values: Iterator[int]) -> int:
        return int(self._sum(torch.tensor(float(sum(values)), dtype=torch.float64)))
