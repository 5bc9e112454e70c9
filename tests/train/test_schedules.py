"""Schedules of scoring (stale scores, bfloat16, reused graphs, pools): what they change and what they do not."""

import math
from typing import Any

import pytest
import torch
from loops import (
    CLOSE,
    GLOBAL,
    POOLED,
    REUSE,
    apart,
    cell_of,
    described_rate,
    plain_training,
    pooling,
    run,
    started,
    timeless,
)

from qtuning.data.samples import Sample
from qtuning.errors import UserError

STALE = {"scoring": {"schedule": "stale", "epochs": 2, "compare_every": 2}}


def test_stale_scores_are_those_of_the_epoch_they_were_made_in(tiny_llama: Any, samples: list[Sample]) -> None:
    """Scored before epochs 0 and 2 of three; the first decision is that of fresh scores."""
    fresh = run(cell_of("q-tuning", (0.5, 0.5), epochs=3), tiny_llama, samples)
    stale = run(cell_of("q-tuning", (0.5, 0.5), options=STALE, epochs=3), tiny_llama, samples)
    assert stale.cost["samples_scored"] == 2 * 18 and fresh.cost["samples_scored"] == 3 * 18
    assert [row[:3] + row[5:10] for row in stale.trace if row[0] == 0] == [
        row[:3] + row[5:10] for row in fresh.trace if row[0] == 0
    ]
    ppl = [{row[2]: row[3] for row in stale.trace if row[1] == epoch} for epoch in range(3)]
    assert ppl[0] == ppl[1] and all(ppl[2][number] != value for number, value in ppl[0].items())
    assert stale.records[0]["agreement/samples_kept"] == stale.records[0]["agreement/quadrants"] == 1.0
    assert stale.records[0]["agreement/spearman_ppl"] == pytest.approx(1.0)
    assert "agreement/tokens_kept" not in stale.records[1], "every second update"
    late = [r["agreement/tokens_kept"] for r in stale.records if "agreement/tokens_kept" in r][-1]
    assert 0.0 <= late <= 1.0
    looked = run(
        cell_of("q-tuning", (0.5, 0.5), options={"scoring": {"schedule": "stale", "epochs": 2}}, epochs=3),
        tiny_llama,
        samples,
    )
    assert all(torch.equal(w, looked.weights[name]) for name, w in stale.weights.items()), "looking changes nothing"


def test_scores_in_bfloat16_steer_training_in_float32(tiny_llama: Any, samples: list[Sample]) -> None:
    options = {"scoring": {"precision": "bfloat16", "compare_every": 1}}
    result = run(cell_of("q-tuning-budget", (0.5, 0.5), options=options), tiny_llama, samples)
    assert all(record["agreement/spearman_ppl"] > 0.95 for record in result.records)
    whole = run(cell_of("q-tuning-budget", (1.0, 1.0), options=options), tiny_llama, samples)
    full = run(cell_of("full"), tiny_llama, samples)
    assert all(torch.equal(w, whole.weights[name]) for name, w in full.weights.items())


@pytest.mark.parametrize("schedule", ["stale", "proxy", "fresh", "reuse-graph", "pool", "no batch"])
def test_remembered_losses_are_those_of_the_weights_that_learned(
    build: Any, tiny_llama: Any, samples: list[Sample], schedule: str
) -> None:
    """InfoBatch decides by the losses of the model that is trained, and not by those of a table."""
    scoring: dict[str, Any] = {"schedule": schedule}
    options: dict[str, Any] = {"scoring": scoring}
    method = "infobatch+ppl"
    if schedule == "stale":
        scoring["epochs"] = 2
    elif schedule == "proxy":
        options["proxy"] = "m"
    elif schedule == "pool":
        scoring["batches"] = 2
    elif schedule == "no batch":  # only drawn by scores, of the epoch's start
        options, method = {}, "entropy+random"
    loop, _ = started(cell_of(method, (0.5, 0.5), options=options), tiny_llama, samples)
    if schedule == "proxy":
        other, _ = started(cell_of("q-tuning"), build("llama", seed=5), samples)
        loop.source.table = other.source.whole_train_set({"scores"}, 0).scores
    position = {sample.number: index for index, sample in enumerate(samples)}
    differ = 0
    for window in loop.windows():
        before = loop.source.losses.clone()
        _, trace = loop.step(window)
        for row in trace:
            ppl, trained, remembered = row[3], row[11], float(loop.source.losses[position[row[2]]])
            if schedule in ("fresh", "reuse-graph", "pool") and ppl is not None:
                assert remembered == math.log(ppl)
            elif trained is not None:
                assert remembered == trained
                differ += ppl is not None and abs(math.log(ppl) - trained) > 0.01
            else:
                assert remembered == pytest.approx(float(before[position[row[2]]]), nan_ok=True), "nothing is learned"
    assert (differ > 0) == (schedule in ("stale", "proxy", "no batch"))


@pytest.mark.parametrize("method", ["q-tuning", "entropy+ppl", "longest+ppl", "infobatch+ppl"])
@pytest.mark.parametrize("selection", ["device", "global"])
def test_reused_graphs_train_as_fresh_scores_do(
    tiny_llama: Any, samples: list[Sample], method: str, selection: str
) -> None:
    """The same decisions in every update, and weights that differ by the rounding of float32."""
    options = {"selection": selection}
    fresh = run(cell_of(method, (0.5, 0.7), options=options), tiny_llama, samples)
    reused = run(cell_of(method, (0.5, 0.7), options=options | REUSE), tiny_llama, samples)
    assert [row[:3] + row[5:11] for row in reused.trace] == [row[:3] + row[5:11] for row in fresh.trace]
    for column in (3, 4, 11):
        ours, theirs = ([row[column] for row in r.trace if row[column] is not None] for r in (reused, fresh))
        assert ours == pytest.approx(theirs, rel=1e-3) and len(theirs) > 0
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in reused.records] == pytest.approx([r[key] for r in fresh.records], rel=1e-3)
    assert apart(reused.weights, fresh.weights, tiny_llama) <= CLOSE
    ours, theirs = reused.cost, fresh.cost
    for key in ("samples_scored", "tokens_scored", "flops_scoring", "samples_kept", "tokens_kept", "updates"):
        assert ours[key] == theirs[key]
    assert ours["tokens_forwarded"] == 0 < theirs["tokens_forwarded"], "scored and trained in one forward"
    assert ours["flops_training"] < theirs["flops_training"]


def test_where_no_batch_is_scored_there_is_no_graph_to_reuse(tiny_llama: Any, samples: list[Sample]) -> None:
    plain = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    for scoring in (REUSE, pooling(3)):
        other = run(cell_of("entropy+random", (0.5, 0.5), options=scoring), tiny_llama, samples)
        assert timeless(other.records) == timeless(plain.records)


def test_reuse_is_refused_where_training_drops_out(build: Any, samples: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"reuse-graph': .*attention_dropout"):
        started(cell_of("q-tuning", (0.5, 0.5), options=REUSE), build("llama", attention_dropout=0.5), samples)


def test_a_pool_of_one_is_fresh_scoring_bit_for_bit(tiny_llama: Any, samples: list[Sample]) -> None:
    cell = cell_of("q-tuning", (0.5, 0.7), options=pooling(2), accumulation=1)
    assert cell.pruning is not None
    scoring = cell.pruning.scoring.model_copy(update={"batches": 1})  # nobody can ask for it
    one = run(
        cell.model_copy(update={"pruning": cell.pruning.model_copy(update={"scoring": scoring})}),
        *(tiny_llama, samples),
    )
    fresh = run(cell_of("q-tuning", (0.5, 0.7), accumulation=1), tiny_llama, samples)
    assert timeless(one.records) == timeless(fresh.records)
    assert sorted(one.trace) == sorted(fresh.trace)
    assert all(torch.equal(weight, one.weights[name]) for name, weight in fresh.weights.items())


@pytest.mark.parametrize(
    ("ratio", "batches", "spans"),
    [(0.5, 4, [2, 2, 1]), (0.25, 4, [1, 1, 1]), (0.5, 5, [3, 2]), (1.0, 4, [4, 4, 1]), (0.5, 100, [5])],
)
def test_a_pool_makes_fewer_updates_of_full_batches(
    tiny_llama: Any, samples: list[Sample], ratio: float, batches: int, spans: list[int]
) -> None:
    result = run(cell_of("q-tuning-budget", (ratio, 0.7), options=pooling(batches), **POOLED), tiny_llama, samples)
    fresh = run(cell_of("q-tuning-budget", (ratio, 0.7), **POOLED), tiny_llama, samples)
    assert len(result.records) == 2 * sum(spans) == result.cost["updates"]
    # of every batch of the pool, what fresh scores would decide, in the first pool
    size = 2 * batches
    first = {row[2]: row[5:11] for row in result.trace if row[0] < spans[0]}
    assert len(first) == min(size, len(samples))
    before = {row[2]: row[5:11] for row in fresh.trace if row[0] == 0}
    assert {number: first[number] for number in before} == before
    # every sample is told of once an epoch, what is trained in the update that trains it, the rest with the first
    for epoch in (0, 1):
        rows = [row for row in result.trace if row[1] == epoch]
        assert sorted(row[2] for row in rows) == sorted(sample.number for sample in samples)
    assert all((row[11] is not None) == (row[9] > 0) for row in result.trace)
    at = 0
    for span in spans:
        later = [row for row in result.trace if at < row[0] < at + span]
        assert all(row[9] > 0 for row in later)
        asked = [record["samples_asked"] for record in result.records[at : at + span]]
        assert asked[0] > 0 and not any(asked[1:])
        scored = {record["selection/level"] for record in result.records[at : at + 1]}
        assert scored and "selection/level" not in (result.records[at + 1] if span > 1 else {})
        at += span
    cost = result.cost
    assert cost["samples_scored"] == fresh.cost["samples_scored"] == 36
    assert cost["samples_kept"] == fresh.cost["samples_kept"]
    rates = [record["learning_rate"] for record in result.records]
    expected = [described_rate(u, 2 * sum(spans), cell_of("full").training) for u in range(2 * sum(spans))]  # type: ignore[arg-type]
    assert rates == pytest.approx(expected)


def test_an_update_of_a_pool_is_plain_training_on_its_samples(tiny_llama: Any, samples: list[Sample]) -> None:
    """All tokens of the kept samples (25 x 100): the first update equals a textbook step on just these."""
    cell = cell_of("q-tuning", (0.5, 1.0), options=pooling(9), batch_size=2, accumulation=3, epochs=1)
    loop, window = started(cell, tiny_llama, samples)
    assert (window.span, len(window.batches)) == (2, 9)
    record, trace = loop.step(window)
    trained = [next(s for s in samples if s.number == row[2]) for row in trace if row[9]]
    assert 3 < len(trained) < 9
    _, losses, norms = plain_training(cell, tiny_llama, [trained, trained])
    assert record["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert record["grad_norm"] == pytest.approx(norms[0], rel=1e-4)


def test_pools_under_global_selection_do_not_see_how_they_are_cut(tiny_llama: Any, samples: list[Sample]) -> None:
    """4 updates of 2 batches of 2, of 1 of 4, of 4 of 1: the same 16 samples are one selection."""
    runs = [
        run(
            cell_of("q-tuning", (0.5, 0.7), options=GLOBAL | pooling(4), batch_size=size, accumulation=times),
            tiny_llama,
            samples,
        )
        for size, times in ((2, 2), (4, 1), (1, 4))
    ]
    for other in runs[1:]:
        assert sorted(row[:3] + row[5:11] for row in other.trace) == sorted(
            row[:3] + row[5:11] for row in runs[0].trace
        )
        assert apart(other.weights, runs[0].weights, tiny_llama) <= CLOSE


def test_a_pool_is_compared_when_its_scores_are_oldest(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("q-tuning", (0.5, 0.7), options=pooling(5, compare_every=1), **POOLED), tiny_llama, samples)
    seen = ["agreement/samples_kept" in record for record in result.records]
    assert seen == [False, False, True, False, True] * 2, "in the last updates of pools of 3 and 2"
    rare = run(cell_of("q-tuning", (0.5, 0.7), options=pooling(5, compare_every=7), **POOLED), tiny_llama, samples)
    assert ["agreement/samples_kept" in record for record in rare.records] == [
        False,
        False,
        True,
        *[False] * 4,
        True,
        *[False] * 2,
    ]
    assert any(record.get("agreement/spearman_ppl", 1.0) < 1.0 for record in result.records), "scores have aged"
    assert all(torch.equal(w, rare.weights[name]) for name, w in result.weights.items()), "looking changes nothing"
