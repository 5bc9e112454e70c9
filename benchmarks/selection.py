"""Selection and bookkeeping: what a pruned step does beside the model."""

from collections.abc import Callable, Sequence
from itertools import cycle

import torch

from benchmarks import paths
from benchmarks.clock import alternate
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting, ragged
from qtuning.model.batch import pack
from qtuning.pruners.base import Budget
from qtuning.scoring.scores import BatchScores

RATIO = 0.25
TARGET, LARGEST = 1.0, 64  # ms, in batches of up to so many samples
VOCABULARY = 9792


def run(setting: Setting) -> list[Table]:
    """From the scores of a batch to the packed batch that is trained; always on the CPU."""
    rows = [_row(count, setting) for count in setting.sizes.batches]
    notes = (
        f"Q-Tuning at {RATIO:.0%} x {paths.TOKEN_RATIO:.0%}, median over {setting.sizes.runs} draws of random scores. "
        "whole: candidates made, both stages with their checks, masks split, kept samples packed; the parts are timed "
        "by themselves.",
    )
    return [Table("Selection and bookkeeping", rows, notes)]


def _row(count: int, setting: Setting) -> dict[str, Value]:
    samples = ragged(count, VOCABULARY, setting.sizes.stretch)
    lengths = torch.tensor([sample.response_length for sample in samples])
    rng = torch.Generator().manual_seed(0)
    draws = [_scores(lengths, rng) for _ in range(setting.sizes.runs + 1)]
    method, budget = paths.q_tuning(RATIO), Budget.of(RATIO, paths.TOKEN_RATIO, count, int(lengths.sum()))
    known = [paths.candidates(samples, scores) for scores in draws]
    chosen = [method.select(one, rng) for one in known]
    masks = [selection.tokens.split(lengths.tolist()) for selection in chosen]

    def whole(scores: BatchScores) -> None:
        selection = method.select(paths.candidates(samples, scores), rng)
        pack(samples, selection.tokens.split(lengths.tolist()))

    def over(arguments: Sequence[tuple[object, ...]], function: Callable[..., object]) -> Callable[[], object]:
        turns = cycle(arguments)
        return lambda: function(*next(turns))

    parts = {
        "whole": over([(scores,) for scores in draws], whole),
        "triage": over([(one, budget, rng) for one in known], method.prune_samples),
        "token pruning": over(
            [(one, selection.samples, budget, rng) for one, selection in zip(known, chosen, strict=True)],
            method.prune_tokens,
        ),
        "pack": over([(samples, mask) for mask in masks], pack),
    }
    times = alternate(parts, setting.sizes.runs, torch.device("cpu"))
    whole_ms = times.milliseconds("whole")
    return {
        "batch": f"{count} samples, {int(lengths.sum()):,} response tokens",
        "whole ms": Checked(whole_ms, TARGET) if count <= LARGEST else whole_ms,
        **{f"{part} ms": times.milliseconds(part) for part in ("triage", "token pruning", "pack")},
    }


def _scores(lengths: torch.Tensor, rng: torch.Generator) -> BatchScores:
    """Random scores, whose means differ from sample to sample."""
    total = int(lengths.sum())
    nll, entropy = (
        torch.repeat_interleave(torch.rand(len(lengths), generator=rng).double() + 0.5, lengths)
        * torch.rand(total, generator=rng).double()
        for _ in range(2)
    )
    return BatchScores(4 * nll, 3 * entropy, lengths)
