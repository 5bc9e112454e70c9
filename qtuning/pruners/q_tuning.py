"""Q-Tuning, default readings (method.md, Stage 1 and Stage 2)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qtuning.plane import CALIBRATION, MISCONCEPTION, find_thresholds, min_max, quadrants
from qtuning.pruners.base import (
    DROPPED,
    PRUNABLE,
    WHOLE,
    Candidates,
    SampleSelection,
    ranking,
    sample_budget,
)
from qtuning.pruners.registry import QTuningOptions


def triage(
    candidates: Candidates, ratio: float, rng: torch.Generator, options: Mapping[str, object]
) -> SampleSelection:
    """Stage 1, sample triage on the Error-Uncertainty plane.

    Keeps K = max(1, round(r_sample * B)) samples: those of Q2 and Q4, supplemented with the best-scored of the others
    when they are too few (A10) and trimmed of the lowest-scored when they are too many (A6), where
    w_i = max(n(PPL_i) - n(Ent_i), n(Ent_i) - n(PPL_i)). A supplement counts as Q2 when the first term wins, else as Q4.
    """
    assert candidates.scores is not None
    ppl, ent = candidates.scores.ppl, candidates.scores.ent
    count = sample_budget(ratio, len(candidates))
    thresholds = find_thresholds(ppl, ent, ratio)
    quadrant = quadrants(ppl, ent, thresholds.level)

    role = torch.full((len(candidates),), DROPPED, dtype=torch.int8)
    role[quadrant == MISCONCEPTION] = PRUNABLE
    role[quadrant == CALIBRATION] = WHOLE
    selected = role != DROPPED
    from_thresholds = int(selected.sum())

    tilt = min_max(ppl) - min_max(ent)
    order = ranking(tilt.abs(), candidates.numbers)  # max(t, -t) = |t|
    if from_thresholds > count:
        surplus = order[selected[order]][count:]
        role[surplus] = DROPPED
    added = order[~selected[order]][: max(0, count - from_thresholds)]
    role[added] = torch.where(tilt[added] > 0, PRUNABLE, WHOLE).to(torch.int8)

    supplement = torch.zeros(len(candidates), dtype=torch.bool)
    supplement[added] = True
    shares = {f"q{q}_share": float((quadrant == q).double().mean()) for q in (1, 2, 3, 4)}
    return SampleSelection(
        role,
        quadrant,
        supplement,
        {
            "level": thresholds.level,
            "iterations": thresholds.iterations,
            "converged": float(thresholds.converged),
            "ppl_low": thresholds.ppl_low,
            "ppl_high": thresholds.ppl_high,
            "ent_low": thresholds.ent_low,
            "ent_high": thresholds.ent_high,
            "from_thresholds": min(from_thresholds, count),
            "supplemented": len(added),
            "trimmed": max(0, from_thresholds - count),
            **shares,
        },
    )


def prune_tokens(
    candidates: Candidates,
    selection: SampleSelection,
    tokens: int,
    rng: torch.Generator,
    options: Mapping[str, object],
) -> Tensor:
    """Stage 2, asymmetric token pruning: only Q2-like samples lose tokens, highest s first.

    `tokens` = round(N * r_sample * r_token) is what the batch may keep. What the dropped samples removed counts; the
    rest is taken from Q2-like responses. Where they hold too few, Q4 stays whole all the same and the budget is
    overspent (the cost account says so). A batch never loses its last token.
    """
    assert candidates.scores is not None
    settings = QTuningOptions.model_validate(options)
    smoothed = smooth(candidates.scores.token_ppl, candidates.lengths, settings.lambda_)
    owner = candidates.owner
    mask = selection.kept[owner]
    prunable = (selection.role == PRUNABLE)[owner]
    surplus = min(int(mask.sum()) - tokens, int(prunable.sum()), int(mask.sum()) - 1)
    if surplus > 0:
        # the ranking is stable: within a sample, the earlier of two equal tokens goes first
        order = ranking(smoothed, candidates.numbers[owner])
        mask[order[prunable[order]][:surplus]] = False
    return mask


def smooth(token_ppl: Tensor, lengths: Tensor, lambda_: float) -> Tensor:
    """s_t = (1 - lambda) PPL_t + lambda (PPL_{t-1} + PPL_{t+1}), neighbours outside the response count 0.

    token_ppl: [N], responses of `lengths` laid end to end. Returns [N]. (Reading A3, D: the sum of the neighbours.)
    """
    parts = []
    for ppl in token_ppl.split(lengths.tolist()):
        padded = torch.nn.functional.pad(ppl, (1, 1))
        parts.append((1 - lambda_) * ppl + lambda_ * (padded[:-2] + padded[2:]))
    return torch.cat(parts)
