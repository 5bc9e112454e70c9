"""One optimizer update, from the scores to the optimizer's step, and the loop over the updates of a cell.

Before an epoch, sample pruners that draw by epoch draw which samples it holds. An update then works on a window of
`Training.batches` selection batches, consecutive in the order of the epoch, which the processes share.
`TrainingLoop.step` makes it:

    1. score every batch of the window without gradient, if the method needs scores (candidates.py, scoring/scores.py)
    2. select samples and tokens, batch by batch or all together (A9), and pack them (pruners/method.py, decision.py)
    3. count the kept tokens of the window over all processes: the one denominator
    4. forward and backward of the kept tokens; loss = sum of NLL / that count
    5. clip the gradient, step the optimizer

docs/method.md has the equations of steps 1 to 4 (Scores, Stage 1 and 2, Loss). Weights do not change inside a window,
so scoring before training is exact. If nothing is pruned, this is plain supervised fine-tuning, bit for bit. The other
schedules of scoring (docs/scoring.md) change step 1; `pool` also changes which samples an update trains.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.needs import SCORES, schedule_of
from qtuning.model.out_of_memory import telling
from qtuning.model.packed import PackedModel
from qtuning.model.transfer import to_host
from qtuning.pruners.base import Candidates, sample_budget
from qtuning.pruners.method import Method, Selection, concatenate, select_together
from qtuning.scoring.scores import NonFinite
from qtuning.train.candidates import CandidateSource, CellSamples, idle_batch, raise_first
from qtuning.train.cost import Cost, Stopwatch, shape_of, sum_costs
from qtuning.train.decision import Decision, Progress, Verdicts, agreement, mean_by_key, pack_kept
from qtuning.train.exchange import gather_objects, sum_over_processes
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.remembered import Remembered
from qtuning.train.reuse import Graphs, require_reusable
from qtuning.train.seeding import derived_seed, epoch_order, generator, seed_device
from qtuning.train.sharding import gather, is_sharded, keep_whole, reduce, whole
from qtuning.train.token_scores import draw_shown, encode
from qtuning.train.windows import Pooling, UpdateWindow, cut_epoch, learning_rate, share_out_rows


class TrainingLoop:
    """The updates of one cell on one process. `model` is what accelerate prepared (DDP, FSDP or plain).

    optimizer: None where decisions are asked for and nothing is trained (probes/planted_errors.py). masks: whether the
    trace has masks of tokens even if no token is pruned.
    """

    def __init__(
        self,
        cell: Cell,
        method: Method,
        train_set: CellSamples,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        masks: bool = False,
    ) -> None:
        assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
        self.training, self.seeds, self.pruning = cell.training, cell.seeds, cell.pruning
        # where tokens are pruned, a replay needs to know which (replay.py)
        self.samples, self._masks = train_set.samples, masks or self.pruning.token_ratio < 1
        self._shown = draw_shown(self.samples)
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.bare: PackedModel = accelerator.unwrap_model(model)
        if optimizer is not None:
            model.train()  # once: what scores puts every module back in the mode that it was in
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.cost, self.progress = Cost(), Progress()
        self._watch = Stopwatch(accelerator.device)
        self.method = replace(method, prune_tokens=self.cost.timed(method.prune_tokens))
        self._positions = {sample.number: position for position, sample in enumerate(self.samples)}
        self.shape = shape_of(self.bare.model, self.training.tuning == "lora", self.training.gradient_checkpointing)
        size, epochs, scoring = self.training.batch_size, self.training.epochs, self.pruning.scoring
        self.source = CandidateSource(
            train_set, accelerator, self.bare, self.cost, size, epochs, method.needs.layer, scoring
        )
        if "previous-scores" in method.needs.all:
            self.source.remembered = Remembered.nothing(len(self.samples), method.needs.by_epoch)
        # a schedule says how batches are scored; it has nothing to say of a method that scores none
        schedule = schedule_of(self.pruning)
        self._reuses, self._pools = schedule == "reuse-graph", schedule == "pool"
        self.pooling = Pooling.of(self.pruning, method.needs.by_epoch) if self._pools else Pooling()
        if self._reuses:
            require_reusable(self.bare, method.needs.batch, self.pruning.pruned_tokens)
        self._sharded = is_sharded(self.bare)
        if self._sharded and self._reuses:
            keep_whole(self.bare)

    def windows(self) -> Iterator[UpdateWindow]:
        """The updates still to be made, in order. Call `step` with each before asking for the next."""
        while self.progress.epoch < self.training.epochs:
            yield from self.windows_of_epoch()

    def windows_of_epoch(self) -> list[UpdateWindow]:
        """The updates still to be made in the current epoch. If it is new, its samples are drawn first."""
        progress = self.progress
        if progress.index == 0:
            self._draw_epoch()
        assert progress.drawn is not None
        # one order for every pruner at one data seed: each meets the samples it keeps in the same order
        order = epoch_order(self.seeds.data, progress.epoch, len(self.samples))
        order = order[torch.isin(order, progress.drawn)]
        first = progress.update - progress.index
        epoch = list(cut_epoch(order.tolist(), progress.epoch, self.training, first, self.pooling))
        return epoch[progress.index :]

    @property
    def expected_updates(self) -> int:
        """How many updates the cell will make, if every epoch holds what the budget says."""
        count = len(self.samples)
        if self.method.needs.by_epoch:
            count = sample_budget(self.pruning.sample_ratio, count, self.pruning.kept_samples)
        batches = math.ceil(count / self.training.batch_size)
        plain = math.ceil(batches / self.training.batches)
        return self.training.epochs * sum(self.pooling.updates(plain))

    def _draw_epoch(self) -> None:
        """Decide which samples the epoch holds: all, unless the method draws by epoch, or once for all epochs."""
        progress, remembered, started = self.progress, self.source.remembered, time.perf_counter()
        scoring, drawn, scores = self.pruning.scoring, progress.drawn is not None, None
        if drawn and not self.method.needs.once:
            return
        if scoring.schedule == "stale" and progress.epoch % scoring.epochs == 0:
            self.source.table = None
            self.source.table = self.source.whole_train_set(self.method.needs.all & SCORES, progress.epoch).scores
        if not drawn:
            candidates = self.source.whole_train_set(self.method.needs.epoch, progress.epoch)
            selection = self.method.select_epoch(candidates, generator(self.seeds.pruner, "epoch", progress.epoch))
            progress.drawn, progress.weights = selection.kept.nonzero().flatten(), selection.weights
            progress.log = selection.log
            if (scores := candidates.scores) is not None:
                progress.ppl, progress.ent = scores.ppl, scores.ent
        if remembered is not None and remembered.by_draw:
            scores = scores or self.source.whole_train_set(self.method.needs.all & SCORES, progress.epoch).scores
            assert scores is not None
            remembered.note_all(scores)
        self.cost.seconds_scoring += time.perf_counter() - started

    def step(self, window: UpdateWindow) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """One update. Returns its metrics (the same on every process) and the trace rows of all processes.

        A window of which nothing is kept (reading A10, `none`) makes no update. Raises NonFinite, before the update, if
        scores, loss or gradient norm are not finite.
        """
        assert self.optimizer is not None
        # by the update's place in its epoch: epochs may have different numbers of updates, not known in advance
        done, epochs = window.epoch * window.count + window.index, self.training.epochs
        rate = learning_rate(done, epochs * window.count, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # dropout draws from a stream of its own in every update and process, so that a resumed run repeats it
        seed = derived_seed(self.seeds.init, "dropout", window.update, self.accelerator.process_index)
        seed_device(seed, self.accelerator.device)

        # 1, 2: score, select, pack
        started = self._watch.mark()
        decided, failures = self.decide(window) if window.offset == 0 else ([], [])
        decisions = self._take_from_pool(window, decided, failures) if self._pools else decided
        # 3: count. A failure here reaches the other processes as NaN; else they would wait for this one for ever
        kept = math.nan if failures else float(sum(int(decision.verdicts.tokens.sum()) for decision in decisions))
        scored = self._watch.mark()
        everywhere = float(sum_over_processes(torch.tensor(kept, dtype=torch.float64)))
        if math.isnan(everywhere):
            raise_first(gather_objects(failures))
        total = int(everywhere)
        agreed = self._agreement(window, decisions)
        # 4, 5: train
        began = self._watch.mark()
        loss = self._train(decisions, total) if total else dict.fromkeys(("loss", "objective", "grad_norm"))
        trained = self._watch.mark()

        # account, trace, metrics, while a GPU may still be at the optimizer's step
        self._account(decisions, total)
        rows = [row for decision in decisions for row in decision.trace(window, self._masks, self._shown)]
        trace = gather_objects(rows)
        columns = dict(zip(TRACE_SCHEMA, zip(*trace, strict=True), strict=True))
        current = bool(SCORES & self.method.needs.batch) and not self.pruning.scoring.tabled
        self.source.note_update([self._positions[number] for number in columns["sample"]], columns, current)
        logs = [*gather_objects([decision.log for decision in decided]), self.progress.log]
        once = self.method.needs.once
        new_draw = window.index == 0 and not (once and window.epoch)
        left_out = self.progress.left_out(self.samples) if new_draw else []
        self.progress.advance(window, once)
        if self.progress.epoch > window.epoch:
            self.source.end_epoch()
        scoring, training = self._watch.seconds(started, scored), self._watch.seconds(began, trained)
        self.cost.seconds_scoring += scoring
        self.cost.seconds_training += training
        record = {
            "update": window.update,
            "epoch": window.epoch,
            "loss": loss["loss"],
            "objective": loss["objective"],
            "learning_rate": rate,
            "grad_norm": loss["grad_norm"],
            "samples": len(trace),
            "samples_kept": sum(columns["kept"]),
            "samples_asked": self._total(decision.asked_samples for decision in decided),
            "response_tokens": sum(columns["response_tokens"]),
            "tokens_kept": total,
            "tokens_asked": self._total(decision.asked_tokens for decision in decided),
            **{f"selection/{key}": value for key, value in mean_by_key(logs).items()},
            **{f"agreement/{key}": value for key, value in agreed.items()},
            "seconds_scoring": scoring,
            "seconds_training": training,
        }
        return record, trace + left_out

    def decide(self, window: UpdateWindow, exact: bool = False) -> tuple[list[Decision], list[UserError]]:
        """Score and prune the batches of this process. Returns one decision a batch, and what went wrong.

        A failure is not raised here, because the other processes must learn of it first. exact: decide by exact scores
        under the current weights, at no cost, whatever `scoring` says.
        """
        source = self.source.exact() if exact else self.source
        together, needs = self.pruning.selection == "global", self.method.needs.batch
        looked: list[tuple[Candidates, Graphs | None]] = []
        decisions: list[Decision] = []
        failures: list[UserError] = []
        try:
            if self._sharded and self._reuses:
                gather(self.bare)
            with source.scoring_together(len(window.batches), needs, self._reuses):
                for index, batch in self._own(window):
                    found = source.candidates(batch, needs, window.epoch, self._reuses and not exact)
                    looked.append(found)
                    if not together:  # decide at once: graphs of dropped samples are freed before the next batch
                        selection = self.method.select(found[0], self._rng(window, index))
                        decisions.append(self._decision(batch, selection, *found))
        except UserError as error:
            failures = [error]
        if together:  # every process takes part in the exchange, even after a failure of its own
            try:
                selections = self._select_together(window, [candidates for candidates, _ in looked], failures)
                for (_, batch), found, selection in zip(self._own(window), looked, selections, strict=True):
                    decisions.append(self._decision(batch, selection, *found))
            except UserError as error:
                failures = failures or [error]
        return decisions, failures

    def _select_together(
        self, window: UpdateWindow, own: Sequence[Candidates], failures: Sequence[UserError]
    ) -> list[Selection]:
        """One selection on the batches of all processes (reading A9, `global`); returns those of this process."""
        indices = [index for index, _ in self._own(window)]
        parts = gather_objects([*zip(indices, own, strict=False)])
        raise_first(gather_objects(failures))
        parts.sort(key=lambda part: part[0])
        # every process makes the same selection from the same random numbers, and takes its own part
        whole = select_together(self.method, [part for _, part in parts], self._rng(window, 0))
        return whole[self.accelerator.process_index :: self.accelerator.num_processes]

    def _decision(
        self, batch: Sequence[int], selection: Selection, candidates: Candidates, graphs: Graphs | None
    ) -> Decision:
        """Pack what the selection keeps of a batch, and note by which scores it was selected."""
        samples, chosen, progress = [self.samples[position] for position in batch], selection.samples, self.progress
        scores, weights = candidates.scores, chosen.weights
        ppl, ent = (None, None) if scores is None else (scores.ppl, scores.ent)
        if self.method.needs.by_epoch:  # the samples were selected before the epoch, here only tokens were
            drawn = torch.tensor(batch)
            weights = None if progress.weights is None else progress.weights[drawn]
            if scores is None and progress.ppl is not None and progress.ent is not None:
                ppl, ent = progress.ppl[drawn], progress.ent[drawn]
        weights = None if weights is None else weights.double()
        kept = pack_kept(samples, selection.tokens, weights, self.pruning.pruned_tokens == "remove")
        sizes = torch.zeros(len(samples), dtype=torch.int64)
        if kept is not None:
            sizes[torch.tensor(kept.rows)] = torch.tensor(kept.lengths)
        if graphs is not None:
            graphs.keep_only(() if kept is None else kept.rows)
        verdicts = Verdicts(
            role=chosen.role,
            quadrant=chosen.quadrant,
            supplement=chosen.supplement,
            tokens=selection.tokens,
            sizes=sizes,
            ppl=ppl,
            ent=ent,
            weights=weights,
            token_nll=None if scores is None else encode(scores.nll),
            token_entropy=None if scores is None else encode(scores.entropy),
        )
        asked = selection.asked_samples, selection.asked_tokens
        return Decision(samples, verdicts, kept, graphs, *asked, log=chosen.log)

    def _take_from_pool(
        self, window: UpdateWindow, decided: Sequence[Decision], failures: Sequence[UserError]
    ) -> list[Decision]:
        """The decisions that this process trains in this update of a pool (windows.py).

        The first update gathers the pool from what the processes decided, or raises their failures. It also returns the
        samples of its own batches that are never trained, so that the trace tells of each sample once.
        """
        pool = self.progress.pool
        if pool is None:
            raise_first(gather_objects(list(failures)))
            own = [(index, part.verdicts) for (index, _), part in zip(self._own(window), decided, strict=True)]
            parts = sorted(gather_objects(own), key=lambda part: part[0])
            pool = self.progress.pool = concatenate([part for _, part in parts])
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        groups = share_out_rows(pool.sizes.tolist(), window, self.training.batches)[rank::world]
        if window.offset == 0:
            groups.append([row for rows in self._own_rows(window) for row in rows if pool.sizes[row] == 0])
        return [self._from_pool(window, pool, rows) for rows in groups]

    def _from_pool(self, window: UpdateWindow, pool: Verdicts, rows: Sequence[int]) -> Decision:
        """Some samples of a pool as one batch."""
        everyone = [self.samples[position] for batch in window.batches for position in batch]
        samples, verdicts = [everyone[row] for row in rows], pool.of(rows, [s.response_length for s in everyone])
        removed = self.pruning.pruned_tokens == "remove"
        return Decision(samples, verdicts, pack_kept(samples, verdicts.tokens, verdicts.weights, removed))

    def _agreement(self, window: UpdateWindow, decisions: Sequence[Decision]) -> dict[str, float]:
        """How far approximate scores decide as exact ones, in updates where `scoring.compare_every` asks.

        A pool is compared before its last update, when its scores are oldest.
        """
        every = self.pruning.scoring.compare_every
        if every is None or not SCORES & self.method.needs.batch or not window.last:
            return {}
        if not any(update % every == 0 for update in range(window.first, window.update + 1)):
            return {}
        pool = self.progress.pool
        if pool is not None:
            decisions = [self._from_pool(window, pool, rows) for rows in self._own_rows(window)]
        spent = self.cost.seconds_token_selection
        exact, failures = self.decide(window, exact=True)
        self.cost.seconds_token_selection = spent
        raise_first(gather_objects(failures))
        pairs = zip(decisions, exact, strict=True)
        return mean_by_key(gather_objects([agreement(ours.verdicts, truth.verdicts) for ours, truth in pairs]))

    def _train(self, decisions: Sequence[Decision], total: int) -> dict[str, Any]:
        """Forward, backward and update on the kept tokens, `total` over all processes.

        Returns the mean NLL of the kept tokens, the objective (the same with the samples' weights), the gradient norm.
        """
        assert self.optimizer is not None
        world = self.accelerator.num_processes
        batches = [(decision, decision.kept) for decision in decisions if decision.kept is not None]
        idle = self._idle_backwards(len(batches))
        summed = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # with weights, and without
        losses: list[Tensor] = []  # [M] of each batch
        for index, (decision, kept) in enumerate(batches):
            last = index == len(batches) - 1 and not idle
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                size = f"{len(kept.rows)} samples, {kept.tokens:,} tokens"
                with telling("training", size, self._remedy):
                    packed, graphs = kept.to(self.accelerator.device), decision.graphs
                    with nullcontext() if graphs is None else self.accelerator.autocast():
                        # (weighted sum of the NLL of the kept tokens, [M] the NLL without a gradient)
                        loss, nll = self.model(packed) if graphs is None else graphs.loss(self.bare, packed)
                    plain = loss.detach() if decision.verdicts.weights is None else nll.sum()
                    summed += torch.stack([loss.detach(), plain]).double()
                    # the one division by the number of kept tokens; DDP averages over processes, `world` undoes that
                    self.accelerator.backward(loss * (world / total))
            losses.append(nll)
        for _ in range(idle):
            with reduce(self.bare) if self._sharded and self._reuses else nullcontext():
                # a gradient of exactly zero
                self.accelerator.backward(self.model(idle_batch(self.samples).to(self.accelerator.device))[0] * 0.0)
        limit = self.training.max_grad_norm
        # called without a limit, too, because it returns the norm
        clipped = whole(clip_grad_norm_(self._trainable, math.inf if limit is None else limit))
        # all numbers of the update in one copy, the only place where training waits for a GPU
        sums, gradient, *losses = to_host([summed, clipped, *losses])
        (objective, mean), norm = (sum_over_processes(sums) / total).tolist(), float(gradient)
        for (decision, kept), nll in zip(batches, losses, strict=True):
            for row, part in zip(kept.rows, nll.split(kept.counts), strict=True):
                decision.losses[row], decision.trained_nll[row] = float(part.double().mean()), part
        if not (math.isfinite(objective) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            numbers = [sample.number for decision in decisions for sample in decision.samples]
            raise NonFinite(f"loss {objective}, gradient norm {norm}; samples of the update: {gather_objects(numbers)}")
        with telling("training", "the optimizer's moments", self._remedy):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": mean, "objective": objective, "grad_norm": norm}

    @property
    def _remedy(self) -> str:
        """What needs less memory, and what is lost by it."""
        if not self.training.gradient_checkpointing:
            return "with activations recomputed (--recompute always) it takes less memory, for the same result"
        return "lower training.batch_size or training.cutoff, or take a larger GPU"

    def _idle_backwards(self, batches: int) -> int:
        """How many backwards without tokens this process makes, so that the gradients of all are summed.

        DDP sums in the last backward of each process, so each makes one. Backward through the graphs of scoring is none
        of DDP's or FSDP's, which see one more. FSDP sums in every backward, so all processes make as many.
        """
        if self._reuses and self.accelerator.num_processes > 1:
            return 1
        if self._sharded:
            return self.training.accumulation(self.accelerator.num_processes) - batches
        return int(batches == 0)

    def _account(self, decisions: Sequence[Decision], total: int) -> None:
        cost = self.cost
        cost.updates += total > 0
        cost.updates_skipped += total == 0
        for decision in decisions:
            decision.account(cost, self.shape)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(numbers, tensors) of the resume state, beside weights, optimizer and cost; the same on every process."""
        progress = self.progress
        numbers = {"epoch": progress.epoch, "index": progress.index, "draw": dict(progress.log)}
        return numbers, progress.tensors() | self.source.tensors()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. state: the numbers of `state()`, `update`, and `cost` of all processes."""
        self.progress = Progress.restored(state, tensors)
        self.source.restore(tensors)
        # after a restart on another number of processes, some carry the cost of several, or of none
        own = state["cost"][self.accelerator.process_index :: self.accelerator.num_processes]
        for key, value in (sum_costs(own) if own else {}).items():
            setattr(self.cost, key, value)

    def _own(self, window: UpdateWindow) -> list[tuple[int, tuple[int, ...]]]:
        """(index in the window, positions of the samples) of the batches of this process."""
        return list(enumerate(window.batches))[self.accelerator.process_index :: self.accelerator.num_processes]

    def _own_rows(self, window: UpdateWindow) -> list[range]:
        """For each batch of this process, where its samples lie among all samples of the window."""
        ends = list(accumulate(map(len, window.batches)))
        return [range(ends[index] - len(batch), ends[index]) for index, batch in self._own(window)]

    def _rng(self, window: UpdateWindow, index: int) -> torch.Generator:
        return generator(self.seeds.pruner, "batch", window.first, index)

    def _total(self, values: Iterator[int]) -> int:
        return int(sum_over_processes(torch.tensor(float(sum(values)), dtype=torch.float64)))
