"""Which device accelerate is told to take."""

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from qtuning.train.accelerator import make_accelerator

PACKAGE = Path(__file__).parents[2] / "qtuning"


def test_a_gpu_of_apple_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no float64, and there is no kernel of ours for it."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0"))
    monkeypatch.setattr("accelerate.state.is_mps_available", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind in (PartialState, AcceleratorState):
        monkeypatch.setattr(kind, "_shared_state", {})
    assert Accelerator().device.type == "mps", "what accelerate takes by itself"
    for kind in (PartialState, AcceleratorState):
        monkeypatch.setattr(kind, "_shared_state", {})
    assert make_accelerator().device.type == "cpu"


def test_nothing_else_asks_accelerate_for_a_device() -> None:
    asking = [path.name for path in PACKAGE.rglob("*.py") if " Accelerator(" in path.read_text(encoding="utf-8")]
    assert asking == ["accelerator.py"]
