"""Q-Tuning: Stage 1 (`triage`) and Stage 2 (`prune_tokens`), with the readings A1, A2, ... as options.

A reading is an interpretation of what the paper leaves open. docs/method.md lists them and has the equations. Its
symbols here: B = len(candidates), K = budget.samples, N = candidates.tokens; w_i or supp(x) = |tilt|; n(.) = `scaled`;
the quantile level a = b = `level`, searched by scoring/plane.py; s_t = `smooth`.
"""

from typing import Literal

import torch
from torch import Tensor

from qtuning.experiment.quadrants import CALIBRATION, MISCONCEPTION, Naming
from qtuning.pruners.base import DROPPED, PRUNABLE, WHOLE, Budget, Candidates, SampleSelection, draw, ranking
from qtuning.scoring import plane
from qtuning.scoring.plane import Lines, Plane, Thresholds

# [quadrant] -> role: samples of Q2 may lose tokens, those of Q4 stay whole, all others go (method.md, Stage 1)
_ROLES = torch.full((5,), DROPPED, dtype=torch.int8)
_ROLES[MISCONCEPTION], _ROLES[CALIBRATION] = PRUNABLE, WHOLE

# [prune_in] -> roles: the samples that may lose tokens
_PRUNED_IN = {"Q2": [PRUNABLE], "Q4": [WHOLE], "Q2+Q4": [PRUNABLE, WHOLE], "nothing": []}


def triage(
    candidates: Candidates,
    budget: Budget,
    rng: torch.Generator,
    *,
    quadrants: Naming = "figure",
    entropy: Literal["response", "sequence"] = "response",
    thresholds: Lines = "two-tails",
    surplus: Literal["trim", "no-trim"] = "trim",
    supplement: Literal["min-max", "rank", "random", "none"] = "min-max",
) -> SampleSelection:
    """Stage 1, sample triage on the Error-Uncertainty plane.

    Keeps K = budget.samples: the samples of Q2 and Q4. If these are too few, the best-scored of the others are added;
    if they are too many, the lowest-scored go (of equal scores, the higher sample number). The score is
    supp(x) = max(n(PPL) - n(Ent), n(Ent) - n(PPL)). An added sample counts as Q2 if the first term wins, else as Q4.

    quadrants (A1): `text` calls the quadrant of high PPL and high Ent Q2; the score stays as it is.
    entropy (A4): `sequence` averages H over every position, prompt included. thresholds (A5): see plane.py.
    surplus (A6): `no-trim` keeps more than K. supplement (A10): n is min-max scaling, or with `rank` the rank divided
    by B - 1; `random` draws the added samples; `none` adds none, so that fewer than K are kept, perhaps none at all.
    """
    assert candidates.scores is not None
    ppl, ent = candidates.scores.ppl, candidates.scores.ent
    if entropy == "sequence":
        assert candidates.scores.sequence_ent is not None
        ent = candidates.scores.sequence_ent
    points = Plane(ppl, ent, quadrants, thresholds)
    found = points.search(budget.sample_ratio)
    quadrant = points.quadrants(found.level)
    role = _ROLES[quadrant.long()]
    selected = role != DROPPED
    inside = int(selected.sum())
    missing = 0 if supplement == "none" else max(0, budget.samples - inside)
    surplus_samples = 0 if surplus == "no-trim" else max(0, inside - budget.samples)

    scaled = plane.ranks if supplement == "rank" else plane.min_max
    tilt = scaled(ppl) - scaled(ent)
    best_first = ranking(tilt.abs(), candidates.numbers)  # supp = max(t, -t) = |t|
    queue = draw(candidates.numbers, rng) if supplement == "random" else best_first
    if surplus_samples:
        selected_best_first = best_first[selected[best_first]]
        role[selected_best_first[budget.samples :]] = DROPPED
    supplemented = torch.zeros_like(selected)
    if missing:
        added = queue[~selected[queue]][:missing]
        role[added] = torch.where(tilt[added] > 0, PRUNABLE, WHOLE).to(torch.int8)
        supplemented[added] = True
    median = points.quadrants(0.5)  # a median split, for the log only; both readings of A5 coincide there
    log = _log(found, quadrant, median) | {
        "from_thresholds": inside - surplus_samples,
        "supplemented": missing,
        "trimmed": surplus_samples,
        "spread": float(points.spread),
    }
    return SampleSelection(role, quadrant, supplemented, log=log)


def _log(found: Thresholds, quadrant: Tensor, median: Tensor) -> dict[str, float]:
    """What the search did, and the share of the samples in each quadrant, at its lines and at the medians."""
    shares = {
        f"{name}{q}{of}": count / len(where)
        for name, of, where in (("q", "_share", quadrant), ("median_q", "", median))
        for q, count in enumerate(torch.bincount(where, minlength=5).tolist())
        if q
    }
    search = {key: value for key, value in vars(found).items() if key != "kept"}
    return search | {"converged": float(found.converged)} | shares


def prune_tokens(
    candidates: Candidates,
    selection: SampleSelection,
    budget: Budget,
    rng: torch.Generator,
    *,
    lambda_: float = 0.5,
    survivors: Literal["keep-low", "keep-high"] = "keep-low",
    neighbours: Literal["sum", "mean"] = "sum",
    counted: Literal["response", "sequence", "per-sample"] = "response",
    prune_in: Literal["Q2", "nothing", "Q4", "Q2+Q4"] = "Q2",
) -> Tensor:
    """Stage 2, asymmetric token pruning: only Q2-like samples lose tokens, those of highest s first.

    The batch may keep budget.tokens = round(N * r_sample * r_token). Dropping samples has removed some of the others;
    the rest goes from Q2-like responses. If these hold too few tokens, Q4 stays whole all the same and the budget is
    overspent (the cost account says so). A batch never loses its last token.

    survivors (A2): `keep-high` removes the lowest s first. neighbours (A3): see `smooth`. counted (A7): `sequence`
    counts the prompts of the batch and of the kept samples too, though only response tokens can go; `per-sample` keeps
    r_token of each prunable sample, at least one token. prune_in: the quadrants that lose tokens (table 4).
    """
    assert candidates.scores is not None
    owner = candidates.owner
    kept = selection.kept
    prunable = torch.isin(selection.role, torch.tensor(_PRUNED_IN[prune_in], dtype=torch.int8))
    # whole responses, so that the neighbours of a token are still beside it
    can_go = prunable[owner].nonzero().flatten()
    s = smooth(candidates.scores.token_ppl[can_go], candidates.lengths[prunable], lambda_, neighbours)
    numbers = candidates.numbers[owner[can_go]]
    # the ranking is stable, so the earlier of two equal tokens of a sample goes first
    first_to_go = can_go[ranking(s if survivors == "keep-low" else -s, numbers)]
    mask = kept[owner]
    if counted == "per-sample":
        for index in prunable.nonzero().flatten().tolist():
            mine = first_to_go[owner[first_to_go] == index]
            mask[mine[: len(mine) - max(1, round(budget.token_ratio * len(mine)))]] = False
        return mask
    held, allowed = int(mask.sum()), budget.tokens
    if counted == "sequence":
        assert candidates.prompts is not None
        total = int((candidates.prompts + candidates.lengths).sum())
        allowed = Budget.of(budget.sample_ratio, budget.token_ratio, len(candidates), total).tokens
        allowed -= int(candidates.prompts[kept].sum())
    surplus = min(held - allowed, held - 1)  # `allowed` may be below 1: prompts count against it under `sequence`
    mask[first_to_go[: max(0, surplus)]] = False
    return mask


def smooth(token_ppl: Tensor, lengths: Tensor, lambda_: float, neighbours: Literal["sum", "mean"] = "sum") -> Tensor:
    """[N]: s_t = (1 - lambda) PPL_t + lambda (PPL_{t-1} + PPL_{t+1}); neighbours outside the response count 0.

    token_ppl: [N], responses of `lengths` laid end to end. neighbours (A3): `mean` halves the neighbour term.
    """
    weight = lambda_ if neighbours == "sum" else lambda_ / 2
    before, after = token_ppl.roll(1), token_ppl.roll(-1)
    lengths = lengths[lengths > 0]
    ends = lengths.cumsum(0)
    before.index_fill_(0, ends - lengths, 0)
    after.index_fill_(0, ends - 1, 0)
    return (1 - lambda_) * token_ppl + weight * (before + after)
