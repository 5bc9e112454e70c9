"""Q-Tuning's two stages by hand, and what holds of them on random and on hostile batches.

test_against_method.py has the comparison with the exact oracle.
"""

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import budget_of

from qtuning.experiment.registry import NoOptions, TokenPruningOptions, TriageOptions
from qtuning.pruners.base import DROPPED, EXEMPT, PRUNABLE, WHOLE, Candidates, SampleSelection
from qtuning.pruners.q_tuning import prune_tokens, smooth, triage
from qtuning.scoring.scores import OVERFLOW, BatchScores
from qtuning.train.seeding import generator

Options = dict[str, Any]


def readings_of(options: type[NoOptions]) -> list[Options]:
    """Every combination of the readings that the registry knows; lambda is no reading."""
    values = {name: get_args(field.annotation) for name, field in options.model_fields.items() if name != "lambda_"}
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


TRIAGE, TOKENS = readings_of(TriageOptions), readings_of(TokenPruningOptions)
RATIOS = (0.0078125, 0.0625, 0.125, 0.25, 0.3, 0.5, 0.9, 1.0)
LAMBDAS = (0.0, 0.3, 0.5, 1.0)


# Batches


@dataclass(frozen=True)
class Row:
    """One sample. tokens: loss and entropy of each response token; prompt: its tokens; sequence_ent: Ent_i of A4."""

    number: int
    tokens: Sequence[tuple[float, float]]
    prompt: int
    sequence_ent: float


def candidates_of(rows: Sequence[Row]) -> Candidates:
    nll, entropy = (torch.tensor([t[i] for r in rows for t in r.tokens], dtype=torch.float64) for i in (0, 1))
    lengths = torch.tensor([len(row.tokens) for row in rows])
    whole = torch.tensor([row.sequence_ent for row in rows], dtype=torch.float64)
    return Candidates(
        torch.tensor([row.number for row in rows]),
        lengths,
        BatchScores(nll, entropy, lengths, whole),
        prompts=torch.tensor([row.prompt for row in rows]),
    )


def points(*plane: tuple[float, float], first: int = 0) -> list[Row]:
    """Samples of one token each, (loss, entropy), numbered from `first`."""
    return [Row(number, [point], 1, 0.0) for number, point in enumerate(plane, first)]


# multiples of 1/64 have exact sums in any order; the fixed ones make ties, and overflow beyond 700
NLL = st.sampled_from([0.0, 2**-10, 0.5, 3.0, 88.75, 699.0, 709.5, 1e6]) | st.integers(0, 1600).map(lambda n: n / 64)
ENT = st.sampled_from([0.0, 0.5, 10.0]) | st.integers(0, 640).map(lambda n: n / 64)
SAMPLE = st.tuples(st.lists(st.tuples(NLL, ENT), min_size=1, max_size=5), st.integers(1, 9), ENT)
BATCH = st.one_of(
    st.lists(SAMPLE, min_size=1, max_size=12),
    st.lists(SAMPLE, min_size=1, max_size=3).flatmap(  # duplicates
        lambda pool: st.lists(st.sampled_from(pool), min_size=1, max_size=12)
    ),
).flatmap(
    lambda batch: st.permutations([3 * i + 1 for i in range(len(batch))]).map(
        lambda numbers: [Row(n, *sample) for n, sample in zip(numbers, batch, strict=True)]
    )
)
RATIO = st.sampled_from(RATIOS) | st.floats(1e-3, 1.0)


# Stage 1


def triage_of(candidates: Candidates, ratio: float, readings: Options, seed: int = 0) -> SampleSelection:
    budget = budget_of(candidates, ratio, 0.5)
    return triage(candidates, budget, generator(seed), **readings)


@settings(max_examples=300, deadline=None)
@given(BATCH, RATIO, st.sampled_from(TRIAGE))
def test_triage_keeps_what_it_says(rows: list[Row], ratio: float, readings: Options) -> None:
    selection = triage_of(candidates_of(rows), ratio, readings)
    wanted, kept, log = max(1, round(ratio * len(rows))), int(selection.kept.sum()), selection.log
    assert kept >= (0 if readings["supplement"] == "none" else wanted)
    assert kept <= wanted or readings["surplus"] == "keep"
    assert log["from_thresholds"] + log["supplemented"] == kept
    assert int(selection.supplement.sum()) == log["supplemented"] and log["supplemented"] * log["trimmed"] == 0
    for q in (1, 2, 3, 4):
        assert log[f"q{q}_share"] == pytest.approx(float((selection.quadrant == q).double().mean()))


@settings(max_examples=100, deadline=None)
@given(BATCH, RATIO, st.sampled_from(TRIAGE))
def test_triage_and_the_order_of_readings(rows: list[Row], ratio: float, readings: Options) -> None:
    """Trimming only drops; the role of a supplemented sample (A15) changes nothing else."""
    candidates = candidates_of(rows)
    keep, trim = (triage_of(candidates, ratio, readings | {"surplus": surplus}) for surplus in ("keep", "trim"))
    assert torch.equal(keep.quadrant, trim.quadrant) and not (trim.kept & ~keep.kept).any()
    assert torch.equal(trim.role[trim.kept], keep.role[trim.kept])
    nearer, whole = (triage_of(candidates, ratio, readings | {"supplemented": s}) for s in ("nearer", "whole"))
    assert torch.equal(nearer.supplement, whole.supplement)
    assert torch.equal(nearer.role[~nearer.supplement], whole.role[~whole.supplement])
    assert bool((whole.role[whole.supplement] == EXEMPT).all())


CORNERS = points((4.0, 0.5), (0.5, 4.0), (4.0, 4.0), (0.5, 0.5))  # Q2, Q4, Q1, Q3 of figure 1(b)
DIAGONAL = points((1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0))  # no sample in Q2 or Q4
P, W, E, D = PRUNABLE, WHOLE, EXEMPT, DROPPED
# what it shows: samples, r_sample, readings, roles
HAND: dict[str, tuple[list[Row], float, Options, list[int]]] = {
    "one sample alone is kept whole": (points((2.0, 1.0)), 0.125, {}, [W]),
    "equal samples: lowest numbers": (points(*[(2.0, 1.0)] * 4), 0.5, {}, [W, W, D, D]),
    "figure: confidently wrong is kept": (CORNERS, 0.5, {}, [P, W, D, D]),
    "text: everything of high entropy is kept": (CORNERS, 0.5, {"quadrants": "text"}, [D, W, P, D]),
    "text: the supplement prefers distance from the diagonal": (CORNERS, 0.75, {"quadrants": "text"}, [P, W, P, D]),
    "trim: the lowest score goes": (
        [*CORNERS, *points((4.0, 0.75), first=4)],
        0.3,
        {"surplus": "trim"},
        [P, W, D, D, D],
    ),
    "whole: no token of a supplement goes": (DIAGONAL, 0.5, {"supplemented": "whole"}, [D, E, E, D]),
    "Q1 loses no samples": (CORNERS, 0.75, {"drop_in": "Q3"}, [P, W, E, D]),
    "Q3 loses no samples": (CORNERS, 0.75, {"drop_in": "Q1"}, [P, W, D, E]),
    "none: nothing in Q2 or Q4, nothing kept": (DIAGONAL, 0.5, {"supplement": "none"}, [D] * 4),
    # by min-max, exp puts the middle two off the diagonal; their ranks agree, so all tie
    "min-max": (DIAGONAL, 0.5, {}, [D, W, W, D]),
    "rank": (DIAGONAL, 0.5, {"supplement": "rank"}, [W, W, D, D]),
    "sequence: the other entropy decides": (
        [replace(row, sequence_ent=ent) for row, ent in zip(CORNERS, (4.0, 4.0, 0.5, 0.5), strict=True)],
        0.5,
        {"entropy": "sequence"},
        [D, W, P, D],
    ),
    # ranks of error 0 1 2.5 2.5, of entropy 2 0.5 3 0.5: the first and the last are equally far, 2/3, from the diagonal
    "rank: equal scores go by number": (
        points((0.0, 2.0), (1.0, 1.0), (2.0, 3.0), (2.0, 1.0)),
        0.25,
        {"supplement": "rank", "surplus": "trim"},
        [W, D, D, D],
    ),
}


@pytest.mark.parametrize("case", HAND.values(), ids=HAND)
def test_triage_by_hand(case: tuple[list[Row], float, Options, list[int]]) -> None:
    rows, ratio, changed, roles = case
    assert triage_of(candidates_of(rows), ratio, changed).role.tolist() == roles


def test_midpoint_puts_a_sample_between_the_tails_in_a_quadrant() -> None:
    """The last is neither certain nor unsure by two tails; by one line halfway it is above, and Q1."""
    rows = [*CORNERS, *points((4.0, 3.0), first=4)]
    tails, midpoint = (triage_of(candidates_of(rows), 0.5, {"thresholds": t}) for t in ("two-tails", "midpoint"))
    assert (int(tails.quadrant[4]), int(midpoint.quadrant[4])) == (0, 1)


def test_surplus_is_kept_without_trimming() -> None:
    """By one line halfway, all eight are in Q2 or Q4 at every level, and the budget wants two."""
    candidates = candidates_of(points(*[(4.0, 0.5)] * 3, *[(0.5, 4.0)] * 5))
    trim, no_trim = (
        triage_of(candidates, 0.25, {"thresholds": "midpoint", "surplus": surplus}) for surplus in ("trim", "keep")
    )
    assert trim.role.tolist() == [PRUNABLE] * 2 + [DROPPED] * 6 and trim.log["trimmed"] == 6
    assert no_trim.role.tolist() == [PRUNABLE] * 3 + [WHOLE] * 5 and no_trim.log["trimmed"] == 0


def test_a_random_supplement_is_drawn_uniformly() -> None:
    """Two of six samples outside Q2 and Q4: each in a third of the draws, each pair in a fifteenth."""
    candidates = candidates_of(points(*((float(i), float(i)) for i in range(6))))
    draws = 600
    pairs = Counter(
        tuple(triage_of(candidates, 1 / 3, {"supplement": "random"}, seed).supplement.nonzero().flatten().tolist())
        for seed in range(draws)
    )
    singles = Counter(sample for pair in pairs.elements() for sample in pair)
    for counts, ways in ((singles, 3), (pairs, 15)):
        share = 1 / ways
        sigma = (draws * share * (1 - share)) ** 0.5
        assert len(counts) == {3: 6, 15: 15}[ways]
        assert all(abs(count - draws * share) < 5 * sigma for count in counts.values())


# Stage 2


def tokens_of(
    rows: Sequence[Row], roles: Sequence[int], ratios: tuple[float, float], lambda_: float, readings: Options
) -> Mapping[int, list[bool]]:
    """Which tokens keep their loss, by the numbers of the samples; checked for what holds under every reading."""
    candidates = candidates_of(rows)
    role = torch.tensor(roles, dtype=torch.int8)
    selection = SampleSelection(role, torch.zeros_like(role), torch.zeros(len(role), dtype=torch.bool))
    budget = budget_of(candidates, *ratios)
    mask = prune_tokens(candidates, selection, budget, generator(0), lambda_=lambda_, **readings)
    assert mask.dtype == torch.bool and mask.shape == (int(candidates.lengths.sum()),)
    lengths, numbers = candidates.lengths.tolist(), [row.number for row in rows]
    found = dict(zip(numbers, (part.tolist() for part in mask.split(lengths)), strict=True))
    readings = TOKENS[0] | readings
    losing = {"Q2": (PRUNABLE,), "Q4": (WHOLE,), "Q2+Q4": (PRUNABLE, WHOLE), "none": ()}[readings["prune_in"]]
    for r, kept in zip(roles, found.values(), strict=True):
        assert not any(kept) if r == DROPPED else all(kept) or r in losing
    assert mask.any() or not any(roles)
    if readings["may_go"] == "any":
        whole = sum(n for n, r in zip(lengths, roles, strict=True) if r not in (DROPPED, *losing))
        held = sum(n for n, r in zip(lengths, roles, strict=True) if r != DROPPED)
        if readings["counted"] == "response":
            assert int(mask.sum()) == max(min(held, budget.tokens), whole)
        if readings["counted"] == "sample":
            shares = [
                max(1, int(round(ratios[1] * n, 6))) if r in losing else n * (r != DROPPED)
                for n, r in zip(lengths, roles, strict=True)
            ]
            assert [sum(kept) for kept in found.values()] == shares
    return found


def roles_of(rng: random.Random, count: int) -> list[int]:
    """Any roles, not only those that triage gives: Q4 may hold more than the budget, Q2 nothing at all."""
    allowed = rng.choice(([DROPPED, PRUNABLE, WHOLE, EXEMPT], [PRUNABLE], [DROPPED, WHOLE], [DROPPED, PRUNABLE]))
    return [rng.choice(allowed) for _ in range(count)]


@settings(max_examples=400, deadline=None)
@given(
    BATCH,
    st.sampled_from([0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([0.01, 0.5, 0.7, 1.0]),
    st.sampled_from(LAMBDAS),
    st.sampled_from(TOKENS),
    st.randoms(use_true_random=False),
)
def test_tokens_under_every_combination_of_readings(
    rows: list[Row], ratio: float, token_ratio: float, lambda_: float, readings: Options, rng: random.Random
) -> None:
    tokens_of(rows, roles_of(rng, len(rows)), (ratio, token_ratio), lambda_, readings)


LOG2, LOG6 = 0.6931471805599453, 1.791759469228055
BETWEEN_HIGH = [
    LOG6,
    LOG2,
    3 * LOG2,
    LOG2,
    LOG6,
]  # perplexities 6 2 8 2 6; s by sum 4 8 6 8 4, by mean 3.5 4.5 5 4.5 3.5


@dataclass(frozen=True)
class Hand:
    """A batch small enough to prune by hand. losses: of each sample; kept: 1 for each token that stays."""

    losses: list[list[float]]
    roles: list[int]
    ratios: tuple[float, float]
    kept: str
    readings: Options
    prompts: tuple[int, ...] = (1, 1, 1, 1)
    lambda_: float = 0.0


HANDS = {
    "keep-low: the highest goes": Hand([[1, 9, 2, 3], [5, 5]], [P, D], (1.0, 0.5), "1011 00", {}),
    "keep-high: the lowest goes": Hand(
        [[1, 9, 2, 3], [5, 5]], [P, D], (1.0, 0.5), "0111 00", {"survivors": "keep-high"}
    ),
    "Q4 is whole even beyond the budget": Hand([[1] * 6, [2, 3]], [W, P], (0.5, 0.75), "111111 00", {}),
    "the last token stays": Hand([[1, 9, 2]], [P], (0.01, 0.01), "100", {}),
    "prune_in Q4: Q2 is whole": Hand([[1, 2, 3], [9, 9, 9]], [W, P], (1.0, 0.7), "100 111", {"prune_in": "Q4"}),
    "prune_in Q2+Q4: one budget for both": Hand(
        [[1, 2, 8], [9, 3, 1]], [W, P], (1.0, 0.7), "110 011", {"prune_in": "Q2+Q4"}
    ),
    "prune_in none": Hand([[1, 2, 8], [9, 3, 1]], [W, P], (0.5, 0.1), "111 111", {"prune_in": "none"}),
    # 20 tokens in all, 10 may stay; the kept sample's prompt takes 6 of them
    "sequence: prompts count": Hand(
        [[1, 2, 3, 4, 5, 6, 7, 8], [1]], [P, D], (1.0, 0.5), "11110000 0", {"counted": "sequence"}, (6, 5)
    ),
    # the prompt alone is above the budget
    "sequence: the last response token stays": Hand(
        [[3, 2, 4]], [P], (1.0, 0.5), "010", {"counted": "sequence"}, (40,)
    ),
    # the dropped sample would leave room for all; each kept one keeps its own half, rounded down
    "sample: no account of the batch": Hand(
        [[1, 2, 3, 4, 5], [7], [5, 5], [1] * 6], [P, P, W, D], (1.0, 0.5), "11000 1 11 000000", {"counted": "sample"}
    ),
    # 0.7 of 10 are 7, though 0.7 * 10 in floating point might be less
    "sample: a share that is a whole number": Hand(
        [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], [P], (0.1, 0.7), "1111111000", {"counted": "sample"}
    ),
    "exempt: never loses a token": Hand(
        [[1, 2], [1, 2], [1, 2]], [EXEMPT, W, P], (1.0, 0.5), "11 10 10", {"counted": "sample", "prune_in": "Q2+Q4"}
    ),
    # medians e^2 (2 is not above it) and e^3; neighbours of the 9 in the middle are high, of the last one are not
    "both-high: only what is high among high ones may go": Hand(
        [[1, 8, 9, 8, 1, 2, 1, 2, 9]], [P], (1.0, 0.1), "100011111", {"counted": "sample", "may_go": "both-high"}
    ),
    # the ends have one neighbour, so the inner two have the highest s
    "lambda 1: the earlier of equals stays": Hand([[2] * 4], [P], (1.0, 0.75), "1101", {}, lambda_=1.0),
    # eq. 7 at lambda 0.5 gives both (PPL_1 + PPL_2) / 2; the last token is that of the end
    "sum: of two tokens the first stays, whatever they are": Hand(
        [[1, 6], [6, 1], [0.1, 0.3]], [P, P, P], (1.0, 0.5), "10 10 10", {"counted": "sample"}, lambda_=0.5
    ),
    "sum: tokens between high ones go first": Hand([BETWEEN_HIGH], [P], (1.0, 0.6), "10101", {}, lambda_=0.5),
    "mean: the high one goes first": Hand(
        [BETWEEN_HIGH], [P], (1.0, 0.8), "11011", {"neighbours": "mean"}, lambda_=0.5
    ),
}


@pytest.mark.parametrize("hand", HANDS.values(), ids=HANDS)
def test_tokens_by_hand(hand: Hand) -> None:
    columns = enumerate(zip(hand.losses, hand.prompts, strict=False))
    rows = [Row(number, [(loss, 1.0) for loss in losses], prompt, 1.0) for number, (losses, prompt) in columns]
    found = tokens_of(rows, hand.roles, hand.ratios, hand.lambda_, {"counted": "response"} | hand.readings)
    assert " ".join("".join(str(int(stays)) for stays in kept) for kept in found.values()) == hand.kept


def test_of_equal_tokens_the_lower_number_then_the_earlier_stays() -> None:
    rows = [Row(8, [(2.0, 1.0)] * 3, 1, 1.0), Row(5, [(2.0, 1.0)] * 3, 1, 1.0)]
    for survivors in ("keep-low", "keep-high"):
        readings = {"survivors": survivors, "counted": "response"}
        found = tokens_of(rows, [PRUNABLE] * 2, (1.0, 0.34), 0.0, readings)
        assert found == {5: [True, True, False], 8: [False, False, False]}


def test_a_batch_of_which_nothing_is_kept_has_no_tokens() -> None:
    """A10 `none` may keep nothing at all."""
    for readings in TOKENS:
        tokens_of(CORNERS, [DROPPED] * 4, (0.25, 0.5), 0.5, readings)


@settings(max_examples=150, deadline=None)
@given(BATCH, st.sampled_from(LAMBDAS), st.sampled_from(["sum", "mean"]))
def test_smoothing(rows: list[Row], lambda_: float, neighbours: Any) -> None:
    candidates = candidates_of(rows)
    assert candidates.scores is not None
    ppl, lengths = candidates.scores.token_ppl, candidates.lengths
    weight = lambda_ if neighbours == "sum" else lambda_ / 2
    expected = [
        (1 - lambda_) * own + weight * (before + after)
        for part in ppl.split(lengths.tolist())
        for before, own, after in zip([0.0, *part.tolist()], part.tolist(), [*part.tolist()[1:], 0.0], strict=False)
    ]
    result = smooth(ppl, lengths, lambda_, neighbours)
    assert torch.isfinite(result).all()
    assert result.tolist() == expected


def test_smoothing_by_hand() -> None:
    ppl, lengths = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).double(), torch.tensor([3, 1, 1])
    assert smooth(ppl, lengths, 0.0).tolist() == ppl.tolist()
    assert smooth(ppl, lengths, 0.5).tolist() == [0.5 + 1.0, 1.0 + 2.5, 2.0 + 1.0, 4.0, 8.0]
    assert smooth(ppl, lengths, 1.0).tolist() == [2.0, 5.0, 2.0, 0.0, 0.0]
    assert smooth(ppl, lengths, 0.5, "mean").tolist() == [0.5 + 0.5, 1.0 + 1.25, 2.0 + 0.5, 4.0, 8.0]


# Both


@settings(max_examples=150, deadline=None)
@given(
    BATCH,
    RATIO,
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    st.sampled_from(TRIAGE),
    st.sampled_from(TOKENS),
    st.sampled_from(LAMBDAS),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_batch_does_not_matter(
    rows: list[Row],
    ratio: float,
    token_ratio: float,
    readings: Options,
    token_readings: Options,
    lambda_: float,
    rng: random.Random,
) -> None:
    decisions = []
    for order in (rows, rng.sample(rows, len(rows))):
        candidates = candidates_of(order)
        selection = triage_of(candidates, ratio, readings)
        budget = budget_of(candidates, ratio, token_ratio)
        mask = prune_tokens(candidates, selection, budget, generator(1), lambda_=lambda_, **token_readings)
        columns = (selection.role.tolist(), selection.quadrant.tolist(), selection.supplement.tolist())
        parts = (tuple(part.tolist()) for part in mask.split(candidates.lengths.tolist()))
        decisions.append({r.number: decided for r, *decided in zip(order, *columns, parts, strict=True)})
    assert decisions[0] == decisions[1]


def test_perplexity_stays_finite_beyond_overflow() -> None:
    """Both diverged samples are at exp(700): equal errors, so neither's is above the other's."""
    rows = points((OVERFLOW + 1, 0.5), (1e6, 0.75), (1.0, 4.0), (0.5, 3.0))
    candidates = candidates_of(rows)
    assert candidates.scores is not None
    assert float(candidates.scores.ppl[0]) == float(candidates.scores.ppl[1]) == pytest.approx(1.0142320547350045e304)
    # at the level that the search ends at, all four are in Q2 or Q4
    assert triage_of(candidates, 0.25, {}).role.tolist() == [PRUNABLE, PRUNABLE, WHOLE, WHOLE]
    assert triage_of(candidates, 0.25, {"surplus": "trim"}).kept.tolist() == [True, False, False, False]
