"""The schema: what is refused, and what names derive from it."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from qtuning.experiment.cell import Cell, Evaluation, Model, Pruning, Readings, Scoring, Seeds, Training, TrainSet
from qtuning.experiment.schema import Ratios, parse_budget

MODEL: dict[str, Any] = {"name": "m", "label": "M", "source": {"kind": "hub", "id": "a/b"}, "parameters": 10}
TRAIN_SET: dict[str, Any] = {"name": "t", "label": "T", "source": {"kind": "mini-world", "file": "f.jsonl"}}
PRUNING: dict[str, Any] = {"sample_pruner": "random", "token_pruner": "none", "sample_ratio": 0.25, "token_ratio": 1.0}


@pytest.mark.parametrize(
    ("text", "samples", "tokens"),
    [
        ("25x50", 0.25, 0.5),
        ("12.5x70", 0.125, 0.7),
        ("33.3x100", 0.333, 1.0),
        (" 0.78125 x 50 ", 0.0078125, 0.5),
        ("100x100", 1.0, 1.0),
    ],
)
def test_budgets(text: str, samples: float, tokens: float) -> None:
    ratios = Ratios.model_validate(parse_budget(text))
    assert (ratios.sample_ratio, ratios.token_ratio) == (samples, tokens)
    # and written out as they were read
    pruning = Pruning.model_validate(PRUNING | ratios.model_dump())
    assert pruning.budget == "x".join(part.strip() for part in text.split("x"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "25",
        "25x",
        "x50",
        "25:50",
        "-25x50",
        "25x50x3",
        "a x b",
        "2.5.0x50",
        ".x50",
        80,
        0.5,
        True,
    ],
)
def test_what_is_no_budget(text: Any) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("sample", "token", "method"),
    [
        ("full", "none", "full"),
        ("q-tuning", "q-tuning", "q-tuning"),
        ("random", "random", "random+random"),
        ("full", "random", "full+random"),
        ("q-tuning", "none", "q-tuning+none"),
    ],
)
def test_method_names(sample: str, token: str, method: str) -> None:
    assert Pruning.model_validate(PRUNING | {"sample_pruner": sample, "token_pruner": token}).method == method


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (Ratios, {"sample_ratio": 0.0, "token_ratio": 0.5}),
        (Ratios, {"sample_ratio": 0.5, "token_ratio": 1.0001}),
        (Ratios, {"sample_ratio": math.nan, "token_ratio": 0.5}),
        (Training, {"learning_rate": math.inf}),
        (Training, {"learning_rate": math.nan}),
        (Training, {"learning_rate": 0}),
        (Training, {"epochs": 0}),
        (Training, {"epochs": 1.5}),
        (Training, {"warmup": 1.0}),
        (Training, {"schedule": "polynomial"}),
        (Training, {"max_grad_norm": 0.0}),
        (Training, {"batchsize": 8}),
        (Readings, {"updates": "fewer"}),
        (Readings, {"selection": "node"}),
        (Seeds, {"data": 0, "pruner": 0}),
        (Seeds, {"data": -1, "pruner": 0, "init": 0}),
        (Evaluation, {"benchmarks": []}),
        (Evaluation, {"benchmarks": ["gsm8k"], "limit": 0}),
        (Model, MODEL | {"name": "../m"}),
        (Model, MODEL | {"name": "m; rm -rf x"}),
        (Model, MODEL | {"name": ""}),
        (Model, MODEL | {"dtype": "float16"}),
        (Model, MODEL | {"source": {"kind": "url", "id": "x"}}),
        (Model, MODEL | {"source": {"id": "a/b"}}),
        (TrainSet, TRAIN_SET | {"bad_rows": 1.5}),
        (TrainSet, TRAIN_SET | {"columns": {"answer": "x"}}),
    ],
)
def test_refused(schema: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schema.model_validate(values)


def test_configuration_is_immutable() -> None:
    training = Training()
    with pytest.raises(ValidationError):
        training.epochs = 5  # type: ignore[misc]


def test_published_hyper_parameters_are_the_defaults() -> None:
    training = Training()
    assert (training.tuning, training.learning_rate, training.batch_size, training.epochs) == ("lora", 1e-4, 8, 3)
    assert (training.lora.r, training.lora.alpha, training.lora.dropout) == (8, 16, 0.0)
    assert (training.schedule, training.warmup, training.cutoff) == ("cosine", 0.0, 2048)


def test_a_cell_is_whole_or_the_base_model() -> None:
    assert Cell.model_validate({"model": MODEL}).zero_shot
    whole = {
        "model": MODEL,
        "train_set": TRAIN_SET,
        "pruning": PRUNING,
        "training": {},
        "seeds": {"data": 0, "pruner": 0, "init": 0},
    }
    assert not Cell.model_validate(whole).zero_shot
    for part in ("train_set", "pruning", "training", "seeds"):
        with pytest.raises(ValidationError, match="given together or not at all"):
            Cell.model_validate({key: value for key, value in whole.items() if key != part})


def test_a_cell_survives_json() -> None:
    cell = Cell.model_validate(
        {
            "model": MODEL | {"lora_targets": ["q_proj", "v_proj"]},
            "train_set": TRAIN_SET,
            "pruning": PRUNING | {"sample_ratio": 0.1, "token_options": {"lambda": 0.3}},
            "training": {"learning_rate": 3e-5},
            "seeds": {"data": 1, "pruner": 2, "init": 3},
        }
    )
    assert Cell.model_validate_json(cell.model_dump_json(by_alias=True)) == cell


@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "pool"},
        {"schedule": "pool", "batches": 1},
        {"schedule": "fresh", "batches": 4},
        {"schedule": "reuse-graph", "precision": "bfloat16"},
        {"impl": "naive"},
        {"epochs": 2},
        {"schedule": "proxy", "epochs": 3},
        {"compare_every": 8},
        {"compare_every": 8, "impl": "reference"},
        {"schedule": "reuse-graph", "compare_every": 8},
    ],
)
def test_schedules_of_scoring_that_mean_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Scoring.model_validate(values)


def test_what_is_told_of_a_schedule() -> None:
    told = {
        "auto": ({}, True),
        "fresh": ({"schedule": "fresh"}, True),
        "fresh, reference": ({"impl": "reference"}, True),
        "reuse-graph": ({"schedule": "reuse-graph"}, True),
        "pool 4": ({"schedule": "pool", "batches": 4}, False),
        "stale 3": ({"schedule": "stale", "epochs": 3}, False),
    }
    for label, (values, exact) in told.items():
        scoring = Scoring.model_validate(values)
        assert (scoring.label, scoring.exact) == (label, exact)
    assert not Scoring(precision="bfloat16").exact


def test_what_looks_only_where_there_is_something_to_see() -> None:
    """Of every schedule whose decisions are not exact, or not in the precision of training."""
    for values in ({"precision": "bfloat16"}, {"schedule": "stale", "epochs": 2}, {"schedule": "proxy"}):
        assert Scoring.model_validate(values | {"compare_every": 8}).compare_every == 8
    with pytest.raises(ValidationError, match=r"compare_every: reuse-graph in training's precision is exact; leave it"):
        Scoring(schedule="reuse-graph", compare_every=1)
    with pytest.raises(
        ValidationError, match=r"epochs: only stale scores are used for epochs; leave it out under pool"
    ):
        Scoring(schedule="pool", batches=2, epochs=2)


def test_later_keys_of_scoring_do_not_rename_cells_of_old() -> None:
    """What `scoring` held before `batches` and `impl` came."""
    old = {"schedule": "stale", "epochs": 3, "precision": "training", "compare_every": None}
    assert Scoring.model_validate(old).model_dump() == old
    new = Scoring(schedule="pool", batches=4, impl="reference").model_dump()
    assert new["batches"] == 4 and new["impl"] == "reference"
