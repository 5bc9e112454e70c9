"""What a pruner of one's own does that breaks no rule, but that its author should know.

It may keep the same rows at every seed, decide by a signal that is mostly unknown, or keep more or less than the budget
asks. A training watches for it (`watch`, train/journal.py), and `qtuning check-pruner` tries it (habit_trials.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qtuning.pruners.base import Budget, Candidates

SPENT = 0.1
"""Relative difference allowed between what is kept and what the budget asks for."""

UNKNOWN = 0.5
"""Share of a signal that may be NaN after the first epoch, in which nothing can be known."""

OTHER_SEEDS = (101, 102, 103)
SAME_ROWS = (
    "keeps the same rows at every seed while no scores or losses are known; let chance decide among unknown and equal "
    "values (`draw`, docs/pruners.md), not the number of the row, or seeds say nothing about the choice"
)


def budget_habit(what: str, kept: float, asked: float, share: float, whose: str = "the train set's") -> str | None:
    """What is said of a budget that is not met; None for one that is. share: what the budget asks of all of `whose`."""
    if not asked or abs(kept - asked) <= SPENT * asked:
        return None
    return (
        f"{kept:,.0f} {what} were kept; {asked:,.0f} are {share:.4g} of {whose} "
        f"({kept / asked - 1:+.0%}): compare by cost, not by budget"
    )


def unknown_habit(share: float) -> str | None:
    """What is said of a signal of which this share was NaN after the first epoch."""
    if not UNKNOWN < share <= 1:
        return None
    return (
        f"{share:.0%} of its losses or previous scores are NaN after the first epoch (a sample has a loss once it was "
        "trained): there it decides by what it puts in their place"
    )


def unknown_share(candidates: Candidates) -> float | None:
    """The share of NaN among the losses and previous scores that a pruner was told; None if it was told neither."""
    told = [candidates.losses, None if candidates.previous is None else candidates.previous.ppl]
    shares = [float(column.isnan().double().mean()) for column in told if column is not None]
    return sum(shares) / len(shares) if shares else None


def seeds_decide_nothing(
    decide: Callable[..., Any], candidates: Candidates, budget: Budget, kept: Tensor
) -> bool | None:
    """Whether other seeds of the pruner keep the same rows. kept: [B] bool, what it keeps.

    None where something is known that differs between seeds: scores, attention, embeddings, losses; or where nothing is
    to be dropped.
    """
    model = (candidates.scores, candidates.attention, candidates.embeddings, candidates.recorded)
    if any(part is not None for part in model) or unknown_share(candidates) not in (None, 1.0) or bool(kept.all()):
        return None
    others = (decide(candidates, budget, torch.Generator().manual_seed(seed)).kept for seed in OTHER_SEEDS)
    return all(torch.equal(other, kept) for other in others)


def watch_unknown(candidates: Candidates) -> dict[str, float]:
    """`unknown` for the metrics of a decision: the share of NaN in what the pruner was told after the first epoch."""
    share = unknown_share(candidates) if candidates.epoch else None
    return {} if share is None else {"unknown": share}


def watch(decide: Callable[..., Any], candidates: Candidates, budget: Budget, kept: Tensor) -> dict[str, float]:
    """That, and `same_rows`: whether the seed decided nothing in a decision of a sample pruner."""
    same = seeds_decide_nothing(decide, candidates, budget, kept)
    return watch_unknown(candidates) | ({} if same is None else {"same_rows": float(same)})
