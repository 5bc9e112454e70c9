"""A method on one batch: names looked up, budgets asked for, scopes."""

import pytest
import torch

from qtuning.config import Pruning
from qtuning.pruners.base import PRUNABLE, Candidates
from qtuning.pruners.select import Method, method_of
from qtuning.scores import BatchScores
from qtuning.seeding import generator

LENGTHS = [4, 1, 9, 6, 3, 3, 12, 2]


def pruning_of(sample: str, token: str, sample_ratio: float = 0.25, token_ratio: float = 0.5) -> Pruning:
    return Pruning(
        sample_pruner=sample,
        token_pruner=token,
        sample_ratio=sample_ratio,
        token_ratio=token_ratio,
        token_options={"lambda": 0.5} if token == "q-tuning" else {},
    )


@pytest.fixture
def batch() -> Candidates:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    nll, entropy = (torch.rand(sum(LENGTHS), generator=rng, dtype=torch.float64) * 4 for _ in range(2))
    return Candidates(torch.arange(8) * 2, lengths, BatchScores(nll, entropy, lengths))


@pytest.mark.parametrize(
    ("sample", "token", "by_epoch", "needs_scores"),
    [
        ("full", "none", False, False),
        ("random", "random", True, False),
        ("full", "random", False, False),
        ("random", "none", True, False),
        ("q-tuning", "q-tuning", False, True),
        ("q-tuning", "none", False, True),
        ("full", "q-tuning", False, True),
    ],
)
def test_what_a_method_needs(sample: str, token: str, by_epoch: bool, needs_scores: bool) -> None:
    method = method_of(pruning_of(sample, token))
    assert (method.by_epoch, method.needs_scores) == (by_epoch, needs_scores)
    matched = method_of(pruning_of(sample, token), matched_updates=True)
    assert (matched.by_epoch, matched.needs_scores) == (False, needs_scores)


@pytest.mark.parametrize(("sample", "token"), [("full", "none"), ("q-tuning", "q-tuning"), ("random", "random")])
def test_the_whole_budget_prunes_nothing(batch: Candidates, sample: str, token: str) -> None:
    method = method_of(pruning_of(sample, token, 1.0, 1.0))
    assert method.select_epoch(batch, generator(0)).tolist() == list(range(8))
    selection = method.select(batch, generator(0))
    assert bool(selection.samples.kept.all()) and bool(selection.tokens.all())
    assert (selection.asked_samples, selection.asked_tokens) == (8, 40)


def test_epoch_level_pruning_draws_before_the_epoch_and_keeps_every_batch(batch: Candidates) -> None:
    method = method_of(pruning_of("random", "random"))
    drawn = method.select_epoch(batch, generator(5))
    assert len(drawn) == 2 and drawn.tolist() == sorted(drawn.tolist())
    selection = method.select(batch, generator(5))
    assert bool(selection.samples.kept.all())
    assert int(selection.tokens.sum()) == selection.asked_tokens == 20 and selection.asked_samples == 8


def test_matched_updates_prune_inside_the_batch(batch: Candidates) -> None:
    """Reading A11: as many updates as full data; the samples go inside each batch."""
    method = method_of(pruning_of("random", "random"), matched_updates=True)
    assert method.select_epoch(batch, generator(5)).tolist() == list(range(8))
    selection = method.select(batch, generator(5))
    assert int(selection.samples.kept.sum()) == selection.asked_samples == 2
    assert selection.asked_tokens == 5
    available = int(batch.lengths[selection.samples.kept].sum())
    assert int(selection.tokens.sum()) == min(5, available)
    assert not selection.tokens[~selection.samples.kept[batch.owner]].any()


@pytest.mark.parametrize("ratios", [(0.125, 0.5), (0.25, 0.5), (0.25, 0.7), (0.5, 0.7), (1.0, 0.5)])
def test_q_tuning_keeps_its_budget(batch: Candidates, ratios: tuple[float, float]) -> None:
    selection = method_of(pruning_of("q-tuning", "q-tuning", *ratios)).select(batch, generator(0))
    kept = selection.samples.kept
    assert int(kept.sum()) == selection.asked_samples == max(1, round(8 * ratios[0]))
    assert selection.asked_tokens == round(40 * ratios[0] * ratios[1])
    tokens = selection.tokens.split(LENGTHS)
    whole = [bool(part.all()) for part in tokens]
    assert all(w or role == PRUNABLE for w, k, role in zip(whole, kept, selection.samples.role, strict=True) if k)
    assert not any(part.any() for part, k in zip(tokens, kept, strict=True) if not k)


def test_all_tokens_means_all_tokens_of_the_kept_samples(batch: Candidates) -> None:
    """Figure 4(a): at a token ratio of 1 nothing is cut, though the kept samples may be longer than their share."""
    for sample in range(8):  # whichever it is that is kept, it is whole
        rng = generator(sample)
        for method in ("q-tuning", "random"):
            selection = method_of(pruning_of(method, method, 0.125, 1.0), matched_updates=True).select(batch, rng)
            assert torch.equal(selection.tokens, selection.samples.kept[batch.owner])


def test_full_samples_with_q_tuning_tokens(batch: Candidates) -> None:
    """Figure 4(b)'s counterpart: every sample may lose tokens when no quadrants are known."""
    selection = method_of(pruning_of("full", "q-tuning", 1.0, 0.5)).select(batch, generator(0))
    assert bool(selection.samples.kept.all()) and int(selection.tokens.sum()) == 20


def test_options_reach_the_pruners(batch: Candidates) -> None:
    masks = []
    for weight in (0.0, 1.0):
        pruning = pruning_of("full", "q-tuning", 1.0, 0.5).model_copy(update={"token_options": {"lambda": weight}})
        masks.append(method_of(pruning).select(batch, generator(0)).tokens)
    assert not torch.equal(*masks)


def test_a_method_is_immutable(batch: Candidates) -> None:
    method = method_of(pruning_of("full", "none"))
    assert isinstance(method, Method)
    with pytest.raises(AttributeError):
        method.by_epoch = True  # type: ignore[misc]
