"""The decisions of an update: its batches are scored as the schedule says, pruned, and what is kept is packed."""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.schema import Pruning, Seeds
from qtuning.pruners.base import Candidates, SampleSelection
from qtuning.pruners.method import Method, Selection
from qtuning.pruners.together import select_together
from qtuning.scoring.scores import SCORES
from qtuning.train.agreement import agreement
from qtuning.train.decision import Decision, Place, mean_logs, pack_kept
from qtuning.train.pool import Pool, sizes_of
from qtuning.train.pooling import Pooling
from qtuning.train.reuse import Graphs, require_reusable
from qtuning.train.schedule import Window
from qtuning.train.seeding import generator
from qtuning.train.survey import Surveyor, raise_first


class Decider:
    """Decides for one process, which owns every `processes`-th batch of a window."""

    def __init__(
        self,
        pruning: Pruning,
        seeds: Seeds,
        method: Method,
        samples: Sequence[Sample],
        accelerator: Accelerator,
        surveyor: Surveyor,
    ) -> None:
        self._pruning, self._seeds, self.method, self._samples = pruning, seeds, method, samples
        self._accelerator, self._surveyor = accelerator, surveyor
        schedule = pruning.scoring.schedule if SCORES & method.batch_needs else "fresh"
        self._reused, self.pooled = schedule == "reuse-graph", schedule == "pool"
        if self._reused:
            processes = accelerator.num_processes
            require_reusable(surveyor.model, method.batch_needs, pruning.pruned_tokens, processes)

    @property
    def pooling(self) -> Pooling:
        """How many updates share their batches, and the share of these batches' samples that is kept."""
        return Pooling.of(self._pruning, self.method.by_epoch) if self.pooled else Pooling()

    @property
    def scores_are_current(self) -> bool:
        """Whether what decisions tell of PPL comes from the weights that the update (or its pool) began with, and not
        from an epoch's start, an earlier epoch or another model."""
        return bool(SCORES & self.method.batch_needs) and not self._pruning.scoring.tabled

    def decide(self, window: Window, place: Place, fresh: bool = False) -> tuple[list[Decision], list[UserError]]:
        """One decision a batch of this process (reading A9); or what went wrong, which another process must know of.

        fresh: by exact scores, at nobody's cost. Where all select together, a failure of one is met by all.
        """
        together = self._pruning.selection == "global"
        failures: list[UserError] = []
        found: list[tuple[Candidates, Graphs | None]] = []
        decisions: list[Decision] = []
        try:
            with self._surveyor.weights_at_rest():
                for index, batch in self._own(window):
                    found.append(self._look(batch, window, fresh))
                    if not together:  # at once, so that graphs that are not needed are freed before the next batch
                        selection = self.method.select(found[-1][0], self._rng(window, index))
                        decisions.append(self._decision(batch, *found[-1], selection, place))
        except UserError as error:
            failures = [error]
        if together:
            try:
                selections = self._together(window, [candidates for candidates, _ in found], failures)
                for (_, batch), looked, selection in zip(self._own(window), found, selections, strict=True):
                    decisions.append(self._decision(batch, *looked, selection, place))
            except UserError as error:
                failures = failures or [error]
        return decisions, failures

    def pool(self, window: Window, decided: Sequence[Decision], failures: Sequence[UserError]) -> Pool:
        """The decisions of all processes as one pool, on each of them. Raises what any of them met."""
        raise_first(gather_object(list(failures)))
        indices = [index for index, _ in self._own(window)]
        parts = gather_object([*zip(indices, map(_pool_of, decided), strict=True)])
        return Pool.joined([part for _, part in sorted(parts, key=lambda part: part[0])])

    def share(self, window: Window, pool: Pool, accumulation: int) -> list[Decision]:
        """What this process trains in an update of the pool; in the first, also what of its batches is not trained."""
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        decisions = [self._of_pool(window, pool, rows) for rows in pool.plan(window, world * accumulation)[rank::world]]
        if window.offset == 0:
            own = {row for rows in self._rows(window) for row in rows}
            decisions.append(self._of_pool(window, pool, [row for row in pool.untrained if row in own]))
        return decisions

    def agreement(self, window: Window, decisions: Sequence[Decision], place: Place) -> dict[str, float]:
        """How far approximate scores decide as fresh ones do (agreement.py), where `scoring.compare_every` asks.

        A pool is compared before its last update, when its scores are oldest.
        """
        scoring = self._pruning.scoring
        if scoring.compare_every is None or not SCORES & self.method.batch_needs:
            return {}
        due = any(update % scoring.compare_every == 0 for update in range(window.first, window.update + 1))
        if not (due and window.last):
            return {}
        if place.pool is not None:
            decisions = [self._of_pool(window, place.pool, rows) for rows in self._rows(window)]
        exact, failures = self.decide(window, place, fresh=True)
        raise_first(gather_object(failures))
        return mean_logs(gather_object([agreement(*pair) for pair in zip(decisions, exact, strict=True)]))

    def _own(self, window: Window) -> Iterator[tuple[int, Sequence[int]]]:
        """(index in the window, positions of the samples) of the batches of this process."""
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        yield from list(enumerate(window.batches))[rank::world]

    def _rows(self, window: Window) -> Iterator[range]:
        """Of these batches, where their samples are among all of the window."""
        counts = [len(batch) for batch in window.batches]
        for index, batch in self._own(window):
            start = sum(counts[:index])
            yield range(start, start + len(batch))

    def _look(self, batch: Sequence[int], window: Window, fresh: bool) -> tuple[Candidates, Graphs | None]:
        needs = self.method.batch_needs
        if fresh:
            return self._surveyor.fresh(batch, needs, window.epoch), None
        return self._surveyor.look(batch, needs, window.epoch, self._reused)

    def _rng(self, window: Window, index: int) -> torch.Generator:
        return generator(self._seeds.pruner, "batch", window.first, index)

    def _together(
        self, window: Window, candidates: Sequence[Candidates], failures: Sequence[UserError]
    ) -> list[Selection]:
        """One selection on the batches of all processes, of which this process gets its own."""
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        indices = [index for index, _ in self._own(window)]
        parts = gather_object([*zip(indices, candidates, strict=False)] + [(-1, failure) for failure in failures])
        parts.sort(key=lambda part: part[0])
        raise_first([failure for index, failure in parts if index < 0])
        return select_together(self.method, [part for _, part in parts], self._rng(window, 0))[rank::world]

    def _decision(
        self, batch: Sequence[int], candidates: Candidates, graphs: Graphs | None, selection: Selection, place: Place
    ) -> Decision:
        samples = [self._samples[position] for position in batch]
        keep = selection.tokens.split(candidates.lengths.tolist())
        drawn = torch.tensor(batch)
        scores, factors = candidates.scores, selection.samples.weights
        ppl, ent = (None, None) if scores is None else (scores.ppl, scores.ent)
        if self.method.by_epoch:
            factors = None if place.weights is None else place.weights[drawn]
            if scores is None and place.ppl is not None and place.ent is not None:
                ppl, ent = place.ppl[drawn], place.ent[drawn]
        weights, errors, uncertainties = (None if of is None else of.tolist() for of in (factors, ppl, ent))
        kept = pack_kept(samples, keep, weights, self._pruning.pruned_tokens == "remove")
        if graphs is not None:
            graphs.keep_only(() if kept is None else kept.rows)
        return Decision(samples, selection, weights, errors, uncertainties, kept, graphs=graphs)

    def _of_pool(self, window: Window, pool: Pool, rows: Sequence[int]) -> Decision:
        """Some samples of a pool, as one batch; what was asked for is told where they were decided."""
        positions = [position for batch in window.batches for position in batch]
        samples = [self._samples[positions[row]] for row in rows]
        masks = pool.tokens.split([self._samples[position].response_length for position in positions])
        keep, chosen = [masks[row] for row in rows], torch.tensor(rows, dtype=torch.int64)
        factors, ppl, ent = (None if of is None else of[chosen] for of in (pool.weights, pool.ppl, pool.ent))
        selected = SampleSelection(pool.role[chosen], pool.quadrant[chosen], pool.supplement[chosen], factors)
        selection = Selection(selected, torch.cat([*keep, pool.tokens[:0]]), 0, 0)
        weights, errors, uncertainties = (None if of is None else of.tolist() for of in (factors, ppl, ent))
        kept = pack_kept(samples, keep, weights, self._pruning.pruned_tokens == "remove")
        return Decision(samples, selection, weights, errors, uncertainties, kept)


def _pool_of(decision: Decision) -> Pool:
    chosen = decision.selection.samples
    ppl, ent, weights = (
        None if of is None else torch.tensor(of, dtype=torch.float64)
        for of in (decision.ppl, decision.ent, decision.weights)
    )
    sizes = sizes_of(len(decision.samples), decision.kept)
    return Pool(chosen.role, chosen.quadrant, chosen.supplement, decision.selection.tokens, sizes, ppl, ent, weights)
