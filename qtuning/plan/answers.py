"""An evaluation before it runs -> its requests, prefills and generated tokens, and the time they take."""

import math
from dataclasses import dataclass

from qtuning.evaluation.tasks import shots_of
from qtuning.experiment.schema import Evaluation
from qtuning.plan.assumptions import Assumptions
from qtuning.plan.machines import Machine
from qtuning.plan.shapes import Shape


@dataclass(frozen=True)
class Answers:
    """One benchmark of one evaluation.

    requests: likelihoods of choices, or generations. prompt_tokens: of one request. passes: batches. steps: tokens that
    a batch generates, expected and at most (0 for multiple choice). item_seconds: of marking an item.
    """

    benchmark: str
    items: int
    choices: int | None
    requests: int
    prompt_tokens: float
    passes: int
    batch_size: int
    steps: float
    most_steps: int
    item_seconds: float

    @property
    def generations(self) -> int:
        """Requests that generate."""
        return 0 if self.choices else self.requests

    @property
    def most_new_tokens(self) -> int:
        """Tokens generated if no answer ends before its limit."""
        return self.generations * self.most_steps

    def flops(self, shape: Shape) -> float:
        """Prefill and generation. lm-eval sends all positions of a choice through the head, of a prompt the last."""
        tokens = self.requests * self.prompt_tokens
        pairs = tokens * (self.prompt_tokens + 1) / 2
        targets = tokens if self.choices else float(self.requests)
        longer = self.prompt_tokens + self.steps / 2
        new = self.requests * self.steps
        return shape.forward_flops(tokens, pairs, targets) + shape.forward_flops(new, new * longer, new)

    def seconds(self, shape: Shape, machine: Machine, dtype: str, adapters: bool) -> float:
        """Prefills by arithmetic, generation by reading weights and cache for every token of a batch."""
        tokens = self.requests * self.prompt_tokens
        pairs = tokens * (self.prompt_tokens + 1) / 2
        prefill = shape.forward_flops(tokens, pairs, tokens if self.choices else float(self.requests))
        total = machine.seconds(prefill, self.passes, shape, dtype, adapters=adapters)
        if self.steps:
            steps, new = self.passes * self.steps, self.requests * self.steps
            longer = self.prompt_tokens + self.steps / 2
            arithmetic = shape.forward_flops(new, new * longer, new)
            total += machine.seconds(arithmetic, steps, shape, dtype, adapters=adapters)
            total += new * longer * shape.cache_bytes(dtype) / machine.bandwidth
        return total + self.items * self.item_seconds


def answers_of(evaluation: Evaluation, assumptions: Assumptions) -> list[Answers]:
    """What an evaluation asks a model, benchmark by benchmark."""
    found = []
    for name in evaluation.benchmarks:
        guess = assumptions.benchmark(name, evaluation)
        items = guess.items if evaluation.limit is None else min(guess.items, evaluation.limit)
        requests = items * (guess.choices or 1)
        prompt = guess.prompt_tokens + shots_of(name, evaluation) * guess.example_tokens + guess.answer_tokens
        own = min(guess.new_tokens, evaluation.max_length // 2)
        most = 0 if guess.choices else evaluation.max_new_tokens or own
        found.append(
            Answers(
                name, items, guess.choices, requests, min(prompt, evaluation.max_length), 
                math.ceil(requests / evaluation.batch_size), evaluation.batch_size, min(guess.steps, most), most,
                guess.item_seconds,
            )
        )  # fmt: skip
    return found
