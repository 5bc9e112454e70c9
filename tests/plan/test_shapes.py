"""Shapes without torch against torch models, peft and the parameter counts that configs/models declares."""

from pathlib import Path
from typing import Any

import pytest

from qtuning.errors import UserError
from qtuning.experiment.cell import HubSource, Model, ShippedModelSource
from qtuning.experiment.grid import ConfigFolder
from qtuning.files import write_json
from qtuning.plan.shapes import PUBLISHED, Shape, from_config, shape_of_model

CONFIGS = Path(__file__).parents[2] / "configs"


def test_published_shapes_have_the_parameters_their_models_declare(tmp_path: Path) -> None:
    library, checked = ConfigFolder(CONFIGS), 0
    for name in library.names("models"):
        model = library.model(name)
        shape = shape_of_model(model, tmp_path / "nowhere")
        # Gemma and Qwen3 have more norms: of queries and keys, and Gemma two more a layer
        norms = shape.layers * 2 * shape.head_size if name.startswith(("gemma", "qwen3")) else 0
        norms += shape.layers * 2 * shape.hidden if name.startswith("gemma") else 0
        assert shape.parameters + norms == model.parameters, name
        checked += 1
    assert checked >= len(PUBLISHED) + 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_shape_is_what_cost_reads_off_the_model(build: Any, tied: bool) -> None:
    from qtuning.train.cost import shape_of

    model = build("llama", tie_word_embeddings=tied)
    shape = from_config(model.config.to_dict(), "here")
    assert shape.model_shape() == shape_of(model, False, False)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tied is tied


def test_adapters_have_the_parameters_that_peft_makes(tiny_llama: Any) -> None:
    import copy

    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(copy.deepcopy(tiny_llama), LoraConfig(r=4, target_modules="all-linear"))
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert from_config(tiny_llama.config.to_dict(), "here").lora_parameters(4) == trainable


def test_a_model_at_hand_is_read_and_not_looked_up(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    write_json(tmp_path / "base" / "config.json", config | {"vocab_size": 50})
    write_json(tmp_path / "ready" / "model.json", {"path": str(tmp_path / "base")})
    model = Model(name="own", source=HubSource(id="HuggingFaceTB/SmolLM2-135M"))
    expected = Shape(64, 96, 3, 4, 4, 16, 50, False)
    assert shape_of_model(model, tmp_path / "ready") == expected
    assert shape_of_model(model, tmp_path / "missing") == PUBLISHED["HuggingFaceTB/SmolLM2-135M"]
    local = Model(name="own", source=HubSource(id=str(tmp_path / "base")))
    assert shape_of_model(local, tmp_path / "missing") == expected
    shipped = Model(name="mini", source=ShippedModelSource(kind="shipped"))
    assert shape_of_model(shipped, tmp_path / "missing").parameters == 1_516_960


def test_a_damaged_marker_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"path": "/ba')
    with pytest.raises(UserError, match=r"model\.json: damaged \(.*\); delete .*model\.json and run again"):
        shape_of_model(Model(name="own", source=HubSource(id="HuggingFaceTB/SmolLM2-135M")), tmp_path)


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model other: its shape is not known"):
        shape_of_model(Model(name="other", source=HubSource(id="someone/other")), tmp_path)
    with pytest.raises(UserError, match=r"here: intermediate_size: missing"):
        from_config({"num_attention_heads": 2, "hidden_size": 4}, "here")
