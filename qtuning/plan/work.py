"""A cell before it runs -> what it will score and train: samples, tokens, forwards, FLOPs.

The account is that of a training, in expectation. Which samples a pruner will choose is not known; how many is, and for
pruners by length also how long they are. For the others the chosen samples are taken to have the lengths of the average
one, and the kept tokens to lie anywhere in the response. `check.py` says how far that was off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qtuning.experiment.needs import FORWARDS, SCORES, Needs, needs_of, schedule_of
from qtuning.experiment.registry import Need
from qtuning.experiment.schema import Cell, Pruning, Training
from qtuning.model.flops import ModelShape, Positions
from qtuning.plan.lengths import Array, Lengths
from qtuning.plan.shapes import Shape
from qtuning.train.windows import Pooling

ONLY_SCORES: frozenset[Need] = frozenset({"scores"})


@dataclass(frozen=True)
class Work:
    """Of one cell, all processes together.

    scored, kept: samples. *_passes: packed batches that go through the model. *_tokens: forwarded; of
    training_tokens there are none where samples are trained through the forward that scored them (`reuse-graph`).
    *_flops: of scoring, reference and proxy models among it, and of training. updates: of the optimizer. decisions:
    samples that batches are made of.
    """

    updates: float = 0.0
    samples_scored: float = 0.0
    samples_kept: float = 0.0
    scoring_passes: float = 0.0
    training_passes: float = 0.0
    scoring_tokens: float = 0.0
    training_tokens: float = 0.0
    tokens_kept: float = 0.0
    scoring_flops: float = 0.0
    training_flops: float = 0.0
    decisions: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def flops(self) -> float:
        """Scoring and training."""
        return self.scoring_flops + self.training_flops


def trained_shape(shape: Shape, training: Training) -> ModelShape:
    """The shape of a model as this training trains it."""
    return shape.model_shape(training.tuning == "lora", training.gradient_checkpointing)


def work_of(cell: Cell, shape: Shape, lengths: Lengths, helpers: Mapping[str, Shape] | None = None) -> Work:
    """The work of training a cell. helpers: shapes of its `reference` and `proxy`, where it has them."""
    assert cell.training is not None and cell.pruning is not None
    training, pruning, needs = cell.training, cell.pruning, needs_of(cell.pruning)
    everyone = np.full(len(lengths.prompts), lengths.weight)
    total = Work()
    for role, other in (helpers or {}).items():
        asked = needs.all if role == "proxy" else ONLY_SCORES
        total += _scoring(other, lengths, everyone, asked, None, training.batch_size)
    tabled = pruning.scoring.tabled
    for epoch in range(training.epochs):
        if pruning.scoring.schedule == "stale" and epoch % pruning.scoring.epochs == 0:
            asked = needs.all & SCORES
            total += _scoring(shape, lengths, everyone, asked, None, training.batch_size)
        drawn = everyone
        if needs.by_epoch:
            asked = needs.epoch - SCORES if tabled else needs.epoch
            total += _scoring(shape, lengths, everyone, asked, needs.layer, training.batch_size)
            drawn = _drawn(pruning, training, lengths, epoch)
        asked = needs.batch - SCORES if tabled else needs.batch
        one = 1 if schedule_of(pruning) == "reuse-graph" else training.batch_size  # each has a graph of its own
        total += _scoring(shape, lengths, drawn, asked, needs.layer, one)
        kept = drawn * _share_in_batch(pruning, training, needs.by_epoch, float(drawn.sum()))
        if not needs.by_epoch and pruning.sample_ratio < 1:
            kept = _by_length(pruning, lengths, float(kept.sum()))
        total += _training(shape, training, pruning, needs, lengths, drawn, kept)
    return total


def _scoring(
    shape: Shape, lengths: Lengths, counts: Array, needs: frozenset[Need], layer: int | None, batch_size: int
) -> Work:
    """One forward of `counts` samples without gradient (scores.observe); nothing where none is needed."""
    if not needs & FORWARDS:
        return Work()
    length, targets, depth = lengths.tokens, lengths.responses, 1.0
    if "sequence-entropy" in needs:
        targets = length
    elif "scores" not in needs:
        assert layer is not None
        targets = np.zeros_like(length)
        depth = (layer if layer > 0 else shape.layers + layer + 1) / shape.layers
    elif "attention" not in needs:
        length = length - 1  # nothing comes after the last token, so it is no input
    samples, tokens = float(counts.sum()), float(counts @ length)
    pairs = float(counts @ (length * (length + 1) / 2))
    return Work(
        samples_scored=samples,
        scoring_passes=np.ceil(samples / batch_size),
        scoring_tokens=tokens,
        scoring_flops=shape.forward_flops(tokens, pairs, float(counts @ targets), depth),
    )


def _training(
    shape: Shape,
    training: Training,
    pruning: Pruning,
    needs: Needs,
    lengths: Lengths,
    drawn: Array,
    kept: Array,
) -> Work:
    """Forward and backward of `kept` samples, of `drawn` that batches are made of, one epoch."""
    responses, ratio, schedule = lengths.responses, pruning.token_ratio, schedule_of(pruning)
    reused = schedule == "reuse-graph"
    tokens = np.maximum(1.0, ratio * responses)
    if reused:  # all that was scored
        length = lengths.tokens - ("sequence-entropy" not in needs.batch)
    elif pruning.pruned_tokens == "remove":
        length = lengths.prompts + tokens - 1
    else:
        # up to the last kept token; of k tokens anywhere among n, n - (n - k) / (k + 1) is where the last is expected
        length = lengths.tokens - 1 - (responses - tokens) / (tokens + 1)
    forwarded, targets = float(kept @ length), float(kept @ tokens)
    pairs = float(kept @ (length * (length + 1) / 2))
    batches = np.ceil(float(drawn.sum()) / training.batch_size)
    window = training.processes * training.accumulation
    updates, passes = np.ceil(batches / window), batches
    if schedule == "pool":
        updates = float(sum(Pooling.of(pruning, needs.by_epoch).updates(int(updates))))
        passes = min(batches, updates * window)
    trained, positions = trained_shape(shape, training), Positions(forwarded, pairs, targets)
    flops = trained.backward_flops(positions) if reused else trained.training_flops(positions)
    return Work(
        updates=updates,
        samples_kept=float(kept.sum()),
        training_passes=float(kept.sum()) if reused else passes,
        training_tokens=0.0 if reused else forwarded,
        tokens_kept=targets,
        training_flops=flops,
        decisions=float(drawn.sum()),
    )


def _drawn(pruning: Pruning, training: Training, lengths: Lengths, epoch: int) -> Array:
    """[n]: how many samples of each length an epoch-level pruner draws."""
    everyone = np.full(len(lengths.prompts), lengths.weight)
    if pruning.sample_ratio == 1:
        return everyone
    if pruning.sample_pruner == "infobatch":
        anneal = float(pruning.sample_options.get("anneal", 0.875))
        if epoch >= anneal * training.epochs:
            return everyone
    return _by_length(pruning, lengths, max(1.0, round(pruning.sample_ratio * lengths.rows)))


def _by_length(pruning: Pruning, lengths: Lengths, count: float) -> Array:
    """[n]: `count` samples as a pruner by length takes them, else of every length alike."""
    keys = {"longest": -lengths.responses, "longest-history": lengths.prompts}
    key = keys.get(pruning.sample_pruner)
    if key is None:
        return np.full(len(lengths.prompts), count / len(lengths.prompts))
    order = np.argsort(key, kind="stable")
    chosen = np.zeros(len(key))
    before = np.arange(len(key)) * lengths.weight
    chosen[order] = np.clip(count - before, 0.0, lengths.weight)
    return chosen


def _share_in_batch(pruning: Pruning, training: Training, by_epoch: bool, drawn: float) -> float:
    """Share of the samples of batches that is kept: max(1, round(r B)) of each, the last batch being smaller."""
    ratio = 1.0 if by_epoch else pruning.sample_ratio
    if pruning.passes == "twice":
        ratio = pruning.sample_ratio
    if ratio == 1:
        return 1.0
    size = training.batch_size
    if pruning.selection == "global":
        size *= training.processes * training.accumulation
    size = min(size, max(1, round(drawn)))
    whole, rest = divmod(round(drawn), size)
    kept = whole * max(1, round(ratio * size)) + (max(1, round(ratio * rest)) if rest else 0)
    return kept / max(1.0, drawn)
