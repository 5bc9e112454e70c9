"""What a cell will compute, before it runs: samples, tokens, forwards and FLOPs of its training and of its evaluation.

It predicts the numbers that train.json will report. How many samples a pruner will keep is known, which ones is not.
Pruners by length keep known lengths. For all others we assume samples of average length, and kept tokens anywhere in
the response. A surplus of Q-Tuning is not predicted, and Q2_SHARE of what it keeps is assumed to lose tokens.
`check.py` compares the prediction with finished cells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qtuning.evaluation.tasks import shots_of
from qtuning.evaluation.wrong_answers import WRONG
from qtuning.experiment.cell import VLLM_SEQUENCES, Cell, Evaluation, Pruning, Training
from qtuning.experiment.influence import Measurement
from qtuning.experiment.needs import ATTENTION, FORWARDS, SCORES, needs_of, schedule_of
from qtuning.experiment.references import references_of
from qtuning.experiment.registry import REFERENCE, Need
from qtuning.model.flops import GRADIENT_TOKENS, ModelShape, Positions
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.lengths import Array, Lengths
from qtuning.plan.machines import Machine
from qtuning.plan.shapes import BYTES, Shape
from qtuning.plan.traffic import Way
from qtuning.train.windows import Pooling

Q2_SHARE = 0.4
"""Share of the samples that Q-Tuning keeps which are Q2-like. Measured on the mini world's model and train set: 31% to
56%, and 0% to 9% more samples than the budget's K (batches of 8 and 32, 12.5% to 50% of the samples)."""


@dataclass(frozen=True)
class TrainingWork:
    """The work of one cell's training.

    updates: of the optimizer. samples_scored, samples_kept: counted once for each time. *_passes: packed batches that
    go through the model. *_tokens: positions that go through it; samples that are trained through the forward that
    scored them (`reuse-graph`) have no training_tokens. scoring_flops: with those of reference and proxy models.
    decisions: samples that batches are made of. *_traffic: bytes, beside the large matrix products (traffic.py).
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
    scoring_traffic: float = 0.0
    training_traffic: float = 0.0
    decisions: float = 0.0

    def __add__(self, other: "TrainingWork") -> "TrainingWork":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return TrainingWork(*(mine + theirs for mine, theirs in pairs))

    @property
    def flops(self) -> float:
        """Scoring and training."""
        return self.scoring_flops + self.training_flops


def trained_shape(shape: Shape, training: Training) -> ModelShape:
    """The shape of a model as this training trains it."""
    return shape.model_shape(training.tuning == "lora", training.gradient_checkpointing)


def training_work(
    cell: Cell, shape: Shape, lengths: Lengths, auxiliary: Mapping[str, Shape] | None = None
) -> TrainingWork:
    """The work of training a cell. auxiliary: shapes of its `reference` and `proxy` of configs/models."""
    assert cell.training is not None and cell.pruning is not None
    training, pruning, needs = cell.training, cell.pruning, needs_of(cell.pruning)
    if cell.part is not None:
        first, stop = cell.part.bounds(lengths.rows)
        lengths = replace(lengths, weight=lengths.weight * (stop - first) / lengths.rows)
    everyone = np.full(len(lengths.prompts), lengths.weight)
    total, way = TrainingWork(), Way.of(cell)
    if needs.all & REFERENCE and (references_of(cell) or "token-influence" in needs.all):
        # a reference of the cell's own shape scores each sample; and for its influence, so does the base model
        forwards = bool(references_of(cell)) + ("token-influence" in needs.all)
        total += _scoring(
            shape, way, lengths, forwards * everyone, frozenset[Need]({"scores"}), None, training.batch_size
        )
    for role, other in (auxiliary or {}).items():
        asked = needs.all if role == "proxy" else frozenset[Need]({"scores"})
        total += _scoring(other, way.without_adapters, lengths, everyone, asked, None, training.batch_size)
    # scores that were computed for the whole train set are looked up, not computed again
    looked_up = SCORES if pruning.scoring.tabled else frozenset[Need]()
    reused = schedule_of(pruning) == "reuse-graph"
    for epoch in range(training.epochs):
        if pruning.scoring.schedule == "stale" and epoch % pruning.scoring.epochs == 0:
            total += _scoring(shape, way, lengths, everyone, needs.all & SCORES, None, training.batch_size)
        drawn = everyone
        if needs.by_epoch:
            if not (needs.once and epoch):
                total += _scoring(
                    shape, way, lengths, everyone, needs.epoch - looked_up, needs.layer, training.batch_size
                )
            drawn = _drawn(pruning, training, lengths, epoch)
        batch_size = 1 if reused else training.batch_size  # to be reused, every sample has a graph of its own
        total += _scoring(shape, way, lengths, drawn, needs.batch - looked_up, needs.layer, batch_size)
        kept = drawn * _share_in_batch(pruning, training, needs.by_epoch, float(drawn.sum()))
        if not needs.by_epoch and pruning.sample_ratio < 1:
            kept = _by_length(pruning, lengths, float(kept.sum()))
        total += _training(shape, way, training, pruning, lengths, drawn, kept)
    return total


def measuring_work(measurement: Measurement, shape: Shape, lengths: Lengths) -> TrainingWork:
    """The work of measuring influence, without its warm-up: gradients and their projection after each of its epochs.

    Target examples, some tens, count as samples of average length.
    """
    asked, training = measurement.influence, measurement.warmup.training
    assert training is not None
    share = 1 + len(asked.targets) * asked.examples / max(1, lengths.rows)
    counts = np.full(len(lengths.prompts), asked.epochs * lengths.weight * share)
    length = lengths.tokens - 1
    samples, tokens = float(counts.sum()), float(counts @ length)
    pairs = float(counts @ (length * (length + 1) / 2))
    forward = shape.forward_flops(tokens, pairs, float(counts @ lengths.responses))
    projection = 2.0 * samples * shape.lora_parameters(training.lora.r) * asked.dimension
    trained = trained_shape(shape, training)
    return TrainingWork(
        training_passes=np.ceil(tokens / GRADIENT_TOKENS),
        training_tokens=tokens,
        training_flops=forward * trained.passes + projection,
        training_traffic=Way.of(measurement.warmup).training(
            shape, tokens, float(counts @ lengths.responses), 1 + trained.checkpointing
        ),
    )


def _scoring(
    shape: Shape, way: Way, lengths: Lengths, counts: Array, needs: frozenset[Need], layer: int | None, batch_size: int
) -> TrainingWork:
    """One forward without gradient of counts[i] samples of each length; nothing where no forward is needed."""
    if not needs & FORWARDS:
        return TrainingWork()
    if "embeddings" in needs:  # a forward of their own, of all positions, which ends before the head
        work = _forward(shape, way, counts, lengths.tokens, np.zeros_like(lengths.tokens), 1.0, batch_size)
        return work + _scoring(shape, way, lengths, counts, needs - {"embeddings"}, layer, batch_size)
    length, targets, depth = lengths.tokens, lengths.responses, 1.0
    if "sequence-entropy" in needs:
        targets = length
    elif "scores" not in needs:  # attention alone: the forward stops at its layer, before the head
        assert layer is not None
        targets = np.zeros_like(length)
        depth = (layer if layer > 0 else shape.layers + layer + 1) / shape.layers
    elif not needs & ATTENTION:
        length = length - 1  # nothing comes after the last token, so it is no input
    return _forward(shape, way, counts, length, targets, depth, batch_size)


def _forward(
    shape: Shape, way: Way, counts: Array, length: Array, targets: Array, depth: float, batch_size: int
) -> TrainingWork:
    """One forward without gradient of counts[i] sequences of length[i], targets[i] positions of which meet the head."""
    samples, tokens, predicted = float(counts.sum()), float(counts @ length), float(counts @ targets)
    pairs = float(counts @ (length * (length + 1) / 2))
    return TrainingWork(
        samples_scored=samples,
        scoring_passes=np.ceil(samples / batch_size),
        scoring_tokens=tokens,
        scoring_flops=shape.forward_flops(tokens, pairs, predicted, depth),
        scoring_traffic=way.scoring(shape, tokens, predicted, depth),
    )


def _training(
    shape: Shape, way: Way, training: Training, pruning: Pruning, lengths: Lengths, drawn: Array, kept: Array
) -> TrainingWork:
    """Forward and backward, one epoch. drawn, kept: [n] samples of each length in the batches, and trained of them."""
    needs, schedule = needs_of(pruning), schedule_of(pruning)
    reused = schedule == "reuse-graph"
    losing = token_losers(pruning)
    positions = Positions(0.0, 0.0, 0.0)
    for share, ratio in ((losing, pruning.token_ratio), (1 - losing, 1.0)):
        tokens = np.maximum(1.0, ratio * lengths.responses)
        if reused:  # all that was scored
            length = lengths.tokens - ("sequence-entropy" not in needs.batch)
        elif pruning.pruned_tokens == "remove":
            length = lengths.prompts + tokens - 1
        else:
            # up to the last kept token; of k tokens anywhere among n, the last is expected at n - (n - k) / (k + 1)
            length = lengths.tokens - 1 - (lengths.responses - tokens) / (tokens + 1)
        pairs = length * (length + 1) / 2
        positions = Positions(
            positions.tokens + float(share * kept @ length),
            positions.pairs + float(share * kept @ pairs),
            positions.targets + float(share * kept @ tokens),
        )
    batches = np.ceil(float(drawn.sum()) / training.batch_size)
    window = training.batches
    updates, passes = np.ceil(batches / window), batches
    if schedule == "pool":
        updates = float(sum(Pooling.of(pruning, needs.by_epoch).updates(int(updates))))
        passes = min(batches, updates * window)
    trained = trained_shape(shape, training)
    return TrainingWork(
        updates=updates,
        samples_kept=float(kept.sum()),
        training_passes=float(kept.sum()) if reused else passes,
        training_tokens=0.0 if reused else positions.tokens,
        tokens_kept=positions.targets,
        training_flops=trained.backward_flops(positions) if reused else trained.training_flops(positions),
        training_traffic=way.training(shape, positions.tokens, positions.targets, 1 + trained.checkpointing - reused),
        decisions=float(drawn.sum()),
    )


def token_losers(pruning: Pruning) -> float:
    """Share of the kept samples that lose tokens: all, unless Q-Tuning counts tokens by sample (A7; tables 4, 15)."""
    options = pruning.token_options
    if pruning.token_pruner != "q-tuning" or options.get("counted", "sample") != "sample":
        return 1.0
    in_q2 = Q2_SHARE if pruning.sample_pruner == "q-tuning" else 1.0  # of other pruners' samples, all count as Q2
    shares = {"Q2": in_q2, "none": 0.0, "Q4": 1 - in_q2, "Q2+Q4": 1.0}
    return shares[options.get("prune_in", "Q2")]


def _drawn(pruning: Pruning, training: Training, lengths: Lengths, epoch: int) -> Array:
    """[n]: how many samples of each length an epoch-level pruner draws."""
    annealed = pruning.sample_pruner == "infobatch-original" and epoch >= training.epochs * float(
        pruning.sample_options.get("anneal", 0.875)
    )
    if pruning.sample_ratio == 1 or annealed:
        return np.full(len(lengths.prompts), lengths.weight)
    return _by_length(pruning, lengths, max(1.0, round(pruning.sample_ratio * lengths.rows)))


def _by_length(pruning: Pruning, lengths: Lengths, count: float) -> Array:
    """[n]: `count` samples as a pruner by length takes them, else of every length alike."""
    keys = {
        "longest": lengths.tokens,
        "longest-original": -lengths.responses,
        "longest-history": lengths.prompts,
    }
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
    ratio = 1.0 if by_epoch and pruning.passes != "twice" else pruning.sample_ratio
    if ratio == 1:
        return 1.0
    size = training.batch_size
    if pruning.selection == "global":
        size *= training.batches
    size = min(size, max(1, round(drawn)))
    whole, rest = divmod(round(drawn), size)
    kept = whole * _kept_of(pruning, ratio, size) + (_kept_of(pruning, ratio, rest) if rest else 0)
    return kept / max(1.0, drawn)


def _kept_of(pruning: Pruning, ratio: float, size: int) -> int:
    """How many samples of a batch are kept, without a surplus."""
    share = ratio * size
    asked = max(1, math.floor(share + 1e-9) if pruning.kept_samples == "floor" else round(share))  # A16
    options = pruning.sample_options
    if options.get("thresholds") == "lean" and options.get("surplus", "keep") == "keep":
        # A5 leaves out little but the samples of least error and of least uncertainty (docs/method.md)
        return max(asked, size - 2)
    return asked


VLLM_REACHED = 0.5
"""Share of its roofline that a vLLM engine reaches with prompts and in generation. Assumed: so a model of 7B with LoRA
reads some 27,000 and makes some 8,000 tokens a second on an H100 (docs/plan.md)."""


@dataclass(frozen=True)
class BenchmarkWork:
    """The work of one benchmark in one evaluation.

    choices: of an item of multiple choice; None where answers are generated. answers: of an item whose likelihood is
    asked for, its choices or the gold answer and wrong ones; 0 for none. prompt_tokens, answer_tokens: of one. steps,
    most_steps: tokens that a batch generates, expected and at most. item_seconds: of marking an answer.
    """

    benchmark: str
    items: int
    choices: int | None
    answers: int
    prompt_tokens: float
    answer_tokens: float
    batch_size: int
    steps: float
    most_steps: int
    item_seconds: float

    @property
    def generations(self) -> int:
        """Requests that generate."""
        return 0 if self.choices else self.items

    @property
    def most_new_tokens(self) -> int:
        """Tokens generated if no answer ends before its limit."""
        return self.generations * self.most_steps

    @property
    def passes(self) -> int:
        """Batches of prompts that are answered."""
        return math.ceil(self.generations / self.batch_size)

    @property
    def answer_passes(self) -> int:
        """Batches of items whose answers are scored."""
        return math.ceil(self.items / self.batch_size) if self.answers else 0

    def flops(self, shape: Shape) -> float:
        """Prefill, generation and the scoring of answers."""
        return self._prefill_flops(shape) + self._generation_flops(shape) + self.answer_flops(shape)

    def seconds(self, shape: Shape, machine: Machine, dtype: str, adapters: bool) -> float:
        """Prefills and answers by arithmetic, generation by reading weights and cache for every token of a batch."""
        way, prompts = Way("full", dtype), self.generations * self.prompt_tokens
        moved = way.scoring(shape, prompts, self.generations)
        total = machine.seconds(self._prefill_flops(shape), self.passes, shape, dtype, traffic=moved, adapters=adapters)
        if self.answers:
            new = self.items * self.answers * self.answer_tokens
            moved = way.scoring(shape, self.items * self.prompt_tokens + new, new)
            total += machine.seconds(
                self.answer_flops(shape), self.answer_passes, shape, dtype, traffic=moved, adapters=adapters
            )
        if self.steps:
            forwards, new = self.passes * self.steps, self.generations * self.steps
            total += machine.seconds(
                self._generation_flops(shape), forwards, shape, dtype, adapters=adapters, waiting=True
            )
            total += new * self._mean_context * shape.cache_bytes(dtype) / machine.bandwidth
        return total + self.items * self.item_seconds

    def vllm_seconds(self, shape: Shape, machine: Machine, dtype: str) -> float:
        """On the GPU under vLLM, without the engine's start. Answers are marked elsewhere, on a CPU.

        Prompts by arithmetic. Each answer whose likelihood is asked for is a sequence of its own, with the prompt
        before it and logits at every token. Of a generation, weights are read once for all sequences that run, the
        cache of each once a token; CUDA graphs hide what launching the layers takes. No prefix is found in the cache.
        """
        sequences = self.items * self.answers
        length = self.prompt_tokens + self.answer_tokens
        scored = shape.forward_flops(sequences * length, sequences * length * (length + 1) / 2, sequences * length)
        prompts = (self._prefill_flops(shape) + scored) / machine.rate(dtype)
        new = self.generations * self.steps
        reading = new / VLLM_SEQUENCES * shape.parameters * BYTES[dtype] / machine.bandwidth
        generating = max(self._generation_flops(shape) / machine.rate(dtype), reading)
        generating += new * self._mean_context * shape.cache_bytes(dtype) / machine.bandwidth
        return (prompts + generating) / VLLM_REACHED

    @property
    def _mean_context(self) -> float:
        """Tokens that a generated one attends to."""
        return self.prompt_tokens + self.steps / 2

    def _prefill_flops(self, shape: Shape) -> float:
        """Of a prompt only the last position goes through the head."""
        tokens = self.generations * self.prompt_tokens
        return shape.forward_flops(tokens, tokens * (self.prompt_tokens + 1) / 2, float(self.generations))

    def answer_flops(self, shape: Shape) -> float:
        """Each prompt once with all its answers; only what predicts an answer goes through the head. Wrong solutions
        share the beginning of the gold one, which this does not know: an upper bound."""
        prompts = self.items * self.prompt_tokens if self.answers else 0.0
        new = self.items * self.answers * self.answer_tokens
        pairs = prompts * (self.prompt_tokens + 1) / 2 + new * (self.prompt_tokens + (self.answer_tokens + 1) / 2)
        return shape.forward_flops(prompts + new, pairs, new)

    def _generation_flops(self, shape: Shape) -> float:
        new = self.generations * self.steps
        return shape.forward_flops(new, new * self._mean_context, new)


def evaluation_work(evaluation: Evaluation, assumptions: Assumptions) -> tuple[BenchmarkWork, ...]:
    """What an evaluation asks a model, benchmark by benchmark."""
    found = []
    for name in evaluation.benchmarks:
        guess = assumptions.benchmark(name, evaluation)
        items = (evaluation.protocol == "paper" and guess.paper_items) or guess.items
        items = items if evaluation.limit is None else min(items, evaluation.limit)
        answers = guess.choices or (1 + WRONG if evaluation.likelihoods else 0)
        prompt = guess.prompt_tokens + shots_of(name, evaluation) * guess.example_tokens
        own = min(guess.new_tokens, evaluation.max_length // 2)
        most = 0 if guess.choices else evaluation.max_new_tokens or own
        found.append(
            BenchmarkWork(
                name, items, guess.choices, answers, min(prompt, evaluation.max_length), guess.answer_tokens,
                evaluation.batch_size, min(guess.steps, most), most, guess.item_seconds,
            )
        )  # fmt: skip
    return tuple(found)
