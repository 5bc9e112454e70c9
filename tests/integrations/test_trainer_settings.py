"""Settings of the real trainers that change what is fed or how the loss is made: pruning goes with each of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import Q_TUNING, WHOLE, dialogues, make, weights

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "label smoothing": ("transformers", {"label_smoothing_factor": 0.1}),
    "noise on embeddings": ("transformers", {"neftune_noise_alpha": 5.0}),
    "checkpointing": ("transformers", {"activation_checkpointing": True}),
    "samples by length": ("transformers", {"train_sampling_strategy": "group_by_length"}),
    "a last update of two samples": ("transformers", {"max_steps": -1, "num_train_epochs": 1, "data": dialogues(10)}),
    "a stream": ("transformers", {"data": dialogues(16).to_iterable_dataset()}),
    "dynamic fine-tuning": ("trl", {"loss_type": "dft"}),
}


def trained(build: Callable[..., Any], folder: Path, name: str, pruning: Any) -> tuple[Any, Any]:
    kind, settings = SETTINGS[name]
    model = build("llama")
    trainer = make(kind, model, folder, pruning, **settings)
    torch.manual_seed(5)
    trainer.train()
    return weights(model), trainer.state.log_history


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_the_same_under_pruning(build: Callable[..., Any], tmp_path: Path, name: str) -> None:
    plain, _ = trained(build, tmp_path, name, None)
    whole, _ = trained(build, tmp_path, name, WHOLE)
    assert torch.equal(plain, whole)
    pruned, logs = trained(build, tmp_path, name, Q_TUNING)
    assert pruned.isfinite().all() and not torch.equal(pruned, whole)
    logs = [log for log in logs if "loss" in log]
    assert all(0 < log["qtuning/samples_kept"] < 8 for log in logs)


@pytest.mark.parametrize("pruning", [WHOLE, Q_TUNING])
def test_samples_without_a_target_train_nothing(llama: Any, tmp_path: Path, pruning: Any) -> None:
    """The mean of no loss is no number, and one such update would make all weights none."""
    data = dialogues(8).map(lambda row: {"labels": [-100] * len(row["labels"])})
    start = weights(llama)
    make("transformers", llama, tmp_path, pruning, data, max_steps=1, logging_nan_inf_filter=False).train()
    assert torch.equal(weights(llama), start)
