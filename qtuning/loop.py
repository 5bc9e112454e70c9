"""The training loop of one cell: score, select, rebuild, train. One optimizer update at a time.

An update works on a window of `processes x accumulation` selection batches, consecutive in the order of the epoch:

    1. score every batch of the window without gradient (if the pruner needs scores)
    2. prune every batch                                   -> kept samples, kept tokens
    3. count the kept tokens of the whole window, over all processes: the one denominator of the loss
    4. forward and backward of what was kept; loss = sum of NLL / that count
    5. clip, update

Weights do not change inside a window, so scoring first is exact. With nothing pruned this is plain SFT, bit for bit.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from qtuning.batch import Packed, Sample, pack
from qtuning.config import Cell, Training
from qtuning.cost import Cost, ModelShape
from qtuning.journal import TRACE_SCHEMA
from qtuning.packed_model import PackedModel
from qtuning.pruners.base import Candidates
from qtuning.pruners.select import Method, Selection
from qtuning.scores import BatchScores, NonFinite, score
from qtuning.seeding import derived_seed, epoch_order, generator


@dataclass(frozen=True)
class Window:
    """The selection batches of one optimizer update, as positions in the train set. batches: of all processes."""

    update: int
    epoch: int
    batches: tuple[tuple[int, ...], ...]


def plan_windows(cell: Cell, method: Method, candidates: Candidates) -> list[Window]:
    """Every update of the cell in order. Epoch-level pruners draw here, before each epoch, what the epoch holds.

    At one data seed every pruner meets the samples it keeps in the same order.
    """
    assert cell.training is not None and cell.seeds is not None
    training, size = cell.training, cell.training.batch_size
    windows: list[Window] = []
    for epoch in range(training.epochs):
        drawn = method.select_epoch(candidates, generator(cell.seeds.pruner, "epoch", epoch))
        order = epoch_order(cell.seeds.data, epoch, len(candidates))
        order = order[torch.isin(order, drawn)]
        batches = [tuple(part.tolist()) for part in order.split(size)]
        span = training.processes * training.accumulation
        for start in range(0, len(batches), span):
            windows.append(Window(len(windows), epoch, tuple(batches[start : start + span])))
    return windows


def learning_rate(update: int, updates: int, training: Training) -> float:
    """Linear warm-up over the first `warmup` share of the updates, then the schedule, reaching 0 after the last."""
    warm = round(training.warmup * updates)
    if update < warm:
        return training.learning_rate * (update + 1) / warm
    progress = (update - warm) / max(1, updates - warm)
    factor = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[training.schedule]
    return training.learning_rate * factor


@dataclass(frozen=True)
class Decision:
    """One pruned batch: its samples, what was scored (None if nothing was), what was selected, what is trained."""

    samples: Sequence[Sample]
    scored: Packed | None
    scores: BatchScores | None
    selection: Selection
    kept: Packed | None

    def trace(self, window: Window) -> Iterator[tuple[Any, ...]]:
        """One row a sample, in the order of journal.TRACE_SCHEMA."""
        chosen, nothing = self.selection.samples, [None] * len(self.samples)
        ppl = nothing if self.scores is None else self.scores.ppl.tolist()
        ent = nothing if self.scores is None else self.scores.ent.tolist()
        lengths = [sample.response_length for sample in self.samples]
        kept_tokens = [int(part.sum()) for part in self.selection.tokens.split(lengths)]
        columns = (ppl, ent, chosen.quadrant.tolist(), chosen.kept.tolist(), chosen.supplement.tolist())
        for sample, *decision, length, kept in zip(self.samples, *columns, lengths, kept_tokens, strict=True):
            yield (window.update, window.epoch, sample.number, *decision, length, kept)


class Loop:
    """Runs the updates of one cell on one process. `model` is what accelerate prepared (DDP or plain)."""

    def __init__(
        self,
        cell: Cell,
        method: Method,
        samples: Sequence[Sample],
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        shape: ModelShape,
        updates: int,
    ) -> None:
        assert cell.training is not None and cell.seeds is not None
        self.training, self.seeds = cell.training, cell.seeds
        self.method, self.samples = method, samples
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.bare: PackedModel = accelerator.unwrap_model(model)
        self.shape, self.updates = shape, updates
        self.cost = Cost()

    def step(self, window: Window) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """One update. Returns its metrics (the same on every process) and the trace rows of all processes.

        Raises NonFinite, before the update, if scores, loss or gradient norm are not finite.
        """
        world = self.accelerator.num_processes
        mine = window.batches[self.accelerator.process_index :: world]
        rate = learning_rate(window.update, self.updates, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # dropout, where there is any: a stream of its own for every update and process
        torch.manual_seed(derived_seed(self.seeds.init, "dropout", window.update, self.accelerator.process_index))

        started = time.perf_counter()
        failures: list[str] = []
        try:
            decisions = [self._decide(window, index, batch) for index, batch in enumerate(mine)]
            kept_tokens = float(sum(int(decision.selection.tokens.sum()) for decision in decisions))
        except NonFinite as error:
            # NaN in the sum tells the other processes, which would wait for this one for ever
            decisions, kept_tokens, failures = [], math.nan, [str(error)]
        scored = time.perf_counter()
        everywhere = float(self._sum(torch.tensor(kept_tokens, dtype=torch.float64)))
        if math.isnan(everywhere):
            raise NonFinite("; ".join(gather_object(failures)))
        total = int(everywhere)
        loss = self._train(decisions, total)
        trained = time.perf_counter()

        self._account(decisions, scored - started, trained - scored)
        trace = gather_object([row for decision in decisions for row in decision.trace(window)])
        columns = dict(zip(TRACE_SCHEMA, zip(*trace, strict=True), strict=True))
        logs = gather_object([dict(decision.selection.samples.log) for decision in decisions])
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

    def _decide(self, window: Window, index: int, batch: Sequence[int]) -> Decision:
        """Score and prune one selection batch (reading A9, D: the per-device batch)."""
        samples = [self.samples[position] for position in batch]
        scored, scores = None, None
        if self.method.needs_scores:
            scored = pack(samples)
            assert scored is not None, "a sample without response never gets past preparation"
            with self.accelerator.autocast():
                scores = score(self.bare, samples, scored.to(self.accelerator.device))
        candidates = Candidates(
            torch.tensor([sample.number for sample in samples]),
            torch.tensor([sample.response_length for sample in samples]),
            scores,
        )
        place = index * self.accelerator.num_processes + self.accelerator.process_index
        rng = generator(self.seeds.pruner, "batch", window.update, place)
        selection = self.method.select(candidates, rng)
        kept = pack(samples, selection.tokens.split(candidates.lengths.tolist()))
        return Decision(samples, scored, scores, selection, kept)

    def _train(self, decisions: Sequence[Decision], total: int) -> dict[str, float]:
        """Forward, backward and update on what was kept; returns the loss and the gradient norm."""
        world = self.accelerator.num_processes
        batches = [decision.kept for decision in decisions if decision.kept is not None]
        self.model.train()
        summed = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for index, packed in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(packed.to(self.accelerator.device))
                summed += loss.detach().double()
                # DDP averages over processes; the factor makes it the sum again
                self.accelerator.backward(loss * (world / total))
        if not batches:
            # a process without tokens must still take part in the synchronisation, with a gradient of exactly zero
            self.accelerator.backward(self.model(self._idle().to(self.accelerator.device)) * 0.0)
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

    def _account(self, decisions: Sequence[Decision], scoring: float, training: float) -> None:
        cost = self.cost
        cost.updates += 1
        for decision in decisions:
            cost.response_tokens += sum(sample.response_length for sample in decision.samples)
            cost.samples_kept += int(decision.selection.samples.kept.sum())
            cost.tokens_kept += int(decision.selection.tokens.sum())
            if decision.scored is not None:
                cost.samples_scored += len(decision.samples)
                cost.tokens_scored += decision.scored.tokens
                cost.flops_scoring += self.shape.forward_flops(decision.scored)
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
