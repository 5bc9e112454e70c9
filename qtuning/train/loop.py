"""The training loop of one cell: score, select, rebuild, train. One optimizer update at a time.

Before an epoch, sample pruners that draw by epoch draw what it holds. An update works on a window of `processes x
accumulation` selection batches, consecutive in the order of the epoch:

    1. score every batch of the window without gradient (if the pruner needs scores)
    2. prune every batch, or all together (A9, `global`)   -> kept samples, kept tokens
    3. count the kept tokens of the whole window, over all processes: the one denominator of the loss
    4. forward and backward of what was kept; loss = sum of NLL / that count
    5. clip, update

Weights do not change inside a window, so scoring first is exact. With nothing pruned this is plain SFT, bit for bit.
Other schedules of scoring (docs/scoring.md) change 1 (decider.py), `pool` what an update is made of, too (pool.py).
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.experiment.schema import Cell
from qtuning.model.batch import Packed, pack
from qtuning.model.flops import ModelShape, Positions
from qtuning.model.packed import PackedModel
from qtuning.pruners.base import sample_budget
from qtuning.pruners.method import Method
from qtuning.scoring.scores import NonFinite
from qtuning.train.cost import Cost
from qtuning.train.decider import Decider
from qtuning.train.decision import Decision, Place, mean_logs
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.reuse import Graphs
from qtuning.train.schedule import Window, rate_of, windows_of_epoch
from qtuning.train.seeding import derived_seed, generator
from qtuning.train.survey import Surveyor, TrainSet, raise_first


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
        size, epochs, scoring = self.training.batch_size, self.training.epochs, self.pruning.scoring
        self.surveyor = Surveyor(train_set, accelerator, bare, shape, self.cost, size, epochs, method.layer, scoring)
        self.decider = Decider(self.pruning, self.seeds, method, self.samples, accelerator, self.surveyor)

    def windows(self) -> Iterator[Window]:
        """Every update from `place` on, in order; before each epoch it is drawn what the epoch holds."""
        while self.place.epoch < self.training.epochs:
            if self.place.drawn is None:
                self._draw()
            place = self.place
            assert place.drawn is not None
            first, count, seed = place.update - place.index, len(self.samples), self.seeds.data
            pooling = self.decider.pooling
            epoch = list(windows_of_epoch(place.epoch, place.drawn, count, self.training, seed, first, pooling))
            yield from epoch[place.index :]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(numbers, tensors) of the resume state, beside weights, optimizer and cost; the same on every process."""
        place = self.place
        numbers = {"epoch": place.epoch, "index": place.index, "draw": dict(place.log)}
        return numbers, place.tensors() | self.surveyor.tensors()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: what `state` gave, the update, and the costs of all processes."""
        self.place = Place.restored(state, tensors)
        self.surveyor.restore(tensors)
        for key, value in state["cost"][self.accelerator.process_index].items():
            setattr(self.cost, key, value)

    @property
    def expected_updates(self) -> int:
        """How many updates the cell will make, if every epoch holds what the budget says."""
        count = len(self.samples)
        if self.method.by_epoch:
            count = sample_budget(self.pruning.sample_ratio, count)
        batches = math.ceil(count / self.training.batch_size)
        plain = math.ceil(batches / (self.training.processes * self.training.accumulation))
        return self.training.epochs * sum(self.decider.pooling.updates(plain))

    def _draw(self) -> None:
        place, started = self.place, time.perf_counter()
        self.surveyor.refresh(self.method.epoch_needs | self.method.batch_needs, place.epoch)
        candidates = self.surveyor.whole_train_set(self.method.epoch_needs, place.epoch)
        selection = self.method.select_epoch(candidates, generator(self.seeds.pruner, "epoch", place.epoch))
        place.drawn, place.weights = selection.kept.nonzero().flatten(), selection.weights
        place.log = selection.log
        if candidates.scores is not None:
            place.ppl, place.ent = candidates.scores.ppl, candidates.scores.ent
        self.cost.seconds_scoring += time.perf_counter() - started

    def step(self, window: Window) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """One update. Returns its metrics (the same on every process) and the trace rows of all processes.

        A window of which nothing is kept (A10, `none`) makes no update. Raises NonFinite, before the update, if scores,
        loss or gradient norm are not finite.
        """
        rate = rate_of(window, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        # dropout, where there is any: a stream of its own for every update and process
        torch.manual_seed(derived_seed(self.seeds.init, "dropout", window.update, self.accelerator.process_index))

        started = time.perf_counter()
        decided, failures = self.decider.decide(window, self.place) if window.offset == 0 else ([], [])
        decisions = decided
        if self.decider.pooled:
            pool = self.place.pool = self.place.pool or self.decider.pool(window, decided, failures)
            decisions = self.decider.share(window, pool, self.training.accumulation)
        # NaN in the sum tells the other processes, which would wait for this one for ever
        kept_tokens = math.nan if failures else float(sum(int(d.selection.tokens.sum()) for d in decisions))
        scored = time.perf_counter()
        everywhere = float(self._sum(torch.tensor(kept_tokens, dtype=torch.float64)))
        if math.isnan(everywhere):
            raise_first(gather_object(failures))
        total = int(everywhere)
        agreed = self.decider.agreement(window, decisions, self.place)
        began = time.perf_counter()
        loss = self._train(decisions, total) if total else dict.fromkeys(("loss", "objective", "grad_norm"))
        trained = time.perf_counter()

        self._account(decisions, total, scored - started, trained - began)
        trace = gather_object([row for decision in decisions for row in decision.trace(window)])
        columns = dict(zip(TRACE_SCHEMA, zip(*trace, strict=True), strict=True))
        self._remember(columns)
        logs = [*gather_object([decision.selection.samples.log for decision in decided]), self.place.log]
        dropped = list(self.place.dropped(self.samples)) if window.index == 0 else []
        self.place.advance(window)
        record = {
            "update": window.update,
            "epoch": window.epoch,
            "loss": loss["loss"],
            "objective": loss["objective"],
            "learning_rate": rate,
            "grad_norm": loss["grad_norm"],
            "samples": len(trace),
            "samples_kept": sum(columns["kept"]),
            "samples_asked": self._total(d.selection.asked_samples for d in decided),
            "response_tokens": sum(columns["response_tokens"]),
            "tokens_kept": total,
            "tokens_asked": self._total(d.selection.asked_tokens for d in decided),
            **{f"selection/{key}": value for key, value in mean_logs(logs).items()},
            **{f"agreement/{key}": value for key, value in agreed.items()},
            "seconds_scoring": scored - started,
            "seconds_training": trained - began,
        }
        return record, trace + dropped

    def _remember(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Each sample's loss in this update: of its whole response where these weights scored it, else of what was
        trained."""
        for number, ppl, loss in zip(columns["sample"], columns["ppl"], columns["loss"], strict=True):
            if ppl is not None and self.decider.scores_are_current:
                self.surveyor.remember(number, math.log(ppl))
            elif loss is not None:
                self.surveyor.remember(number, loss)

    def _train(self, decisions: Sequence[Decision], total: int) -> dict[str, Any]:
        """Forward, backward and update on what was kept.

        Returns the mean NLL of the kept tokens, the objective (the same with the samples' weights), the gradient norm.
        """
        world = self.accelerator.num_processes
        pieces = [(d, d.kept) for d in decisions if d.kept is not None]
        summed = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # weighted, and not
        for index, (decision, piece) in enumerate(pieces):
            last = index == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, nll = self._loss(piece.to(self.accelerator.device), decision.graphs)
                plain = loss.detach() if decision.weights is None else nll.sum()
                summed += torch.stack([loss.detach(), plain]).double()
                # DDP averages over processes; the factor makes it the sum again
                self.accelerator.backward(loss * (world / total))
            for row, part in zip(piece.rows, nll.cpu().split(piece.counts), strict=True):
                decision.losses[row] = float(part.double().mean())
        if not pieces:
            # a process without tokens must still take part in the synchronisation, with a gradient of exactly zero
            self.accelerator.backward(self.model(self._idle().to(self.accelerator.device))[0] * 0.0)
        objective, mean = (self._sum(summed) / total).tolist()
        limit = self.training.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)
        norm = float(norm)
        if not (math.isfinite(objective) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            numbers = [sample.number for decision in decisions for sample in decision.samples]
            raise NonFinite(f"loss {objective}, gradient norm {norm}; samples of the update: {gather_object(numbers)}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": mean, "objective": objective, "grad_norm": norm}

    def _loss(self, packed: Packed, graphs: Graphs | None) -> tuple[Tensor, Tensor]:
        if graphs is None:
            return self.model(packed)  # type: ignore[no-any-return]
        with self.accelerator.autocast():
            return graphs.loss(self.bare, packed)

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
            kept, graphs = decision.kept, decision.graphs
            if kept is not None and graphs is None:
                cost.tokens_forwarded += kept.tokens
                cost.flops_training += self.shape.training_flops(kept)
            elif kept is not None and graphs is not None:  # forwarded once, and accounted for as scoring
                cost.flops_training += self.shape.backward_flops(Positions.of(graphs.lengths, kept.targets))
        cost.seconds_scoring += scoring
        cost.seconds_training += training

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over processes."""
        if self.accelerator.num_processes == 1:
            return value
        return self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")  # type: ignore[return-value]

    def _total(self, values: Iterator[int]) -> int:
        return int(self._sum(torch.tensor(float(sum(values)), dtype=torch.float64)))
