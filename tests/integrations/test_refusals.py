"""What the mixin cannot prune, it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import Q_TUNING, RANDOM, make
from transformers import DataCollatorWithFlattening

from qtuning.errors import UserError


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({**Q_TUNING, "method": "q-tunning"}, "unknown method"),
        ({**Q_TUNING, "budget": "50"}, "no budget"),
        ({"method": "q-tuning"}, "budget: required"),
        ({**Q_TUNING, "options": {"lamda": 0.5}}, "did you mean lambda"),
        ({**Q_TUNING, "sead": 1}, "sead: unknown key"),
        ({**Q_TUNING, "options": {"pruned_tokens": "remove"}}, "can only mask"),
        ({**Q_TUNING, "options": {"scoring": {"schedule": "stale", "epochs": 2}}}, "scores each batch freshly"),
        ({**RANDOM, "method": "infobatch+none"}, "needs losses"),
        ({**RANDOM, "method": "full+fastv"}, "needs attention"),
        ({**RANDOM, "method": "full+rho-1", "options": {"reference": "mini"}}, "needs reference"),
        ({**RANDOM, "method": "longest-history+none"}, "needs instructions"),
    ],
)
def test_methods_that_cannot_work_here_are_refused(llama: Any, tmp_path: Path, pruning: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("transformers", llama, tmp_path, pruning)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("trl", {"packing": True, "packing_strategy": "wrapped"}, "packing"),
        ("transformers", {"use_liger_kernel": True}, "Liger"),
        ("trl", {"use_liger_kernel": True, "liger_kernel_config": {"cross_entropy": True}}, "Liger"),
    ],
)
def test_trainers_that_cannot_be_pruned_are_refused(
    llama: Any, tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(kind, llama, tmp_path, Q_TUNING, **settings)


def test_models_whose_loss_cannot_be_divided_are_refused(build: Callable[..., Any], llama: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    shape: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 97}
    llama.accepts_loss_kwargs = False
    for model in (llama, AutoModelForSeq2SeqLM.from_config(T5Config(**shape))):
        with pytest.raises(UserError, match="num_items_in_batch"):
            make("transformers", model, tmp_path, Q_TUNING)


def test_samples_of_a_row_that_see_each_other_are_refused(llama: Any, tmp_path: Path) -> None:
    """As with an attention that knows only a mask: the model reads the whole row as one sample."""
    inner = llama.model.forward
    llama.model.forward = lambda *args, **inputs: inner(
        *args, **{**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    )
    trainer = make("transformers", llama, tmp_path, RANDOM, data_collator=DataCollatorWithFlattening())
    with pytest.raises(UserError, match="samples that share a row see each other"):
        trainer.train()


def test_packed_rows_without_positions_are_refused(llama: Any, tmp_path: Path) -> None:
    collator = DataCollatorWithFlattening(return_position_ids=False, return_flash_attn_kwargs=True)
    trainer = make("transformers", llama, tmp_path, RANDOM, data_collator=collator)
    with pytest.raises(UserError, match="several samples share a row"):
        trainer.train()
