"""Presets of Q-Tuning: sets of readings that are used like methods, and that a cell is named by."""

from typing import Any

import pytest

from qtuning.errors import UserError
from qtuning.experiment.cell import (
    Cell,
    FileSource,
    Model,
    Pruning,
    Readings,
    Seeds,
    ShippedModelSource,
    Training,
    TrainSet,
)
from qtuning.experiment.ids import cell_id
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.schema import MethodEntry, Ratios

HALF = Ratios(sample_ratio=0.25, token_ratio=0.5)


def pruning(method: str, readings: Readings | None = None, ratios: Ratios = HALF, **options: Any) -> Pruning:
    return make_pruning(MethodEntry(method=method, options=options), ratios, readings)


def identity(chosen: Pruning) -> str:
    return cell_id(
        Cell(
            model=Model(name="m", source=ShippedModelSource(kind="shipped")),
            train_set=TrainSet(name="t", source=FileSource(kind="path", file="t.jsonl")),
            pruning=chosen,
            training=Training(),
            seeds=Seeds(data=0, pruner=0, init=0),
        )
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_readings(name: str) -> None:
    """However it is written, it is one cell, whose folder has its name."""
    readings: dict[str, Any] = dict(PRESETS[name].readings)
    preset, spelled = pruning(name), pruning("q-tuning", **readings)
    assert preset == spelled and preset.method == name
    assert identity(preset) == identity(spelled) and identity(preset).startswith(f"m-t-{name}-25x50-s0-")


def test_options_override_a_preset_and_readings_of_the_experiment_do_not() -> None:
    common = Readings(pruned_tokens="mask", kept_samples="floor")
    kept = pruning("q-tuning-third-party", common)
    assert (kept.pruned_tokens, kept.kept_samples) == ("remove", "floor")
    assert pruning("q-tuning-third-party", common, pruned_tokens="mask").pruned_tokens == "mask"
    assert pruning("q-tuning-budget", surplus="keep", counted="sample", search="fixed") == pruning("q-tuning")


def test_a_cell_goes_by_the_preset_that_says_most_of_it() -> None:
    less: dict[str, Any] = {"lambda": 0.3}
    assert pruning("q-tuning-budget", **less).method == "q-tuning-budget"
    assert pruning("q-tuning", surplus="trim").method == "q-tuning"
    assert pruning("q-tuning-third-party", surplus="trim").method == "q-tuning-third-party"
    # without tokens to prune, Stage 2 is nobody's
    everything = Ratios(sample_ratio=0.25, token_ratio=1.0)
    assert identity(pruning("q-tuning-budget", None, everything)).startswith("m-t-q-tuning+none-25x100-")


def test_pruning_no_tokens_is_one_cell_however_it_is_said() -> None:
    """Tables 4 and 15 have such rows among those of a token ratio, figure 6(a) has them at 100%."""
    switched = pruning("q-tuning", prune_in="none", pruned_tokens="remove")
    assert identity(switched) == identity(pruning("q-tuning+none"))
    assert switched.budget == "25x50" and switched.method == "q-tuning", "a table shows what the experiment says"
    assert identity(pruning("q-tuning", prune_in="none", drop_in="Q1")) != identity(switched)


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("q-tuning-budgets", {}, "'q-tuning-budgets': unknown method; did you mean q-tuning-budget"),
        ("q-tuning", {"surplus": "no-trim"}, "q-tuning: options: surplus = 'no-trim'"),
        ("q-tuning-budget", {"may_go": "high"}, "q-tuning-budget: options: may_go = 'high'"),
        ("q-tuning-history", {"kept_samples": "ceil"}, "q-tuning-history: options: kept_samples = 'ceil'"),
        ("q-tuning", {"reading": "trim"}, "q-tuning: options.reading: unknown key"),
    ],
)
def test_what_is_not_known_is_told_in_one_line(method: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        pruning(method, **options)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert told in message
