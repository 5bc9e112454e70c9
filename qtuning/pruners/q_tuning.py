"""Q-Tuning: Stage 1 (`triage`) and Stage 2 (`prune_tokens`), with the readings A1, A2, ... as options.

A reading is an interpretation of what the paper leaves open; docs/method.md lists them. Equations and lines are those
of the paper's second version and of its Algorithm 1. Symbols here: B = len(candidates), K = budget.samples, N =
candidates.tokens; supp(x) = `supp`; n(.) = `scaled`; the quantile level a = b = `level`, searched by scoring/plane.py;
s_t = `smooth`.
"""

from typing import Literal

import torch
from torch import Tensor

from qtuning.experiment.quadrants import CALIBRATION, MISCONCEPTION, NOISE, REDUNDANT, Naming
from qtuning.pruners.base import (
    DROPPED,
    EXEMPT,
    PRUNABLE,
    WHOLE,
    Budget,
    Candidates,
    SampleSelection,
    draw,
    ranking,
    whole_share,
)
from qtuning.scoring import plane
from qtuning.scoring.plane import Lines, Plane, Quantile, Search, Thresholds

# quadrant -> role: samples of Q2 may lose tokens, those of Q4 stay whole, all others go (method.md, Stage 1)
_ROLES = {MISCONCEPTION: PRUNABLE, CALIBRATION: WHOLE}

# [drop_in] -> quadrant -> role: a sample of Q1 or Q3 that is not dropped stays as it is (tables 4 and 15)
_STAYS = {"Q1+Q3": _ROLES, "Q1": _ROLES | {REDUNDANT: EXEMPT}, "Q3": _ROLES | {NOISE: EXEMPT}}

# [prune_in] -> roles: the samples that may lose tokens (tables 4 and 15)
_PRUNED_IN = {"Q2": [PRUNABLE], "Q4": [WHOLE], "Q2+Q4": [PRUNABLE, WHOLE], "none": []}


def triage(
    candidates: Candidates,
    budget: Budget,
    rng: torch.Generator,
    *,
    quadrants: Naming = "figure",
    entropy: Literal["response", "sequence"] = "response",
    thresholds: Lines = "two-tails",
    quantile: Quantile = "linear",
    search: Search = "fixed",
    surplus: Literal["keep", "trim"] = "keep",
    supplement: Literal["min-max", "rank", "random", "none"] = "min-max",
    supplemented: Literal["nearer", "whole"] = "nearer",
    drop_in: Literal["Q1+Q3", "Q1", "Q3"] = "Q1+Q3",
) -> SampleSelection:
    """Stage 1, sample triage on the Error-Uncertainty plane (Algorithm 1, lines 5 to 21).

    Keeps the samples of Q2 and Q4 (line 17). If these are fewer than K = budget.samples, the best-scored of the others
    are added until there are K (lines 18 to 21). The score is supp(x) = max(n(PPL) - n(Ent), n(Ent) - n(PPL)). An added
    sample counts as Q2 if the first term is the larger, else as Q4.

    Of equal scores the sample with the lower number (row of the train set) is the better. Two samples have supp = 1 in
    any batch: the one of highest PPL and lowest Ent, and the one of lowest PPL and highest Ent, where there are such.
    `supp_ties` in the log says whether this rule decided which of two equal samples stays.

    quadrants (A1): `text` calls the quadrant of high PPL and high Ent Q2; the score stays as it is.
    entropy (A4): `sequence` averages H over every position, prompt included. thresholds (A5), quantile (A14), search
    (A17): see plane.py. surplus (A6): `trim` drops the lowest-scored of more than K. supplement (A10): n is min-max
    scaling, or with `rank` the rank divided by B - 1; `random` draws the added samples; `none` adds none, so that fewer
    than K are kept, perhaps none at all (but all at r_sample = 1). supplemented (A15): `whole` never takes tokens of an
    added sample.

    drop_in (tables 4, 15): the quadrants that lose samples. The samples of the other one stay, whole, and count as
    those of Q2 and Q4 do: the search sets the lines so that all that stays is r_sample of the batch.
    """
    assert candidates.scores is not None
    ppl, ent = candidates.scores.ppl, candidates.scores.ent
    if entropy == "sequence":
        assert candidates.scores.sequence_ent is not None
        ent = candidates.scores.sequence_ent
    stays = _STAYS[drop_in]
    points = Plane(ppl, ent, quadrants, thresholds, quantile, stays)
    found = points.search(budget.sample_ratio, search)
    quadrant = points.quadrants(found.level)
    role = torch.tensor([stays.get(number, DROPPED) for number in range(5)], dtype=torch.int8)[quadrant.long()]
    selected = role != DROPPED
    inside = int(selected.sum())
    fills = supplement != "none" or budget.sample_ratio == 1  # the whole budget is plain training under every reading
    missing = max(0, budget.samples - inside) if fills else 0
    trimmed = 0 if surplus == "keep" else max(0, inside - budget.samples)

    scaled = plane.ranks if supplement == "rank" else plane.min_max
    tilt = scaled(ppl) - scaled(ent)
    supp = tilt.abs()  # max(t, -t) = |t|
    best_first = ranking(supp, candidates.numbers)
    supplement_mask, ties = torch.zeros_like(selected), False
    if trimmed:
        order = best_first[selected[best_first]]
        role[order[budget.samples :]] = DROPPED
        ties = _tied(supp, order, budget.samples)
    if missing:
        queue = draw(candidates.numbers, rng) if supplement == "random" else best_first
        order = queue[~selected[queue]]
        added = order[:missing]
        whole = torch.where(tilt[added] > 0, PRUNABLE, WHOLE) if supplemented == "nearer" else torch.tensor(EXEMPT)
        role[added] = whole.to(torch.int8)
        supplement_mask[added] = True
        ties = supplement != "random" and _tied(supp, order, missing)
    median = points.quadrants(0.5)  # a median split, for the log only; all readings of A5 coincide there
    log = _log(found, quadrant, median) | {
        "from_thresholds": inside - trimmed,
        "supplemented": missing,
        "trimmed": trimmed,
        "supp_ties": float(ties),
        "spread": float(points.spread),
    }
    return SampleSelection(role, quadrant, supplement_mask, log=log)


def _tied(supp: Tensor, order: Tensor, count: int) -> bool:
    """Whether the last of the first `count` in `order` scores no better than the one after it, which goes."""
    return count < len(order) and bool(supp[order[count - 1]] == supp[order[count]])


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
    counted: Literal["sample", "response", "sequence"] = "sample",
    may_go: Literal["any", "both-high"] = "any",
    prune_in: Literal["Q2", "none", "Q2+Q4", "Q4"] = "Q2",
) -> Tensor:
    """Stage 2, asymmetric token pruning: only Q2-like samples lose tokens, those of highest s first.

    Each Q2-like sample keeps floor(r_token |T_i|) of its response tokens, at least one (Algorithm 1, lines 27 to 29;
    eq. 2). Q4 keeps all tokens. Of equal s the earlier token of a sample stays. So the batch keeps between
    r_sample * r_token and r_sample of its tokens, and what a surplus adds.

    survivors (A2): `keep-high` removes the lowest s first. neighbours (A3): see `smooth`. counted (A7): `response`
    keeps round(N * r_sample * r_token) of the batch's response tokens: what dropped samples removed counts, and the
    rest goes from Q2-like responses, of equal s from the sample with the higher number. If these hold too few tokens,
    Q4 stays whole all the same and the budget is overspent. `sequence` counts the prompts of the batch and of the kept
    samples too, though only response tokens can go. A batch never loses its last token. may_go (A13): `both-high`
    spares tokens unless their own PPL and the mean PPL of their two neighbours both exceed the sample's median, even if
    more than r_token then stays. prune_in (tables 4, 15): the quadrants that lose tokens.
    """
    assert candidates.scores is not None
    owner, lengths = candidates.owner, candidates.lengths
    kept = selection.kept
    prunable = torch.isin(selection.role, torch.tensor(_PRUNED_IN[prune_in], dtype=torch.int8))
    # whole responses, so that the neighbours of a token are still beside it
    can_go = prunable[owner].nonzero().flatten()
    token_ppl, own_lengths = candidates.scores.token_ppl[can_go], lengths[prunable]
    s = smooth(token_ppl, own_lengths, lambda_, neighbours)
    if may_go == "both-high":
        high = _both_high(token_ppl, own_lengths)
        can_go, s = can_go[high], s[high]
    # those that stay first, and of equal ones the earlier, as a stable sort of Algorithm 1's ranking has it
    best_first = ranking(-s if survivors == "keep-low" else s, candidates.numbers[owner[can_go]])
    first_to_go = can_go[best_first.flip(0)]
    mask = kept[owner]
    if counted == "sample":
        may_lose = torch.tensor([n - whole_share(budget.token_ratio, n) for n in lengths.tolist()])
        mask[_first_of_each(first_to_go, owner, may_lose)] = False
        return mask
    held, allowed = int(mask.sum()), budget.tokens
    if counted == "sequence":
        assert candidates.prompts is not None
        total = int((candidates.prompts + lengths).sum())
        allowed = Budget.of(budget.sample_ratio, budget.token_ratio, len(candidates), total).tokens
        allowed -= int(candidates.prompts[kept].sum())
    surplus = min(held - allowed, held - 1)  # `allowed` may be below 1: prompts count against it under `sequence`
    mask[first_to_go[: max(0, surplus)]] = False
    return mask


def smooth(token_ppl: Tensor, lengths: Tensor, lambda_: float, neighbours: Literal["sum", "mean"] = "sum") -> Tensor:
    """[N]: s_t = (1 - lambda) PPL_t + lambda (PPL_{t-1} + PPL_{t+1}); neighbours outside the response count 0 (eq. 7).

    token_ppl: [N], responses of `lengths` laid end to end. neighbours (A3): `mean` halves the neighbour term.
    """
    weight = lambda_ if neighbours == "sum" else lambda_ / 2
    return (1 - lambda_) * token_ppl + weight * _beside(token_ppl, lengths)


def _beside(token_ppl: Tensor, lengths: Tensor) -> Tensor:
    """[N]: PPL_{t-1} + PPL_{t+1}; neighbours outside the response count 0."""
    before, after = token_ppl.roll(1), token_ppl.roll(-1)
    lengths = lengths[lengths > 0]
    ends = lengths.cumsum(0)
    before.index_fill_(0, ends - lengths, 0)
    after.index_fill_(0, ends - 1, 0)
    return before + after


def _both_high(token_ppl: Tensor, lengths: Tensor) -> Tensor:
    """[N] bool: PPL_t and (PPL_{t-1} + PPL_{t+1}) / 2 both exceed the median of the response (reading A13)."""
    medians = [part.quantile(0.5) for part in token_ppl.split(lengths.tolist()) if len(part)]
    median = torch.repeat_interleave(torch.stack(medians), lengths) if medians else token_ppl
    return (token_ppl > median) & (_beside(token_ppl, lengths) / 2 > median)


def _first_of_each(tokens: Tensor, owner: Tensor, counts: Tensor) -> Tensor:
    """Of each sample's `tokens` (indices, in order) the first `counts`. owner: [N] of all tokens; counts: [B]."""
    by_sample = tokens[torch.argsort(owner[tokens], stable=True)]
    mine = owner[by_sample]
    held = torch.bincount(mine, minlength=len(counts))
    place = torch.arange(len(mine)) - (held.cumsum(0) - held)[mine]
    return by_sample[place < counts[mine]]
