"""What `qtuning train` decides for the GPU that it holds, from the prepared train set and the model that is there."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from qtuning.cli.run import _decisions
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import write_json
from qtuning.gpus import torch_sees
from qtuning.plan.machines import GIB
from qtuning.plan.shapes import PUBLISHED
from qtuning.train.launch import TOO_LARGE, Launch

LLAMA = PUBLISHED["meta-llama/Llama-2-7b-hf"]


def a_cell(**training: Any) -> Cell:
    entry, half = MethodEntry(method="q-tuning"), Ratios(sample_ratio=0.5, token_ratio=0.5)
    keys = {"mixed_precision": "bf16", "dtype": "bfloat16", "batch_size": 4} | training
    return Cell.model_validate(
        {
            "model": {"name": "llama", "source": {"kind": "hub", "id": "a/b"}},
            "train_set": {"name": "t", "source": {"kind": "mini-world", "file": "f"}},
            "pruning": make_pruning(entry, half).model_dump(),
            "training": keys,
            "seeds": {"data": 0, "pruner": 0, "init": 0},
        }
    )


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    paths, cell = ResultPaths(tmp_path), a_cell()
    config = {"num_attention_heads": LLAMA.heads, "hidden_size": LLAMA.hidden, "vocab_size": LLAMA.vocabulary}
    config |= {"intermediate_size": LLAMA.intermediate, "num_hidden_layers": LLAMA.layers}
    write_json(paths.model(cell) / "weights" / "config.json", config)
    write_json(paths.model(cell) / "model.json", {"path": "weights"})
    paths.samples(cell).mkdir(parents=True)
    table = pl.DataFrame({"prompt_length": [500] * 64, "input_ids": [[1] * 2000] * 64})
    table.write_parquet(paths.samples(cell) / "samples.parquet")
    return paths


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        (("NVIDIA A100-SXM4-80GB", 79 * GIB, (8, 0)), ["--reuse"]),
        (("NVIDIA A100-SXM4-40GB", 32 * GIB, (8, 0)), ["--recompute"]),
        (("NVIDIA GeForce RTX 4090", 23 * GIB, (8, 9)), ["--recompute"]),
    ],
)
def test_a_gpu_decides(
    paths: ResultPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Any, found: list[str]
) -> None:
    monkeypatch.setattr(torch_sees, "smallest_gpu", lambda: gpu)
    told = _decisions(a_cell(), paths, Launch(), tmp_path / "state")
    assert told[:1] == found
    assert _decisions(a_cell(), paths, Launch(recompute="never"), tmp_path / "state") in ([], ["--reuse"])
    assert _decisions(a_cell(), paths, Launch(recompute="always"), tmp_path / "state")[:1] == ["--recompute"]
    write_json(tmp_path / "state" / TOO_LARGE, {"reason": "it was too large"})
    assert _decisions(a_cell(), paths, Launch(), tmp_path / "state") == ["--recompute"]
    assert "--recompute" not in _decisions(a_cell(), paths, Launch(recompute="never"), tmp_path / "state")


def test_without_a_gpu_nothing_is_reused(paths: ResultPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_sees, "smallest_gpu", lambda: None)
    assert "--reuse" not in _decisions(a_cell(), paths, Launch(), tmp_path / "state")


def test_nothing_is_looked_at_where_nothing_is_open(tmp_path: Path) -> None:
    cell = a_cell(tuning="full", gradient_checkpointing=True)
    assert _decisions(cell, ResultPaths(tmp_path / "nowhere"), Launch(), tmp_path / "state") == []
