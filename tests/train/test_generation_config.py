"""Saved weights say where a generation ends: where training ended the turn."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from qtuning.train.cell import _write_generation_config


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        (None, None, 7),
        ({"eos_token_id": 2}, None, [7, 2]),
        (None, {"eos_token_id": [2, 5]}, [7, 2, 5]),
        ({"eos_token_id": 7}, {"eos_token_id": 2}, 7),
        ({"eos_token_id": [2, 7]}, None, [2, 7]),
        # as Llama 2 has it, which transformers reads and refuses to save
        (None, {"temperature": 0.6, "do_sample": False, "eos_token_id": 2}, [7, 2]),
    ],
)
def test_the_end_of_the_turn_is_among_the_end_tokens(
    tmp_path: Path, own: dict[str, Any] | None, base: dict[str, Any] | None, expected: Any
) -> None:
    for name, content in (("weights", own), ("base", base)):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "generation_config.json").write_text(json.dumps(content))
    _write_generation_config(tmp_path / "weights", tmp_path / "base", 7)
    read: Any = GenerationConfig.from_pretrained(tmp_path / "weights")
    assert read.eos_token_id == expected
    assert read.temperature == (base or {}).get("temperature", read.temperature)
