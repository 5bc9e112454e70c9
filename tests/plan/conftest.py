"""Experiments at paper scale, in a folder of configurations of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
PAIRS = [
    f"{s}+{t}" for s in ("random", "longest", "infobatch", "entropy") for t in ("random", "ppl", "fastv", "sparsevlm")
]
TABLE1: dict[str, Any] = {
    "title": "Shaped like table 1",
    "models": ["llama2-7b", "mistral-7b"],
    "train_sets": ["wizardlm"],
    "methods": ["full", *PAIRS, "q-tuning"],
    "budgets": ["12.5x50", "12.5x70", "25x50", "25x70", "50x50", "50x70"],
    "seeds": [0],
    "training": {"gradient_checkpointing": True},
    "evaluation": {"benchmarks": ["arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa"]},
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of the project's configurations."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture
def experiment(configs: Path) -> Callable[..., Path]:
    """experiment(name, **changes): table 1 with changes, as JSON (which is YAML)."""

    def write(name: str, **changes: Any) -> Path:
        path = configs / "experiments" / f"{name}.yaml"
        path.write_text(json.dumps(TABLE1 | changes))
        return path

    return write
