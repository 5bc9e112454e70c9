"""Predicted work against packed batches that are really made, and needs against the method that really runs."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtuning.data.samples import Sample
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.model.batch import pack, pack_whole
from qtuning.plan.lengths import Lengths, assumed
from qtuning.plan.shapes import Shape
from qtuning.plan.work import training_work

SHAPE = Shape(32, 48, 4, 4, 2, 8, 97, True)
SIZES = [(5, 20), (3, 7), (8, 1), (2, 33), (6, 12), (4, 18), (7, 9), (3, 25), (5, 14), (2, 6)]
MODEL = Model(name="tiny", source=ShippedModelSource(kind="shipped"))


def a_cell(
    method: str, sample_ratio: float = 0.5, token_ratio: float = 0.5, options: Any = None, **training: Any
) -> Cell:
    settings = {"tuning": "full", "epochs": 2, "batch_size": 4} | training
    entry = MethodEntry(method=method, options=options or {})
    return Cell(
        model=MODEL,
        train_set=TrainSet(name="rows", source=FileSource(kind="path", file="rows.jsonl")),
        pruning=make_pruning(entry, Ratios(sample_ratio=sample_ratio, token_ratio=token_ratio), models={"tiny": MODEL}),
        training=Training(**settings),
        seeds=Seeds(data=0, pruner=0, init=0),
    )


def lengths(sizes: list[tuple[int, int]] = SIZES) -> Lengths:
    prompts, responses = np.array(sizes, dtype=np.float64).T
    return Lengths(prompts, responses, 1.0, "tokens")


def cost_of(samples: list[Sample], keep: Any = None, factor: float = 1.0) -> float:
    packed = pack(samples, keep)
    assert packed is not None
    return factor * SHAPE.model_shape().forward_flops(packed.positions)


WAYS = [("full", False, 3), ("lora", True, 3), ("lora", False, 2)]


@pytest.mark.parametrize(("tuning", "checkpointing", "factor"), WAYS)
def test_full_data_is_exact(tuning: str, checkpointing: bool, factor: int) -> None:
    cell = a_cell("full", tuning=tuning, gradient_checkpointing=checkpointing)
    work, samples = training_work(cell, SHAPE, lengths()), oracles.random_samples(SIZES, seed=0)
    assert work.training_flops == pytest.approx(2 * cost_of(samples, factor=factor))
    assert work.scoring_flops == work.samples_scored == 0
    assert (work.updates, work.training_passes, work.samples_kept) == (6, 6, 20)
    assert work.tokens_kept == 2 * sum(response for _, response in SIZES)
    assert work.training_tokens == 2 * sum(prompt + response - 1 for prompt, response in SIZES)


@pytest.mark.parametrize(("method", "key"), [("longest+none", sum), ("longest-original+none", lambda size: -size[1])])
def test_pruners_by_length_train_the_lengths_that_they_keep(method: str, key: Callable[[Any], int]) -> None:
    """The paper's removes the longest sequences, the original keeps the longest responses."""
    work = training_work(a_cell(method, 0.3, 1.0), SHAPE, lengths())
    samples = oracles.random_samples(sorted(SIZES, key=key)[:3], seed=0)
    assert work.training_flops == pytest.approx(2 * cost_of(samples, factor=3))
    assert work.updates == 2  # one batch an epoch


def test_random_tokens_cost_what_random_masks_cost() -> None:
    """Mean over draws of half of the tokens of every sample, packed by the code that trains."""
    rng, totals = torch.Generator().manual_seed(0), []
    samples = oracles.random_samples(SIZES, seed=0)
    for _ in range(400):
        keep = []
        for sample in samples:
            count = max(1, round(0.5 * sample.response_length))
            mask = torch.zeros(sample.response_length, dtype=torch.bool)
            mask[torch.randperm(sample.response_length, generator=rng)[:count]] = True
            keep.append(mask)
        totals.append(cost_of(samples, keep, factor=3))
    work = training_work(a_cell("full+random", 1.0, 0.5, epochs=1), SHAPE, lengths())
    assert work.training_flops == pytest.approx(np.mean(totals), rel=0.02)


def test_scoring_is_accounted_as_it_is_forwarded() -> None:
    samples = oracles.random_samples(SIZES, seed=0)
    shape = SHAPE.model_shape()
    everything = cost_of(samples)
    assert training_work(a_cell("q-tuning"), SHAPE, lengths()).scoring_flops == pytest.approx(2 * everything)
    # the whole set by epoch, and a batch of the half that was drawn (of average length)
    entropy = training_work(a_cell("entropy+ppl"), SHAPE, lengths())
    assert entropy.scoring_flops == pytest.approx(2 * 1.5 * everything)
    assert entropy.samples_scored == 2 * (10 + 5)
    # attention of the last layer, and of layer 2 of 4: whole sequences through all or half of the layers, and no head
    for method, depth in (("full+fastv", 1.0), ("full+fastv-original", 0.5)):
        attention = training_work(a_cell(method), SHAPE, lengths())
        assert attention.scoring_flops == pytest.approx(
            2 * shape.forward_flops(pack_whole(samples, "nowhere").positions, depth)
        )
    sequence = training_work(a_cell("q-tuning", options={"entropy": "sequence"}), SHAPE, lengths())
    positions = pack_whole(samples, "everywhere").positions
    assert sequence.scoring_flops == pytest.approx(2 * shape.forward_flops(positions))
    assert training_work(a_cell("random+random"), SHAPE, lengths()).scoring_flops == 0
    assert training_work(a_cell("infobatch+random"), SHAPE, lengths()).scoring_flops == 0


def test_stale_and_proxy_scores_are_made_once() -> None:
    fresh = training_work(a_cell("q-tuning", epochs=4), SHAPE, lengths()).scoring_flops / 4
    stale = a_cell("q-tuning", options={"scoring": {"schedule": "stale", "epochs": 3}}, epochs=4)
    assert training_work(stale, SHAPE, lengths()).scoring_flops == pytest.approx(2 * fresh)
    proxy = a_cell("q-tuning", options={"scoring": {"schedule": "proxy"}, "proxy": "tiny"}, epochs=4)
    double = Shape(32, 48, 8, 4, 2, 8, 97, True)
    by_proxy = training_work(proxy, double, lengths(), {"proxy": SHAPE}).scoring_flops
    assert by_proxy == pytest.approx(fresh)
    rho = a_cell("full+rho-1", options={"reference": "tiny"}, epochs=4)
    assert training_work(rho, SHAPE, lengths(), {"reference": SHAPE}).scoring_flops == pytest.approx(5 * fresh)


WHOLE_WINDOWS = [
    ({}, 3),
    ({"update_samples": 8}, 2),
    ({"batch_size": 1}, 10),
    ({"batch_size": 1, "update_samples": 3}, 4),
]


@pytest.mark.parametrize(("training", "plain"), WHOLE_WINDOWS)
@pytest.mark.parametrize(("ratio", "batches"), [(0.5, 2), (0.25, 4), (0.1, 100), (1.0, 3)])
def test_a_pool_costs_what_fresh_scores_do_and_makes_fewer_updates(
    training: dict[str, int], plain: int, ratio: float, batches: int
) -> None:
    """P updates' batches make ceil(P r) updates, those of the smaller last pool of an epoch too."""
    options = {"scoring": {"schedule": "pool", "batches": batches}}
    pooled = training_work(a_cell("q-tuning", ratio, 0.5, options, **training), SHAPE, lengths())
    fresh = training_work(a_cell("q-tuning", ratio, 0.5, **training), SHAPE, lengths())
    full, rest = divmod(plain, batches)
    share = Fraction(str(ratio))
    assert pooled.updates == 2 * (full * math.ceil(batches * share) + math.ceil(rest * share))
    assert fresh.updates == 2 * plain
    assert pooled.scoring_flops == fresh.scoring_flops > 0
    assert (pooled.training_flops, pooled.samples_kept) == (fresh.training_flops, fresh.samples_kept)
    assert pooled.training_passes <= fresh.training_passes


def test_a_pool_that_scores_no_batch_is_plain_training() -> None:
    pool = {"scoring": {"schedule": "pool", "batches": 4}}
    by_epoch = [training_work(a_cell("entropy+random", 0.5, 0.5, options), SHAPE, lengths()) for options in (pool, {})]
    assert by_epoch[0] == by_epoch[1] and by_epoch[0].scoring_flops > 0


@pytest.mark.parametrize(
    ("tuning", "checkpointing", "back", "head"), [("full", 0, 2, 3), ("lora", 0, 1, 2), ("full", 1, 3, 3)]
)
def test_reused_graphs_save_the_forward_of_what_is_kept(tuning: str, checkpointing: int, back: int, head: int) -> None:
    """F of everything once; back through the layers of whole samples, and to the head with its gradient once more."""
    training = {"tuning": tuning, "gradient_checkpointing": bool(checkpointing)}
    reuse = {"scoring": {"schedule": "reuse-graph"}}
    samples, shape = oracles.random_samples(SIZES, seed=0), SHAPE.model_shape()
    packed = pack(samples)
    assert packed is not None
    through_head = 2 * SHAPE.head * packed.targets
    layers = shape.forward_flops(packed.positions) - through_head
    of_batch = {"counted": "response"} | reuse
    work = training_work(a_cell("q-tuning", 1.0, 0.5, of_batch, **training), SHAPE, lengths())
    kept = sum(max(1.0, response / 2) for _, response in SIZES)
    assert work.scoring_flops == pytest.approx(2 * (layers + through_head))
    assert work.training_flops == pytest.approx(2 * (back * layers + head * 2 * SHAPE.head * kept))
    assert (work.training_tokens, work.tokens_kept) == (0, pytest.approx(2 * kept))
    fresh = training_work(a_cell("q-tuning", 0.5, 1.0, **training), SHAPE, lengths())
    reused = training_work(a_cell("q-tuning", 0.5, 1.0, reuse, **training), SHAPE, lengths())
    assert reused.scoring_flops == fresh.scoring_flops and reused.training_flops < fresh.training_flops


def test_q_tuning_keeps_whole_what_is_not_in_q2() -> None:
    """Half of the 10 samples are kept, 2 in 5 of them in Q2; Q2 keeps half of its tokens (A7), the others all."""
    responses = sum(response for _, response in SIZES)

    def kept(options: Any = None, method: str = "q-tuning", ratio: float = 0.5) -> float:
        cell = a_cell(method, ratio, 0.5, options, epochs=1, batch_size=10)
        return training_work(cell, SHAPE, lengths([(prompt, 2 * n) for prompt, n in SIZES])).tokens_kept / responses

    assert kept() == pytest.approx(0.5 * (0.4 * 1 + 0.6 * 2))
    assert kept({"prune_in": "Q4"}) == pytest.approx(0.5 * (0.4 * 2 + 0.6 * 1))
    assert kept({"prune_in": "Q2+Q4"}) == kept({"counted": "response"}) == pytest.approx(0.5)
    assert kept({"prune_in": "none"}) == pytest.approx(0.5 * 2)
    assert kept(method="full+q-tuning") == pytest.approx(1)
    assert kept(method="q-tuning-third-party") == pytest.approx(0.8 * (0.4 * 1 + 0.6 * 2)), "all but two samples"
    assert kept({"kept_samples": "floor"}, ratio=0.19) == kept(ratio=0.1)


def test_updates_follow_batches_and_windows() -> None:
    assert training_work(a_cell("random+random"), SHAPE, lengths()).updates == 2 * 2  # 5 drawn of 10, batches of 4
    assert training_work(a_cell("q-tuning"), SHAPE, lengths()).updates == 2 * 3
    assert training_work(a_cell("q-tuning", update_samples=16), SHAPE, lengths()).updates == 2 * 1
    assert training_work(a_cell("q-tuning"), SHAPE, lengths()).samples_kept == 2 * (2 + 2 + 1)
    twice = a_cell("random+none", 0.5, 1.0, options={"passes": "twice"})
    assert training_work(twice, SHAPE, lengths()).samples_kept == pytest.approx(2 * (2 + 1))  # of batches of 4 and 1
    annealed = a_cell("infobatch-original+none", 0.5, 1.0, options={"anneal": 0.5})
    assert training_work(annealed, SHAPE, lengths()).samples_kept == 5 + 10


@given(
    st.sampled_from(["random+random", "longest+ppl", "entropy+fastv", "q-tuning", "infobatch+sparsevlm"]),
    st.integers(1, 15),
    st.integers(1, 15),
)
def test_a_larger_budget_costs_more(method: str, samples: int, tokens: int) -> None:
    sizes = assumed(200, 20.0, 40.0, 0.8, 0.5, 256)
    less = training_work(a_cell(method, samples / 16, tokens / 16, batch_size=16), SHAPE, sizes)
    more = training_work(a_cell(method, (samples + 1) / 16, tokens / 16, batch_size=16), SHAPE, sizes)
    assert less.training_flops < more.training_flops
    full = training_work(a_cell("full", batch_size=16), SHAPE, sizes)
    assert more.training_flops <= full.training_flops * (1 + 1e-9)


def test_assumed_lengths_have_their_mean_and_respect_the_cutoff() -> None:
    sizes = assumed(70_000, 100.0, 300.0, 0.5, 0.4, 10_000)
    assert sizes.rows == 70_000
    assert sizes.prompts.mean() == pytest.approx(100, rel=0.01)
    assert sizes.responses.mean() == pytest.approx(300, rel=0.01)
    assert sizes.responses.std() / sizes.responses.mean() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(sizes.prompts, sizes.responses)[0, 1]) < 0.1
    assert assumed(70_000, 100.0, 300.0, 0.5, 0.4, 256).tokens.max() <= 256
    assert len(assumed(3, 100.0, 300.0, 0.5, 0.4, 256).prompts) == 3
