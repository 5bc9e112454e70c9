"""A method on one batch: names looked up, options handed on, budgets asked for, scopes, and readings A11 and A12."""

from collections import Counter
from dataclasses import FrozenInstanceError, replace
from typing import Any, cast, get_args

import pytest
import torch

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, TokenPruningOptions, TriageOptions
from qtuning.pruners.base import (
    PRUNABLE,
    Budget,
    Candidates,
    Instructions,
    Ratings,
    Recorded,
    SampleSelection,
    keep_first,
)
from qtuning.pruners.method import Method, check_samples, check_tokens, method_of
from qtuning.pruners.q_tuning import prune_tokens, triage
from qtuning.scoring.scores import BatchScores, TokenAttention
from qtuning.train.seeding import generator

LENGTHS = [4, 1, 9, 6, 3, 3, 12, 2]
READINGS = [(u, p) for u in ("as-defined", "matched-updates") for p in ("once", "twice")]  # A11, A12


RECORDED = Recorded(  # what a training at 25x50 may have kept of the batch
    torch.tensor([False, False, True, False, False, True, False, False]),
    torch.ones(8, dtype=torch.float64),
    torch.tensor([(5 <= token < 10) or token == 23 for token in range(sum(LENGTHS))]),
)


def method(sample: str, token: str, sample_ratio: float = 0.25, token_ratio: float = 0.5, **more: Any) -> Method:
    ratios = {"sample_ratio": sample_ratio, "token_ratio": token_ratio}
    return method_of(Pruning(sample_pruner=sample, token_pruner=token, **ratios, **more))


def batch_of(seed: int) -> Candidates:
    """Eight samples with 40 response tokens, and all that any pruner may ask for."""
    rng = torch.Generator().manual_seed(seed)

    def random(count: int) -> torch.Tensor:
        return torch.rand(count, generator=rng, dtype=torch.float64)

    lengths, tokens = torch.tensor(LENGTHS), sum(LENGTHS)
    return Candidates(
        torch.arange(8) * 2,
        lengths,
        BatchScores(random(tokens) * 4, random(tokens) * 4, lengths, random(8) * 4),
        prompts=torch.arange(8) + 3,
        attention=TokenAttention(random(tokens), random(tokens), torch.tensor([1, 1, 2, 3, 1, 2, 3, 1])),
        reference=random(tokens) * 4,
        token_influence=(torch.randperm(tokens, generator=rng) + 0.5).double() / tokens,
        losses=random(8) * 4,
        instructions=Instructions(torch.tensor([40, 12, 33, 8, 21, 50, 9, 17]), random(8)),
        ratings=Ratings(*(random(8).mul(5).round() for _ in range(3))),
        embeddings=random(32).reshape(8, 4).float() - 0.5,
        influence=random(16).reshape(8, 2),
        kinds=torch.tensor([0, 4, 2, 1, 3, 4, 0, 2]),
        wrong=random(tokens) < 0.3,
        recorded=RECORDED,
        epochs=3,
    )


@pytest.fixture
def batch() -> Candidates:
    return batch_of(0)


@pytest.mark.parametrize(
    ("sample", "token", "options", "sample_needs", "token_needs"),
    [
        ("full", "none", {}, set(), set()),
        ("random", "random", {}, set(), set()),
        ("entropy", "random", {}, {"scores"}, set()),
        ("infobatch", "ppl", {}, {"losses"}, {"scores"}),
        ("longest-history", "rho-1", {}, {"instructions"}, {"scores", "reference"}),
        ("full", "fastv", {}, set(), {"attention"}),
        ("random-once", "ppl", {}, set(), {"scores"}),
        ("alpagasus", "random", {}, {"ratings"}, set()),
        ("deita", "ppl", {}, {"ratings", "embeddings"}, {"scores"}),
        ("oracle", "adversary-tokens", {}, {"truth"}, {"truth"}),
    ],
)
def test_what_a_method_needs_and_when(
    sample: str, token: str, options: dict[str, Any], sample_needs: set[str], token_needs: set[str]
) -> None:
    """As defined, the sample pruner decides before the epoch; matched, in the batch with the token pruner (A11)."""
    defined, matched = (method(sample, token, updates=updates) for updates in ("as-defined", "matched-updates"))
    assert (defined.needs.by_epoch, matched.needs.by_epoch) == (sample != "full", False)
    assert (defined.needs.epoch, defined.needs.batch) == (sample_needs, token_needs)
    assert (matched.needs.epoch, matched.needs.batch) == (set(), sample_needs | token_needs)


def test_q_tuning_selects_in_the_batch_and_needs_what_its_readings_need() -> None:
    for updates in ("as-defined", "matched-updates"):
        assert not method("q-tuning", "q-tuning", updates=updates).needs.by_epoch
    assert method("q-tuning", "none", 0.25, 1.0).needs.batch == {"scores"}
    sequence = method("q-tuning", "q-tuning", sample_options={"entropy": "sequence"})
    assert (sequence.needs.epoch, sequence.needs.batch) == (set(), {"scores", "sequence-entropy"})


def test_nothing_is_needed_to_keep_everything() -> None:
    """A pruner by batch still decides at 100%: Q4 of all samples stays whole when tokens go (figure 4(b))."""
    assert method("entropy", "ppl", 1.0, 1.0).needs.epoch == method("entropy", "ppl", 1.0, 1.0).needs.batch == set()
    assert method("q-tuning", "q-tuning", 1.0, 0.5).needs.batch == {"scores"}


@pytest.mark.parametrize("sample", list(SAMPLE_PRUNERS))
@pytest.mark.parametrize(("updates", "passes"), READINGS)
def test_the_whole_budget_prunes_nothing(batch: Candidates, sample: str, updates: str, passes: str) -> None:
    if sample.startswith("replay"):
        pytest.skip("keeps what was kept, at any budget")
    for token in TOKEN_PRUNERS:
        chosen = method(sample, token, 1.0, 1.0, updates=updates, passes=passes)
        assert chosen.select_epoch(batch, generator(0)).kept.all()
        selection = chosen.select(batch, generator(0))
        assert selection.samples.kept.all() and selection.tokens.all()
        assert (selection.asked_samples, selection.asked_tokens) == (8, 40)


@pytest.mark.parametrize("sample", [name for name, info in SAMPLE_PRUNERS.items() if info.draws])
def test_epoch_level_pruning_draws_before_the_epoch_and_keeps_every_batch(batch: Candidates, sample: str) -> None:
    chosen = method(sample, "random")
    drawn = chosen.select_epoch(batch, generator(5))
    assert int(drawn.kept.sum()) == 2 or sample == "infobatch-original"
    selection = chosen.select(batch, generator(5))
    assert selection.samples.kept.all() and selection.samples.weights is None
    assert int(selection.tokens.sum()) == selection.asked_tokens == 20 and selection.asked_samples == 8


@pytest.mark.parametrize("sample", [name for name, info in SAMPLE_PRUNERS.items() if info.draws])
def test_matched_updates_prune_inside_the_batch(batch: Candidates, sample: str) -> None:
    """A11: as many updates as full data; what was drawn from the data set is now drawn from each batch."""
    matched, defined = method(sample, "random", updates="matched-updates"), method(sample, "random")
    assert matched.select_epoch(batch, generator(5)).kept.all()
    selection = matched.select(batch, generator(5))
    assert (selection.asked_samples, selection.asked_tokens) == (2, 5)
    drawn = defined.select_epoch(batch, generator(5))
    assert torch.equal(selection.samples.kept, drawn.kept)
    if drawn.weights is None:
        assert selection.samples.weights is None
    else:
        assert selection.samples.weights is not None  # the weighted sum over what is kept is a mean over the batch
        assert torch.equal(selection.samples.weights, drawn.weights * float(drawn.kept.double().mean()))
    available = int(batch.lengths[selection.samples.kept].sum())
    assert int(selection.tokens.sum()) == max(1, round(0.5 * available)), "r_token of what is kept"
    assert not selection.tokens[~selection.samples.kept[batch.owner]].any()


@pytest.mark.parametrize(("ratio", "count"), [(0.25, 2), (0.5, 4), (0.05, 1), (0.45, 4), (1.0, 8)])
def test_twice_draws_again_inside_each_batch(batch: Candidates, ratio: float, count: int) -> None:
    """A12: the epoch holds r_sample of the data, and of each batch of it a random r_sample trains."""
    for sample in ("random", "longest"):
        chosen = method(sample, "random", ratio, 0.5, passes="twice")
        assert int(chosen.select_epoch(batch, generator(0)).kept.sum()) == max(1, round(8 * ratio))
        selection = chosen.select(batch, generator(0))
        kept = selection.samples.kept
        assert int(kept.sum()) == selection.asked_samples == count
        assert selection.asked_tokens == max(1, round(40 * ratio * 0.5))
        assert int(selection.tokens.sum()) == max(1, round(0.5 * int(batch.lengths[kept].sum())))
        assert not selection.tokens[~kept[batch.owner]].any()


def test_the_second_draw_is_uniform_whatever_drew_first(batch: Candidates) -> None:
    chosen, draws = method("longest", "none", 0.25, 1.0, passes="twice"), 800
    times = Counter(
        index
        for seed in range(draws)
        for index in chosen.select(batch, generator(seed)).samples.kept.nonzero().flatten().tolist()
    )
    sigma = (draws * 0.25 * 0.75) ** 0.5
    assert len(times) == 8 and all(abs(count - draws / 4) < 5 * sigma for count in times.values())


def test_twice_with_matched_updates_keeps_r_sample_squared_of_the_batch(batch: Candidates) -> None:
    """Half of 8 by length are 4, half of these at random are 2."""
    chosen = method("longest-original", "none", 0.5, 1.0, updates="matched-updates", passes="twice")
    longest, seen = {0, 2, 3, 6}, set()
    for seed in range(40):
        selection = chosen.select(batch, generator(seed))
        kept = set(selection.samples.kept.nonzero().flatten().tolist())
        assert len(kept) == selection.asked_samples == 2 and kept <= longest
        seen |= kept
    assert seen == longest
    assert (
        method("longest-original", "random", 0.5, 0.5, updates="matched-updates", passes="twice")
        .select(batch, generator(0))
        .asked_tokens
        == 40 * 0.5 * 0.5 * 0.5
    )


@pytest.mark.parametrize("ratios", [(0.125, 0.5), (0.25, 0.5), (0.25, 0.7), (0.5, 0.7), (1.0, 0.5)])
def test_q_tuning_keeps_its_budget(batch: Candidates, ratios: tuple[float, float]) -> None:
    selection = method("q-tuning", "q-tuning", *ratios).select(batch, generator(0))
    kept = selection.samples.kept
    assert int(kept.sum()) == selection.asked_samples == max(1, round(8 * ratios[0]))
    assert selection.asked_tokens == round(40 * ratios[0] * ratios[1])
    tokens = selection.tokens.split(LENGTHS)
    whole = [bool(part.all()) for part in tokens]
    assert all(w or role == PRUNABLE for w, k, role in zip(whole, kept, selection.samples.role, strict=True) if k)
    assert not any(part.any() for part, k in zip(tokens, kept, strict=True) if not k)


@pytest.mark.parametrize("token", [name for name, info in TOKEN_PRUNERS.items() if info.scope != "none"])
@pytest.mark.parametrize("sample", ["q-tuning", "random", "full"])
def test_token_pruners_keep_the_budget_of_the_batch(batch: Candidates, sample: str, token: str) -> None:
    ratio = 1.0 if sample == "full" else 0.5
    selection = method(sample, token, ratio, 0.5, updates="matched-updates").select(batch, generator(1))
    kept = selection.samples.kept[batch.owner]
    assert selection.asked_tokens == round(40 * ratio * 0.5)
    assert not selection.tokens[~kept].any() and selection.tokens.any()
    if TOKEN_PRUNERS[token].amount_with({}) == "asked":
        assert int(selection.tokens.sum()) == max(1, round(0.5 * int(kept.sum())))


def test_all_tokens_means_all_tokens_of_the_kept_samples(batch: Candidates) -> None:
    """Figure 4(a): at a token ratio of 1 nothing is cut, though the kept samples may be longer than their share."""
    for token in TOKEN_PRUNERS:
        for sample in ("q-tuning", "random", "longest"):
            for passes in ("once", "twice"):
                chosen = method(sample, token, 0.125, 1.0, updates="matched-updates", passes=passes)
                selection = chosen.select(batch, generator(3))
                assert torch.equal(selection.tokens, selection.samples.kept[batch.owner])
                assert selection.tokens.any()


def test_where_no_sample_is_kept_no_token_is(batch: Candidates) -> None:
    """A10 `none`: equal samples are in no quadrant; token pruners are not asked to keep what is not there."""
    assert batch.scores is not None
    equal = replace(batch, scores=replace(batch.scores, nll=torch.ones(40).double(), entropy=torch.ones(40).double()))
    for token in TOKEN_PRUNERS:
        selection = method("q-tuning", token, sample_options={"supplement": "none"}).select(equal, generator(0))
        assert not selection.samples.kept.any() and not selection.tokens.any()
        assert selection.asked_samples == 2


def single_readings(options: type[TriageOptions] | type[TokenPruningOptions]) -> list[tuple[str, Any]]:
    """Every reading that is not the default, one at a time."""
    fields = {name: field for name, field in options.model_fields.items() if name != "lambda_"}
    return [(n, value) for n, field in fields.items() for value in get_args(field.annotation) if value != field.default]


@pytest.mark.parametrize("reading", single_readings(TriageOptions), ids=str)
def test_readings_reach_triage(reading: tuple[str, Any]) -> None:
    name, value = reading
    chosen = method("q-tuning", "none", 0.25, 1.0, sample_options={name: value})
    differ, budget = 0, Budget.of(0.25, 1.0, 8, 40)
    for batch in map(batch_of, range(20)):
        role = chosen.select(batch, generator(4)).samples.role
        assert torch.equal(role, triage(batch, budget, generator(4), **{name: value}).role)
        differ += not torch.equal(role, triage(batch, budget, generator(4)).role)
    assert differ


@pytest.mark.parametrize("reading", [*single_readings(TokenPruningOptions), ("lambda", 0.0)], ids=str)
def test_readings_reach_token_pruning(reading: tuple[str, Any]) -> None:
    name, value = reading
    keyword = {"lambda_" if name == "lambda" else name: value}
    chosen = method("q-tuning", "q-tuning", 0.5, 0.7, token_options={name: value})
    differ, budget = 0, Budget.of(0.5, 0.7, 8, 40)
    for batch in map(batch_of, range(20)):
        selection = chosen.select(batch, generator(4))
        expected = prune_tokens(batch, selection.samples, budget, generator(4), **keyword)
        assert torch.equal(selection.tokens, expected)
        differ += not torch.equal(expected, prune_tokens(batch, selection.samples, budget, generator(4)))
    assert differ


def test_full_samples_with_q_tuning_tokens(batch: Candidates) -> None:
    """Every sample may lose tokens when no quadrants are known: half of 4 1 9 6 3 3 12 2, rounded down, at least 1."""
    selection = method("full", "q-tuning", 1.0, 0.5).select(batch, generator(0))
    assert selection.samples.kept.all()
    assert [int(part.sum()) for part in selection.tokens.split(LENGTHS)] == [2, 1, 4, 3, 1, 1, 6, 1]
    of_batch = method("full", "q-tuning", 1.0, 0.5, token_options={"counted": "response"}).select(batch, generator(0))
    assert int(of_batch.tokens.sum()) == 20


@pytest.mark.parametrize(("updates", "passes"), READINGS)
@pytest.mark.parametrize(("sample", "token"), [("random", "random"), ("entropy", "ppl"), ("longest", "fastv")])
def test_the_order_of_the_batch_does_not_matter(
    batch: Candidates, sample: str, token: str, updates: str, passes: str
) -> None:
    assert batch.scores is not None and batch.attention is not None and batch.prompts is not None
    scores, attention, numbers = batch.scores, batch.attention, batch.numbers
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    tokens = torch.cat([(batch.owner == index).nonzero().flatten() for index in order.tolist()])
    moved = Candidates(
        numbers[order],
        batch.lengths[order],
        BatchScores(scores.nll[tokens], scores.entropy[tokens], scores.lengths[order]),
        prompts=batch.prompts[order],
        attention=TokenAttention(attention.received[tokens], attention.rated[tokens]),
    )
    chosen = method(sample, token, 0.5, 0.5, updates=updates, passes=passes)
    assert torch.equal(
        chosen.select_epoch(moved, generator(2)).kept, chosen.select_epoch(batch, generator(2)).kept[order]
    )
    here, there = chosen.select(batch, generator(2)), chosen.select(moved, generator(2))
    assert torch.equal(there.samples.kept, here.samples.kept[order])
    assert torch.equal(there.tokens, here.tokens[tokens])


def test_unknown_pruners_and_other_versions_are_refused() -> None:
    with pytest.raises(UserError, match="rnadom"):
        method("rnadom", "none")
    with pytest.raises(UserError, match="version"):
        method("random", "none", sample_version="0")
    with pytest.raises(UserError, match="version"):
        method("random", "random", token_version="0")


def test_a_method_is_immutable() -> None:
    chosen = method("full", "none")
    with pytest.raises(FrozenInstanceError):
        chosen.pruning = chosen.pruning  # type: ignore[misc]


BATCH = Candidates(torch.tensor([4, 1, 7, 2]), torch.tensor([3, 1, 2, 2]))
GOOD = keep_first(torch.arange(4), 2)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (GOOD.kept, "must return a SampleSelection, not Tensor"),
        (replace(GOOD, role=GOOD.role[:3]), r"role must be a torch.int8 tensor \[4\], not torch.int8 \[3\]"),
        (replace(GOOD, role=GOOD.role.long()), "role must be a torch.int8 tensor"),
        (replace(GOOD, role=GOOD.role + 1), "role must be DROPPED"),
        (replace(GOOD, quadrant=GOOD.quadrant.double()), "quadrant must be"),
        (replace(GOOD, supplement=GOOD.role), "supplement must be"),
        (replace(GOOD, weights=cast("torch.Tensor", [1.0] * 4)), "weights must be .* not list"),
        (replace(GOOD, weights=torch.tensor([1.0, float("nan"), 1, 1])), "finite and not negative"),
        (replace(GOOD, weights=torch.tensor([1.0, -1, 1, 1])), "finite and not negative"),
        (replace(GOOD, log=cast("dict[str, float]", {"level": torch.tensor(0.5)})), "plain numbers"),
        (keep_first(torch.arange(4), 0), "none of 4 samples"),
    ],
)
def test_samples_that_make_no_sense(selection: SampleSelection, message: str) -> None:
    mine = replace(SAMPLE_PRUNERS["random"], name="my_pruners:f")
    check_samples(mine, GOOD, BATCH)
    check_samples(mine, replace(GOOD, weights=torch.ones(4)), BATCH)
    with pytest.raises(UserError, match=f"pruner my_pruners:f: .*{message}"):
        check_samples(mine, selection, BATCH)


def test_q_tuning_may_keep_nothing() -> None:
    """Reading A10, `none`, has no supplement; the loop counts such an update, and does not train on it."""
    check_samples(SAMPLE_PRUNERS["q-tuning"], keep_first(torch.arange(4), 0), BATCH)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True] * 8, "not list"),
        (torch.ones(4, dtype=torch.bool), r"the mask must be a torch.bool tensor \[8\], not torch.bool \[4\]"),
        (torch.ones(8), "not torch.float32"),
        (torch.ones(8, dtype=torch.bool), "not selected"),
        (torch.zeros(8, dtype=torch.bool), "none of 8 tokens"),
    ],
)
def test_tokens_that_make_no_sense(mask: Any, message: str) -> None:
    selection = replace(GOOD, role=torch.tensor([PRUNABLE, 0, 0, PRUNABLE], dtype=torch.int8))
    check_tokens(TOKEN_PRUNERS["random"], torch.tensor([1, 0, 0, 0, 0, 0, 0, 1]).bool(), BATCH, selection)
    with pytest.raises(UserError, match=f"pruner random: .*{message}"):
        check_tokens(TOKEN_PRUNERS["random"], mask, BATCH, selection)
