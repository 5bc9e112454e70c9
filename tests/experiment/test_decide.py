"""What may be decided where a cell is trained, what that never changes, and the names of cells."""

from typing import Any

import pytest
from pydantic import ValidationError

from qtuning.experiment.cell import Cell, Model, Scoring, ShippedModelSource, Training
from qtuning.experiment.decide import decided, is_open, may_reuse, ways
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.needs import schedule_of
from qtuning.experiment.schema import MethodEntry, Ratios


def a_cell(method: str = "q-tuning", options: dict[str, Any] | None = None, **training: Any) -> Cell:
    entry, half = MethodEntry(method=method, options=options or {}), Ratios(sample_ratio=0.5, token_ratio=0.5)
    return Cell.model_validate(
        {
            "model": {"name": "m", "source": {"kind": "hub", "id": "a/b"}},
            "train_set": {"name": "t", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": make_pruning(entry, half).model_dump(),
            "training": training,
            "seeds": {"data": 0, "pruner": 0, "init": 0},
        }
    )


def test_a_cell_has_one_name_however_it_is_trained() -> None:
    cell = a_cell()
    assert '"gradient_checkpointing":false' in cell_json(cell) and "scoring" not in cell_json(cell)
    assert cell_id(a_cell(gradient_checkpointing="auto")) == cell_id(cell)
    read = Cell.model_validate_json(cell_json(cell))
    assert cell_id(read) == cell_id(cell) and is_open(read, "cuda") and is_open(read, "cpu")


def test_options_at_their_defaults_are_no_part_of_a_name() -> None:
    same = a_cell(optimizer="adamw", quantization="none", compile=False)
    assert cell_id(same) == cell_id(a_cell())
    others: list[dict[str, Any]] = [
        {"optimizer": "adamw-8bit"},
        {"quantization": "nf4"},
        {"compile": True},
        {"gradient_checkpointing": True},
    ]
    assert len({cell_id(a_cell()), *(cell_id(a_cell(**other)) for other in others)}) == 5


def test_what_was_said_of_scoring_before_there_was_auto_keeps_its_name() -> None:
    """Any other key made `fresh` a part of the configuration."""
    found = Scoring.model_validate({"precision": "bfloat16"})
    assert found.schedule == Scoring.model_validate({"schedule": "auto", "impl": "liger"}).schedule == "fresh"
    assert Scoring.model_validate(Scoring().model_dump()) == Scoring()
    assert Scoring.model_validate(found.model_dump()) == found


def test_every_way_that_is_open() -> None:
    def of(cell: Cell, device: str = "cuda", sharded: bool = False) -> list[tuple[bool, str]]:
        found = list(ways(cell, device, sharded))
        return [(w.training.gradient_checkpointing, schedule_of(w.pruning)) for w in found]  # type: ignore[union-attr, arg-type]

    fresh, reuse = "fresh", "reuse-graph"
    assert of(a_cell()) == [(False, fresh), (False, reuse), (True, fresh), (True, reuse)]
    assert of(a_cell(), "cpu") == of(a_cell(), sharded=True) == [(False, fresh), (True, fresh)]
    assert of(a_cell(gradient_checkpointing=True)) == [(True, fresh), (True, reuse)]
    said = a_cell(options={"scoring": {"schedule": "reuse-graph"}}, gradient_checkpointing=True)
    assert of(said) == of(said, "cpu") == [(True, reuse)] and not is_open(said, "cuda")
    assert decided(said, False, False) == said, "what a cell says stays"
    asked = [[w.training.gradient_checkpointing for w in ways(a_cell(), "cpu", False, r)] for r in ("always", "never")]  # type: ignore[union-attr]
    assert asked == [[True], [False]]
    mini = Model(name="mini", source=ShippedModelSource(kind="shipped"))
    shipped = a_cell().model_copy(update={"model": mini})
    assert of(shipped) == [(False, fresh)] and not is_open(shipped, "cuda")


@pytest.mark.parametrize(
    ("method", "options", "training"),
    [
        ("q-tuning", {"scoring": {"schedule": "fresh"}}, {}),
        ("q-tuning", {"scoring": {"precision": "bfloat16"}}, {}),
        ("q-tuning", {"pruned_tokens": "remove"}, {}),
        ("q-tuning", {}, {"tuning": "full"}),
        ("q-tuning", {}, {"lora": {"dropout": 0.1}}),
        ("random+random", {}, {}),
        ("entropy+fastv", {"layer": -1}, {}),
    ],
)
def test_where_graphs_are_not_reused(method: str, options: dict[str, Any], training: dict[str, Any]) -> None:
    assert may_reuse(a_cell(), "cuda") and not may_reuse(a_cell(), "cpu")
    assert not may_reuse(a_cell(method, options, **training), "cuda")


@pytest.mark.parametrize(
    "keys",
    [
        {"tuning": "full", "quantization": "nf4"},
        {"each_epoch": True, "optimizer": "adamw-8bit"},
        {"gradient_checkpointing": "always"},
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Training.model_validate(keys)
