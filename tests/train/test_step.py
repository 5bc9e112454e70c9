"""One update after the other: against a plain PyTorch loop, against itself at other shapes, and by its own account."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from loops import (
    BASELINES,
    CLOSE,
    GLOBAL,
    HISTORY,
    Run,
    apart,
    cell_of,
    described_rate,
    plain_training,
    run,
    started,
)
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.experiment.presets import PRESETS
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel
from qtuning.scoring.scores import NonFinite


def updates_of(result: Run, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each update, as the trace has them."""
    by_number = {sample.number: sample for sample in samples}
    return [[by_number[row[2]] for row in result.trace if row[0] == update] for update in range(len(result.records))]


@pytest.mark.parametrize(
    "training",
    [{}, {"schedule": "linear", "max_grad_norm": None}, {"batch_size": 18, "accumulation": 1}],
    ids=["partial window", "no clipping", "one batch an epoch"],
)
def test_without_pruning_it_is_plain_training(tiny_llama: Any, samples: list[Sample], training: dict[str, Any]) -> None:
    """The mean over the tokens of the whole window, the last and smaller window of an epoch included."""
    cell = cell_of("full", **training)
    result = run(cell, tiny_llama, samples)
    batches = updates_of(result, samples)
    weights, losses, norms = plain_training(cell, tiny_llama, batches)
    if not training:
        assert [len(batch) for batch in batches] == [8, 8, 2] * 2
    assert [record["loss"] for record in result.records] == pytest.approx(losses, rel=1e-4)
    assert [record["grad_norm"] for record in result.records] == pytest.approx(norms, rel=1e-4)
    if training.get("max_grad_norm", 1.0) is not None:
        assert max(norms) > 1.0, "clipping is in use"
    assert apart(result.weights, weights, tiny_llama) <= CLOSE
    numbers = sorted(sample.number for sample in samples)
    for epoch in (0, 1):
        assert sorted(row[2] for row in result.trace if row[1] == epoch) == numbers


@pytest.mark.parametrize("method", [*PRESETS, *BASELINES[::6], *HISTORY])
def test_the_whole_budget_is_plain_training_bit_for_bit(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    full, whole = run(cell_of("full"), tiny_llama, samples), run(cell_of(method), tiny_llama, samples)
    for key in ("loss", "grad_norm", "learning_rate", "tokens_kept", "samples_kept"):
        assert [record[key] for record in full.records] == [record[key] for record in whole.records]
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in full.weights.items())


def test_the_same_cell_twice(tiny_llama: Any, samples: list[Sample]) -> None:
    cell = cell_of("q-tuning", (0.5, 0.7))
    first, second, other = (run(c, tiny_llama, samples) for c in (cell, cell, cell_of("q-tuning", (0.5, 0.7), seed=1)))
    assert first.trace == second.trace
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    assert first.trace != other.trace


def test_accumulation_is_a_larger_batch(tiny_llama: Any, samples: list[Sample]) -> None:
    parts, whole, single = (
        run(cell_of("full", batch_size=size, accumulation=times), tiny_llama, samples)
        for size, times in ((4, 2), (8, 1), (1, 8))
    )
    for other in (parts, single):
        assert [r["tokens_kept"] for r in other.records] == [r["tokens_kept"] for r in whole.records]
        assert [r["loss"] for r in other.records] == pytest.approx([r["loss"] for r in whole.records], rel=1e-5)
        assert [r["grad_norm"] for r in other.records] == pytest.approx(
            [r["grad_norm"] for r in whole.records], rel=1e-4
        )
        assert apart(other.weights, whole.weights, tiny_llama) <= CLOSE


@pytest.mark.parametrize("method", ["q-tuning", "random", "longest+sparsevlm", "q-tuning+rho-1", "entropy+fastv"])
def test_global_selection_does_not_see_how_a_window_is_cut(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    """Batch 8 = 8 accumulated batches of 1, under reading A9 `global` (on two processes: below)."""
    whole, single, parts = (
        run(cell_of(method, (0.5, 0.5), options=GLOBAL, batch_size=size, accumulation=times), tiny_llama, samples)
        for size, times in ((8, 1), (1, 8), (4, 2))
    )
    for other in (single, parts):
        assert [row[:3] + row[5:10] for row in other.trace] == [row[:3] + row[5:10] for row in whole.trace]
        for key in ("samples_kept", "samples_asked", "tokens_kept", "tokens_asked"):
            assert [r[key] for r in other.records] == [r[key] for r in whole.records]
        assert [r["loss"] for r in other.records] == pytest.approx([r["loss"] for r in whole.records], rel=1e-4)
        assert apart(other.weights, whole.weights, tiny_llama) <= CLOSE
    device = run(cell_of(method, (0.5, 0.5), batch_size=1, accumulation=8), tiny_llama, samples)
    assert [row[9] for row in device.trace] != [row[9] for row in single.trace], "the reading makes a difference"


def test_a_window_of_which_nothing_is_kept_makes_no_update(tiny_llama: Any, samples: list[Sample]) -> None:
    """Reading A10, `none`, with batches of one: the thresholds keep nothing."""
    cell = cell_of("q-tuning", (0.5, 0.5), options={"supplement": "none"}, batch_size=1, accumulation=2)
    result = run(cell, tiny_llama, samples)
    assert {record["tokens_kept"] for record in result.records} == {0}
    assert {record["loss"] for record in result.records} == {None}
    assert result.cost["updates"] == 0 and result.cost["updates_skipped"] == len(result.records) == 18
    assert all(torch.equal(w, result.weights[name]) for name, w in tiny_llama.named_parameters())


def test_methods_by_epoch_are_scored_once_an_epoch(tiny_llama: Any, samples: list[Sample]) -> None:
    drawn = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    assert drawn.cost["samples_scored"] == 36 and drawn.cost["samples_kept"] == 18
    both = run(cell_of("entropy+ppl", (0.5, 0.5)), tiny_llama, samples)
    assert both.cost["samples_scored"] == 36 + 18, "and what is kept once more, for the tokens"
    matched = run(cell_of("entropy+ppl", (0.5, 0.5), options={"updates": "matched-updates"}), tiny_llama, samples)
    assert matched.cost["samples_scored"] == 36 and matched.cost["updates"] == 6 > both.cost["updates"] == 4
    twice = run(cell_of("random", (0.5, 0.5), options={"passes": "twice"}), tiny_llama, samples)
    assert twice.cost["samples_kept"] == 2 * (2 + 2 + 1), "half of each of the batches of 4, 4 and 1 of an epoch"


@pytest.mark.parametrize("method", ["random-once", "alpagasus", "deita", "ds2", "less"])
def test_pruners_that_select_once_draw_before_training(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    """Scope `once`: one draw for all epochs, by embeddings of the base model if any. Matched (A11): in each batch."""
    embeds = method in ("deita", "ds2")
    result = run(cell_of(f"{method}+none", (0.5, 1.0), epochs=3), tiny_llama, samples)
    by_epoch = [{row[2] for row in result.trace if row[1] == epoch} for epoch in range(3)]
    assert by_epoch[0] == by_epoch[1] == by_epoch[2] and len(by_epoch[0]) == 9
    assert result.cost["samples_scored"] == 18 * embeds
    forward = sum(len(sample.tokens) for sample in samples)
    assert result.cost["tokens_scored"] == forward * embeds and (result.cost["flops_scoring"] > 0) == embeds
    told = {"alpagasus": "lowest_rating", "deita": "filled", "ds2": "corrected_share"}
    assert method not in told or [f"selection/{told[method]}" in record for record in result.records] == [
        record["epoch"] == 0 for record in result.records
    ]
    matched = cell_of(f"{method}+none", (0.5, 1.0), options={"updates": "matched-updates"}, epochs=3)
    inside = run(matched, tiny_llama, samples)
    assert inside.cost["updates"] == 9 > result.cost["updates"] == 6
    assert inside.cost["samples_kept"] == 3 * (4 * 2 + 1) and inside.cost["samples_scored"] == 54 * embeds


def test_infobatch_rescales_remembers_and_anneals(tiny_llama: Any, samples: list[Sample]) -> None:
    """Four epochs, the data full again in the last (anneal 0.75)."""
    cell = cell_of("infobatch-original+none", (0.5, 1.0), options={"anneal": 0.75}, epochs=4)
    result = run(cell, tiny_llama, samples)
    by_epoch = [[row for row in result.trace if row[1] == epoch] for epoch in range(4)]
    assert [len(rows) for rows in by_epoch] == [9, 9, 9, 18]
    assert {row[10] for row in by_epoch[0]} == {2.0}, "nothing is known of any sample: 18 / 9"
    assert {row[10] for row in by_epoch[3]} == {1.0}
    assert len({row[10] for row in by_epoch[1]}) == 2, "below the mean loss and not"
    assert sum(row[10] for row in by_epoch[1]) == pytest.approx(18)
    losses = [row[11] for row in result.trace if row[0] == 0]
    lengths = [row[9] for row in result.trace if row[0] == 0]
    mean = sum(2 * loss * length for loss, length in zip(losses, lengths, strict=True)) / sum(lengths)
    first = result.records[0]
    assert first["objective"] == pytest.approx(mean, rel=1e-5), "weighted sum over the number of kept tokens"
    assert first["loss"] == pytest.approx(mean / 2, rel=1e-5), "and the mean without the factors"
    assert "selection/below_mean_share" in result.records[4], "the draw of an epoch is told of, too"
    matched = run(
        cell_of(
            "infobatch-original+none", (0.5, 1.0), options={"updates": "matched-updates"}, batch_size=18, accumulation=1
        ),
        tiny_llama,
        samples,
    )
    assert matched.records[0]["objective"] == pytest.approx(matched.records[0]["loss"], rel=1e-5), "weights average 1"


def test_the_trace_tells_what_a_draw_by_scores_left_out(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("entropy+random", (0.5, 0.5)), tiny_llama, samples)
    for epoch in (0, 1):
        rows = [row for row in result.trace if row[1] == epoch]
        assert sorted(row[2] for row in rows) == sorted(sample.number for sample in samples)
        kept, dropped = ([row[4] for row in rows if row[6] is flag] for flag in (True, False))
        assert len(kept) == len(dropped) == 9 and min(kept) > max(dropped), "the highest entropies stay"
    assert [record["samples"] for record in result.records] == [8, 1, 8, 1]


def test_a_pruner_may_log_what_it_likes_when_it_likes(tiny_llama: Any, samples: list[Sample]) -> None:
    loop, _ = started(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    whole, calls = loop.method.prune_samples, [0]

    def sometimes(*arguments: Any) -> Any:
        calls[0] += 1
        chosen = whole(*arguments)
        return replace(chosen, log={"now_and_then": 3.0} if calls[0] % 2 else {})

    loop.method = replace(loop.method, prune_samples=sometimes)
    record, _ = loop.step(next(loop.windows()))
    assert record["selection/now_and_then"] == 3.0


@pytest.mark.parametrize("method", [*BASELINES, *HISTORY])
def test_every_baseline_trains_within_its_budget(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    result = run(cell_of(method, (0.5, 0.5), epochs=1), tiny_llama, samples)
    assert sum(record["samples_kept"] for record in result.records) == 9
    assert len(result.records) == 2 and all(math.isfinite(record["loss"]) for record in result.records)
    if not method.endswith(("history", "sparsevlm-original", "token-cleaning")):  # these meet no budget of a batch
        assert all(record["tokens_kept"] == record["tokens_asked"] for record in result.records)


def test_a_masked_token_has_exactly_no_gradient_at_its_logits(tiny_llama: Any, samples: list[Sample]) -> None:
    """The hidden states that would predict it get none from the head, so neither would its logits."""
    model = PackedModel(copy.deepcopy(tiny_llama))
    keep = [torch.arange(sample.response_length) % 3 == 0 for sample in samples]
    packed = pack(samples, keep)
    assert packed is not None
    caught: list[Tensor] = []
    model.causal_lm.model.norm.register_forward_hook(lambda module, inputs, output: caught.append(output))
    loss, _ = model(packed)
    caught[0].retain_grad()
    loss.backward()
    rows = caught[0].grad[0].abs().sum(dim=-1)  # type: ignore[index]
    predicts = torch.zeros(packed.tokens, dtype=torch.bool)
    predicts[packed.source] = True
    assert 0 < int(predicts.sum()) == sum(int(mask.sum()) for mask in keep) < packed.tokens
    assert bool((rows[~predicts] == 0).all()) and bool((rows[predicts] > 0).all())


def test_a_pruned_token_can_be_taken_out_of_the_sequence(tiny_llama: Any, samples: list[Sample]) -> None:
    """Reading A8, `remove`: the first update equals plain training on the shortened samples."""
    cell = cell_of("random", (1.0, 0.5), options={"pruned_tokens": "remove"}, batch_size=6, accumulation=1, epochs=1)
    loop, window = started(cell, tiny_llama, samples)
    loop.step(window)
    removed = loop.cost
    masked, _ = started(cell_of("random", (1.0, 0.5), batch_size=6, accumulation=1, epochs=1), tiny_llama, samples)
    record, trace = masked.step(window)
    assert removed.tokens_kept == masked.cost.tokens_kept == record["tokens_kept"]
    lengths = {sample.number: (sample.prompt, sample.response_length) for sample in samples}
    expected = sum(lengths[row[2]][0] + row[9] - 1 for row in trace if row[9])
    assert removed.tokens_forwarded == expected < masked.cost.tokens_forwarded


def test_every_pruner_meets_the_samples_in_one_order(tiny_llama: Any, samples: list[Sample]) -> None:
    full, pruned, drawn = (
        run(cell_of(method, budget), tiny_llama, samples)
        for method, budget in (("full", (1.0, 1.0)), ("q-tuning", (0.25, 0.5)), ("random", (0.5, 0.5)))
    )
    assert [row[:3] for row in full.trace] == [row[:3] for row in pruned.trace]
    for epoch in (0, 1):
        order, subset = ([row[2] for row in r.trace if row[1] == epoch] for r in (full, drawn))
        assert len(subset) == 9 and subset == [number for number in order if number in set(subset)]
    epochs = [{row[2] for row in drawn.trace if row[1] == epoch} for epoch in (0, 1)]
    assert epochs[0] != epochs[1], "drawn anew each epoch"


def test_records_trace_and_cost_agree(tiny_llama: Any, samples: list[Sample]) -> None:
    result = run(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    lengths = {sample.number: sample.response_length for sample in samples}
    size = {sample.number: len(sample.tokens) for sample in samples}
    for record in result.records:
        rows = [row for row in result.trace if row[0] == record["update"]]
        assert record["samples"] == len(rows) and record["samples_kept"] == sum(row[6] for row in rows)
        assert record["response_tokens"] == sum(lengths[row[2]] for row in rows) == sum(row[8] for row in rows)
        assert record["tokens_kept"] == sum(row[9] for row in rows) >= 1
        assert record["samples_asked"] <= record["samples_kept"], "a surplus stays (A6)"
        assert all((row[9] > 0) <= row[6] for row in rows)
        assert record["learning_rate"] == described_rate(record["update"], 6, cell_of("full").training)  # type: ignore[arg-type]
    cost = result.cost
    assert cost["updates"] == 6 and cost["samples_scored"] == 36
    assert cost["tokens_scored"] == 2 * sum(size.values()) - 36, "the last token of a sample is no input"
    assert cost["response_tokens"] == 2 * sum(lengths.values())
    assert cost["samples_kept"] == sum(row[6] for row in result.trace)
    assert cost["tokens_kept"] == sum(row[9] for row in result.trace)
    assert cost["tokens_kept"] <= cost["tokens_forwarded"] < cost["tokens_scored"]
    assert cost["flops_total"] == cost["flops_scoring"] + cost["flops_training"] > 0
    plain = run(cell_of("full"), tiny_llama, samples).cost
    assert plain["samples_scored"] == plain["flops_scoring"] == 0 and plain["tokens_forwarded"] == cost["tokens_scored"]


@pytest.mark.parametrize("method", ["full", "q-tuning"])
def test_broken_weights_stop_before_the_update(tiny_llama: Any, samples: list[Sample], method: str) -> None:
    loop, window = started(cell_of(method, (1.0, 1.0)), tiny_llama, samples)
    with torch.no_grad():
        loop.bare.get_parameter("model.model.norm.weight")[3] = math.nan
    before = {name: p.detach().clone() for name, p in loop.bare.model.named_parameters()}
    numbers = [samples[position].number for batch in window.batches for position in batch]
    with pytest.raises(NonFinite) as caught:
        loop.step(window)
    named = numbers if method == "full" else numbers[:4]  # scoring stops at the first batch that is not finite
    assert str(named) in str(caught.value)
    for name, parameter in loop.bare.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0)), "no parameter was updated"
        assert parameter.grad is None
    assert loop.cost.updates == 0


def test_dropout_has_a_stream_of_its_own(build: Any, samples: list[Sample]) -> None:
    """Draws elsewhere in the program change nothing: a resumed run drops out what the straight one did."""
    model = build("llama", attention_dropout=0.5)
    first, window = started(cell_of("full"), model, samples)
    second, _ = started(cell_of("full"), model, samples)
    a = first.step(window)[0]["loss"]
    torch.rand(1000)
    assert second.step(window)[0]["loss"] == a
    without, _ = started(cell_of("full"), build("llama"), samples)
    assert without.step(window)[0]["loss"] != a
