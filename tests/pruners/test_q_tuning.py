"""Q-Tuning's two stages against the plain reference, on random and on hostile batches."""

from collections.abc import Mapping
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.pruners.base import DROPPED, PRUNABLE, WHOLE, Candidates, SampleSelection, token_budget
from qtuning.pruners.q_tuning import prune_tokens, smooth, triage
from qtuning.scores import BatchScores
from qtuning.seeding import generator

ROLE = {"prune": PRUNABLE, "whole": WHOLE}
# one sample: its token losses and entropies. The few fixed ones make ties, duplicates and two-valued batches
NLL = st.sampled_from([0.0, 2**-10, 0.5, 3.0, 88.75, 600.0]) | st.integers(0, 1600).map(lambda n: n / 64)
ENT = st.sampled_from([0.0, 0.5, 10.0]) | st.integers(0, 640).map(lambda n: n / 64)
Tokens = list[tuple[float, float]]
SAMPLE = st.lists(st.tuples(NLL, ENT), min_size=1, max_size=6)
BATCH = st.one_of(
    st.lists(SAMPLE, min_size=1, max_size=16),
    st.lists(SAMPLE, min_size=1, max_size=3).flatmap(
        lambda pool: st.lists(st.sampled_from(pool), min_size=1, max_size=16)
    ),
)
RATIO = st.sampled_from([0.0078125, 0.0625, 0.125, 0.25, 0.5, 1.0]) | st.floats(1e-3, 1.0)


def candidates_of(batch: list[Tokens], numbers: list[int]) -> Candidates:
    nll = torch.tensor([nll for tokens in batch for nll, _ in tokens], dtype=torch.float64)
    entropy = torch.tensor([entropy for tokens in batch for _, entropy in tokens], dtype=torch.float64)
    lengths = torch.tensor([len(tokens) for tokens in batch])
    return Candidates(torch.tensor(numbers), lengths, BatchScores(nll, entropy, lengths))


def axes(candidates: Candidates) -> tuple[list[float], list[float]]:
    assert candidates.scores is not None
    return candidates.scores.ppl.tolist(), candidates.scores.ent.tolist()


def numbered(batch: list[Tokens], data: st.DataObject) -> list[int]:
    return data.draw(st.permutations([3 * index + 1 for index in range(len(batch))]))


def check_triage(candidates: Candidates, ratio: float) -> SampleSelection:
    numbers = candidates.numbers.tolist()
    selection = triage(candidates, ratio, generator(0), {})
    kept, added, found = oracles.triage(*axes(candidates), numbers, ratio)
    assert dict(zip(numbers, selection.role.tolist(), strict=True)) == {
        number: ROLE[kept[number]] if number in kept else DROPPED for number in numbers
    }
    assert {number for number, extra in zip(numbers, selection.supplement.tolist(), strict=True) if extra} == added
    assert selection.quadrant.tolist() == found.quadrants
    wanted, inside = max(1, round(ratio * len(numbers))), sum(q in (2, 4) for q in found.quadrants)
    assert int(selection.kept.sum()) == wanted
    log = selection.log
    assert (log["level"], log["iterations"], log["converged"]) == (
        found.level,
        found.iterations,
        float(found.converged),
    )
    assert (log["from_thresholds"], log["supplemented"]) == (min(inside, wanted), len(added))
    assert log["trimmed"] == max(0, inside - wanted)
    for q in (1, 2, 3, 4):
        assert log[f"q{q}_share"] == pytest.approx(found.quadrants.count(q) / len(numbers))
    return selection


@settings(max_examples=400, deadline=None)
@given(BATCH, RATIO, st.data())
def test_triage(batch: list[Tokens], ratio: float, data: st.DataObject) -> None:
    check_triage(candidates_of(batch, numbered(batch, data)), ratio)


def test_triage_on_thousands_of_smooth_batches() -> None:
    """No ties here: samples spread as real ones are, error and uncertainty correlated."""
    rng = torch.Generator().manual_seed(0)
    supplemented = trimmed = 0.0
    for trial in range(600):
        count = int(torch.randint(1, 34, (), generator=rng))
        entropy = torch.rand(count, generator=rng, dtype=torch.float64) * 6
        noise = torch.randn(count, generator=rng, dtype=torch.float64)
        correlation = (-1.0, 0.0, 0.9)[trial % 3]
        nll = (1.0 + correlation * (entropy - 3) + noise).abs() * 2
        lengths = torch.ones(count, dtype=torch.int64)
        candidates = Candidates(torch.randperm(count, generator=rng), lengths, BatchScores(nll, entropy, lengths))
        log = check_triage(candidates, (0.125, 0.25, 0.5)[trial % 3 - 1 if trial % 2 else 0]).log
        supplemented += log["supplemented"] > 0
        trimmed += log["trimmed"] > 0
    assert supplemented > 60 and trimmed > 15, "both ways of meeting the budget are exercised"


@settings(max_examples=80, deadline=None)
@given(BATCH, RATIO, st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.data())
def test_the_order_of_the_batch_does_not_matter(
    batch: list[Tokens], ratio: float, token_ratio: float, data: st.DataObject
) -> None:
    numbers = numbered(batch, data)
    order = data.draw(st.permutations(range(len(batch))))
    decisions = []
    for places in (list(range(len(batch))), order):
        candidates = candidates_of([batch[i] for i in places], [numbers[i] for i in places])
        selection = triage(candidates, ratio, generator(0), {})
        tokens = token_budget(ratio, token_ratio, int(candidates.lengths.sum()))
        mask = prune_tokens(candidates, selection, tokens, generator(0), {"lambda": 0.5})
        parts = mask.split(candidates.lengths.tolist())
        rows = zip(
            selection.role.tolist(), selection.quadrant.tolist(), selection.supplement.tolist(), parts, strict=True
        )
        decisions.append({numbers[i]: (*row[:3], tuple(row[3].tolist())) for i, row in zip(places, rows, strict=True)})
    assert decisions[0] == decisions[1]


@settings(max_examples=250, deadline=None)
@given(
    BATCH,
    st.sampled_from([0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([0.01, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.data(),
)
def test_token_pruning(
    batch: list[Tokens], ratio: float, token_ratio: float, weight: float, data: st.DataObject
) -> None:
    numbers = numbered(batch, data)
    candidates = candidates_of(batch, numbers)
    # any roles, not only those that triage gives: Q4 may hold more than the budget, Q2 nothing at all
    roles = data.draw(st.lists(st.sampled_from([DROPPED, PRUNABLE, WHOLE]), min_size=len(batch), max_size=len(batch)))
    if not any(roles):
        roles[0] = PRUNABLE
    role = torch.tensor(roles, dtype=torch.int8)
    selection = SampleSelection(role, torch.zeros_like(role), torch.zeros(len(role), dtype=torch.bool))
    total = int(candidates.lengths.sum())
    budget = max(1, round(total * ratio * token_ratio))
    assert token_budget(ratio, token_ratio, total) == budget

    mask = prune_tokens(candidates, selection, budget, generator(0), {"lambda": weight})
    assert candidates.scores is not None
    parts = candidates.scores.token_ppl.split(candidates.lengths.tolist())
    truth = oracles.surviving_tokens(
        {number: part.tolist() for number, part in zip(numbers, parts, strict=True)},
        {number: "prune" if r == PRUNABLE else "whole" for number, r in zip(numbers, roles, strict=True) if r},
        budget,
        weight,
    )
    found = {
        (number, position)
        for number, part in zip(numbers, mask.split(candidates.lengths.tolist()), strict=True)
        for position in part.nonzero().flatten().tolist()
    }
    assert found == truth
    # what follows from the method whatever the reference says
    kept = candidates.lengths[selection.kept].sum()
    whole = int(candidates.lengths[role == WHOLE].sum())
    assert 1 <= int(mask.sum()) == max(min(int(kept), budget), whole)
    for r, part in zip(roles, mask.split(candidates.lengths.tolist()), strict=True):
        assert not part.any() if r == DROPPED else bool(part.all()) or r == PRUNABLE


def test_q4_is_kept_whole_even_beyond_the_budget() -> None:
    candidates = candidates_of([[(1.0, 1.0)] * 6, [(2.0, 1.0)] * 2], [0, 1])
    role = torch.tensor([WHOLE, PRUNABLE], dtype=torch.int8)
    mask = prune_tokens(candidates, SampleSelection(role, role, role == 0), 3, generator(0), {"lambda": 0.5})
    assert mask.tolist() == [True] * 6 + [False] * 2


def test_a_batch_keeps_its_last_token() -> None:
    candidates = candidates_of([[(1.0, 1.0), (9.0, 1.0), (2.0, 1.0)]], [0])
    role = torch.tensor([PRUNABLE], dtype=torch.int8)
    mask = prune_tokens(candidates, SampleSelection(role, role, role == 0), 0, generator(0), {"lambda": 0.0})
    assert mask.tolist() == [True, False, False], "the one with the lowest perplexity"


@settings(max_examples=150, deadline=None)
@given(st.lists(SAMPLE, min_size=1, max_size=6), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_smoothing(batch: list[Tokens], weight: float) -> None:
    candidates = candidates_of(batch, list(range(len(batch))))
    assert candidates.scores is not None
    ppl = candidates.scores.token_ppl
    expected = [
        value for part in ppl.split(candidates.lengths.tolist()) for value in oracles.smoothed(part.tolist(), weight)
    ]
    assert smooth(ppl, candidates.lengths, weight).tolist() == expected


def test_smoothing_by_hand() -> None:
    ppl, lengths = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).double(), torch.tensor([3, 1, 1])
    assert smooth(ppl, lengths, 0.0).tolist() == ppl.tolist()
    assert smooth(ppl, lengths, 0.5).tolist() == [0.5 + 1.0, 1.0 + 2.5, 2.0 + 1.0, 4.0, 8.0]
    assert smooth(ppl, lengths, 1.0).tolist() == [2.0, 5.0, 2.0, 0.0, 0.0]


HAND: list[tuple[str, Mapping[str, Any]]] = [
    # one sample is kept whatever it is: neither error nor uncertainty wins, so it stays whole
    ("one sample", {"points": [(2.0, 1.0)], "ratio": 0.125, "roles": [WHOLE]}),
    # all equal: nothing in a quadrant, the supplement takes the lowest numbers
    ("all equal", {"points": [(2.0, 1.0)] * 4, "ratio": 0.5, "roles": [WHOLE, WHOLE, DROPPED, DROPPED]}),
    # confidently wrong, uncertain and right, noise, redundant
    (
        "one of each",
        {
            "points": [(4.0, 0.5), (0.5, 4.0), (4.0, 4.0), (0.5, 0.5)],
            "ratio": 0.5,
            "roles": [PRUNABLE, WHOLE, DROPPED, DROPPED],
        },
    ),
]


@pytest.mark.parametrize("case", [case for _, case in HAND], ids=[name for name, _ in HAND])
def test_triage_by_hand(case: Mapping[str, Any]) -> None:
    candidates = candidates_of([[point] for point in case["points"]], list(range(len(case["points"]))))
    assert triage(candidates, case["ratio"], generator(0), {}).role.tolist() == case["roles"]
