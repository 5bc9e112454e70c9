"""The mixin in the real trainers of transformers and TRL.

Run as a script (`torch.distributed.run tests/integrations/test_trainer.py FOLDER`) it trains one model.
"""

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracles
import polars as pl
import pytest
import torch
from datasets import Dataset
from trainers import (
    KINDS,
    NOTHING_SPARED,
    Q_TUNING,
    RANDOM,
    WHOLE,
    by_row,
    candidates_by_logits,
    candidates_of,
    dialogues,
    equal_then_different,
    expected_selections,
    labelled,
    make,
    masked_loss,
    survivors,
    tokenizer,
    weights,
    windows,
)
from transformers import DataCollatorForSeq2Seq

from qtuning.errors import UserError
from qtuning.experiment.methods import make_pruning as pruning_of
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.integrations.padded import find_targets
from qtuning.pruners.method import concatenate
from qtuning.train.__main__ import run_as_worker
from qtuning.train.seeding import generator


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_budget_trains_the_same_weights_bit_for_bit(
    build: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    """With dropout, so that scoring would show if it drew random numbers; padded to 8, so that cutting would show."""
    trained = []
    for pruning in (None, WHOLE):
        model = build("llama", attention_dropout=0.2)
        trainer = make(kind, model, tmp_path, pruning, gradient_accumulation_steps=2)
        trainer.train()
        trained.append(weights(model))
    assert torch.equal(*trained)
    assert not torch.equal(trained[0], weights(build("llama", attention_dropout=0.2)))


@pytest.mark.parametrize("kind", KINDS)
def test_q_tuning_keeps_what_full_logits_say_and_trains_on_nothing_else(llama: Any, tmp_path: Path, kind: str) -> None:
    trainer = make(kind, llama, tmp_path, Q_TUNING, gradient_accumulation_steps=2)
    batches, pruned, items = windows(trainer, 2)
    expected = expected_selections(trainer, batches)
    assert [labelled(batch) for batch in pruned] == [survivors(*pair) for pair in zip(batches, expected, strict=True)]
    total = sum(int(selection.tokens.sum()) for selection in expected)
    assert int(items) == total < sum(len(row) for batch in batches for row in labelled(batch)) // 2
    for batch, smaller in zip(batches, pruned, strict=True):
        assert len(smaller["labels"]) == len(labelled(smaller)) <= 4 < len(batch["labels"]) == 8
        assert {value.shape for value in smaller.values()} == {smaller["labels"].shape}
        assert bool((smaller["labels"] != -100)[:, -1].any()), "columns after the last kept target are cut"

    for inputs in pruned:
        trainer.training_step(trainer.model, inputs, items)
    gradient = {name: parameter.grad.clone() for name, parameter in llama.named_parameters()}
    llama.zero_grad()
    kept = [by_row(*pair) for pair in zip(batches, expected, strict=True)]
    masked_loss(llama, batches, kept, total).backward()
    for name, parameter in llama.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_counts_are_logged(llama: Any, tmp_path: Path, kind: str) -> None:
    """The loss is the mean over the kept tokens of both micro-batches; counts are sums since the last log."""
    settings = {"gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}
    trainer = make(kind, llama, tmp_path, Q_TUNING, **settings)
    batches, pruned, items = windows(trainer, 2)
    loss = masked_loss(llama, pruned, [labelled(batch) for batch in pruned], int(items)).item()
    trainer = make(kind, llama, tmp_path, Q_TUNING, **settings, max_steps=1)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(loss, rel=1e-5)
    asked = [round(sum(map(len, labelled(batch))) / 4) for batch in batches]
    assert (first["qtuning/samples_kept"], first["qtuning/tokens_kept"]) == (8, int(items))
    assert first["qtuning/tokens_asked"] == sum(asked)

    trainer = make(kind, llama, tmp_path, Q_TUNING, **settings, max_steps=4, logging_steps=2)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["qtuning/samples_kept"] for log in logs] == [16, 16]
    assert [log["qtuning/tokens_asked"] for log in logs] == [2 * sum(asked)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_micro_batch_may_lose_everything(llama: Any, tmp_path: Path, kind: str) -> None:
    """Equal samples lie in no quadrant, and nothing supplements them (A10, `none`)."""
    data = equal_then_different(8)
    settings = {
        "train_sampling_strategy": "sequential",
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_nan_inf_filter": False,
    }
    trainer = make(kind, llama, tmp_path, NOTHING_SPARED, data, gradient_accumulation_steps=2, max_steps=1, **settings)
    _, pruned, items = windows(trainer, 2)
    assert pruned[0]["labels"].tolist() == [[-100, -100]] and not labelled(pruned[0])
    assert int(items) == sum(len(row) for row in labelled(pruned[1])) > 0
    start = weights(llama)
    masked_loss(llama, pruned[1:], [labelled(pruned[1])], int(items)).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in llama.parameters()])
    trainer.train()
    torch.testing.assert_close(weights(llama), start - gradient, rtol=1e-4, atol=1e-5)

    trainer = make(kind, llama, tmp_path, NOTHING_SPARED, data, max_steps=1, **settings)
    start = weights(llama)
    trainer.train()
    assert torch.equal(weights(llama), start) and trainer.state.log_history[0]["loss"] == 0


def adapted(model: Any, **settings: Any) -> Any:
    """With LoRA that is not zero."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    return peft.get_peft_model(model, config)


def prompt_tuned(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))


def unlike_its_weight(model: Any) -> Any:
    """A head that does something nobody knows of."""
    model.lm_head.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_scored_and_trained(llama: Any, tmp_path: Path, kind: str) -> None:
    model = adapted(llama, target_modules="all-linear")
    trainer = make(kind, model, tmp_path, Q_TUNING)
    batches, pruned, _ = windows(trainer, 1)
    (expected,) = expected_selections(trainer, batches)
    assert labelled(pruned[0]) == survivors(batches[0], expected)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all("lora_" in name for name in moved)


@pytest.mark.parametrize("change", [lambda m: adapted(m, target_modules=["lm_head"]), prompt_tuned, unlike_its_weight])
def test_a_model_whose_head_cannot_be_called_alone_is_refused_where_it_must_be_scored(
    llama: Any, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    model = change(llama)
    with pytest.raises(UserError, match="its head cannot be called by itself") as caught:
        windows(make("transformers", model, tmp_path, Q_TUNING), 1)
    assert "\n" not in str(caught.value)
    assert windows(make("transformers", model, tmp_path, RANDOM), 1)[1], "what needs no scores prunes any model"


def test_padding_on_the_left_prunes_the_same(llama: Any, tmp_path: Path) -> None:
    kept: dict[str, Any] = {}
    items: dict[str, Any] = {}
    for side in ("left", "right"):
        words = tokenizer()
        words.padding_side = side
        settings = {"data_collator": DataCollatorForSeq2Seq(words), "train_sampling_strategy": "sequential"}
        trainer = make("transformers", llama, tmp_path, Q_TUNING, **settings)
        _, (batch,), items[side] = windows(trainer, 1)
        kept[side] = sorted([label for _, label in row] for row in labelled(batch))
        assert bool((batch["attention_mask"][:, 0] == 0).any() == (side == "left"))
        llama.zero_grad()
        trainer.training_step(llama, batch, items[side])
        kept[f"gradient {side}"] = torch.cat([parameter.grad.flatten() for parameter in llama.parameters()])
    assert kept["left"] == kept["right"] and int(items["left"]) == int(items["right"])
    torch.testing.assert_close(kept["gradient left"], kept["gradient right"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_leaves_model_and_random_numbers_alone(build: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    model = build("llama", attention_dropout=0.2)
    trainer = make(kind, model, tmp_path, Q_TUNING)
    model.train()
    model.lm_head.eval()  # a module that its owner keeps in another mode
    modes = {name: module.training for name, module in model.named_modules()}
    batches = [next(iter(trainer.get_train_dataloader()))]
    state = torch.get_rng_state()
    pruned, _ = trainer.get_batch_samples(iter(batches), 1, trainer.args.device)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.config._attn_implementation == "eager"
    assert all(parameter.grad is None for parameter in model.parameters())
    (expected,) = expected_selections(trainer, batches)
    assert labelled(pruned[0]) == survivors(batches[0], expected), "scores are made without dropout"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_have_the_precision_of_training(llama: Any, tmp_path: Path, kind: str) -> None:
    trainer = make(kind, llama, tmp_path, Q_TUNING, bf16=True)
    batch = next(iter(trainer.get_train_dataloader()))
    target_map = find_targets(batch)
    rounded, exact = (
        trainer._score(trainer._method, batch, target_map).nll,
        candidates_by_logits(llama, batch).scores.nll,
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = candidates_of(
            llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, batch
        )
    torch.testing.assert_close(rounded, theirs.scores.nll, rtol=1e-4, atol=1e-4)
    assert float((rounded - exact).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pruning", [Q_TUNING, RANDOM], ids=["q-tuning", "random"])
def test_a_resumed_run_ends_with_the_same_weights(
    tiny_llama: Any, tmp_path: Path, kind: str, pruning: dict[str, Any]
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "gradient_accumulation_steps": 2}
    settings |= {"per_device_train_batch_size": 4}
    ends = []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        model = copy.deepcopy(tiny_llama)
        make(kind, model, tmp_path, pruning, **settings).train(resume_from_checkpoint=resume)
        ends.append(weights(model))
    assert torch.equal(*ends) and not torch.equal(ends[0], weights(tiny_llama))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_not_pruned(llama: Any, tmp_path: Path, kind: str) -> None:
    losses = [
        make(kind, llama, tmp_path, pruning, eval_dataset=dialogues(8, seed=1)).evaluate()["eval_loss"]
        for pruning in (None, Q_TUNING)
    ]
    assert losses[0] == losses[1]


def test_one_selection_for_all_of_an_update(llama: Any, tmp_path: Path) -> None:
    """Reading A9, `global`: with one sample a batch, a selection of each batch could drop none."""
    options = {"selection": "global"}
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    trainer = make("transformers", llama, tmp_path, {**Q_TUNING, "options": options}, **settings)
    batches, pruned, _ = windows(trainer, 8)
    parts = [candidates_by_logits(llama, batch, index) for index, batch in enumerate(batches)]
    whole = trainer._method.select(concatenate(parts), generator(3, "batch", 0, 0))
    assert int(whole.samples.kept.sum()) == 4
    masks = whole.tokens.split([int(part.lengths.sum()) for part in parts])
    for batch, smaller, mask in zip(batches, pruned, masks, strict=True):
        keep = iter(mask.tolist())
        expected = [[target for target in row if next(keep)] for row in labelled(batch)]
        assert labelled(smaller) == [row for row in expected if row]


def test_entropy_of_the_whole_sequence(llama: Any, tmp_path: Path) -> None:
    """Reading A4, `sequence`: the mean over every position without padding."""
    pruning = {**Q_TUNING, "options": {"entropy": "sequence"}}
    trainer = make("transformers", llama, tmp_path, pruning)
    batch = next(iter(trainer.get_train_dataloader()))
    batch["labels"][2] = -100  # a sample without targets is no candidate
    scores = trainer._score(trainer._method, batch, find_targets(batch))
    plain = candidates_by_logits(llama, batch).scores
    with torch.no_grad():
        logits = llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double().numpy()
    entropy = [
        oracles.token_entropy(z[: int(m.sum())]).mean() for z, m in zip(logits, batch["attention_mask"], strict=True)
    ]
    torch.testing.assert_close(scores.sequence_ent, torch.tensor(entropy)[[0, 1, 3, 4, 5, 6, 7]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.nll, plain.nll, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.entropy, plain.entropy, rtol=1e-4, atol=1e-5)


def test_text_through_trl_trains_on_completions_only(llama: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": " ".join(f"w{3 + (5 * i + j) % 90}" for j in range(i % 4 + 1)), "completion": f" w{i + 3} w{i + 9}"}
        for i in range(16)
    ]
    trainer = make("trl", llama, tmp_path, Q_TUNING, Dataset.from_list(rows), gradient_accumulation_steps=2)
    trainer.train()
    log = trainer.state.log_history[0]
    # 16 completions of two words and the end of the sequence
    assert log["qtuning/tokens_asked"] == 2 * round(8 * 3 / 4) and log["qtuning/tokens_kept"] > 0
    assert 0 <= log["mean_token_accuracy"] <= 1 and log["entropy"] > 0


def test_a_configured_pruning_and_a_mapping_are_one_and_the_seed_may_be_the_trainers(
    llama: Any, tmp_path: Path
) -> None:
    configured = pruning_of(MethodEntry(method="random+random"), Ratios(sample_ratio=0.5, token_ratio=0.5))
    unseeded = {key: value for key, value in RANDOM.items() if key != "seed"}
    kept = []
    for pruning, seed in ((RANDOM, 42), (RANDOM, 3), (unseeded, 3), (configured, 3), (configured, 42)):
        trainer = make("transformers", llama, tmp_path, pruning, seed=seed, train_sampling_strategy="sequential")
        kept.append([labelled(batch) for batch in windows(trainer, 2)[1]])
    assert kept[0] == kept[1] == kept[2] == kept[3] != kept[4]
    assert trainer._method.pruning.updates == "matched-updates"
    trainer.state.global_step = 1
    assert [labelled(batch) for batch in windows(trainer, 2)[1]] != kept[4], "each update draws anew"


PLUGIN = """
import torch
from qtuning.pruners.base import keep_first, keep_prunable, ranking

def surest(candidates, budget, rng, *, share: float = 1.0):
    return keep_first(ranking(-candidates.scores.ent, candidates.numbers), round(budget.samples * share))

def weighted(candidates, budget, rng):
    return keep_prunable(torch.ones(len(candidates), dtype=torch.bool), torch.full((len(candidates),), 2.0))
"""


def test_a_pruner_of_ones_own(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pruner_for_a_trainer.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    pruning = {"method": "pruner_for_a_trainer:surest+none", "budget": "50x100", "options": {"share": 0.5}}
    batches, pruned, _ = windows(make("transformers", llama, tmp_path, pruning), 1)
    ent = candidates_by_logits(llama, batches[0]).scores.ent
    expected = sorted(labelled(batches[0])[index] for index in ent.argsort()[:2].tolist())
    assert sorted(labelled(pruned[0])) == expected
    pruning = {"method": "pruner_for_a_trainer:weighted+none", "budget": "50x100"}
    trainer = make("transformers", llama, tmp_path, pruning)
    with pytest.raises(UserError, match="weight"):
        trainer.train()


def test_the_document_does_what_it_says(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    text = (Path(oracles.__file__).parents[1] / "docs" / "trainers.md").read_text(encoding="utf-8")
    training, reading = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"model": llama, "dataset": dialogues(16), "tokenizer": tokenizer()}
    on_cpu = training.replace('SFTConfig("output",', 'SFTConfig("output", use_cpu=True,')
    assert on_cpu != training
    exec(compile(on_cpu, "docs/trainers.md", "exec"), names)
    exec(compile(reading, "docs/trainers.md", "exec"), names)
    trace = names["trace"]
    assert names["trainer"].state.global_step == 3 == trace["update"].n_unique() and trace["kept"].sum() >= 3 * 2 * 2


def test_the_document_can_be_tried_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    root = Path(oracles.__file__).parents[1]
    monkeypatch.chdir(root)
    text = (root / "docs" / "trainers.md").read_text(encoding="utf-8")
    (before,) = re.findall(r"```\n(import gzip.*?)```", text, flags=re.DOTALL)
    training = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(
        before + training.replace('SFTConfig("output",', f"SFTConfig({str(tmp_path)!r}, max_steps=2, use_cpu=True,"),
        names,
    )
    assert names["trainer"].state.global_step == 2 and pl.read_parquet(tmp_path / "qtuning/trace.parquet").height == 32


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(tiny_llama: Any, tmp_path: Path) -> None:
    tiny_llama.save_pretrained(tmp_path / "model")
    root = Path(oracles.__file__).parents[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*launch, __file__, str(tmp_path)],
        env=os.environ
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    for name, (kind, pruning) in ON_TWO_PROCESSES.items():
        model = copy.deepcopy(tiny_llama)
        alone = make(kind, model, tmp_path, pruning, equal_then_different(4), **SPLIT, gradient_accumulation_steps=2)
        alone.train()
        together = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        torch.testing.assert_close(together["weights"], weights(model), rtol=1e-3, atol=1e-5)
        for ours, theirs in zip(together["logs"], alone.state.log_history, strict=True):
            for key in ("qtuning/samples_kept", "qtuning/tokens_kept", "qtuning/tokens_asked"):
                assert ours.get(key) == theirs.get(key)


ON_TWO_PROCESSES = {
    "random": ("transformers", RANDOM),
    "global": ("trl", {**Q_TUNING, "options": {"selection": "global"}}),
    "first-keeps-nothing": ("transformers", NOTHING_SPARED),
    "trl-keeps-nothing": ("trl", NOTHING_SPARED),
}
SPLIT = {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}


def main(folder: Path) -> None:
    """What the launcher runs."""
    from transformers import AutoModelForCausalLM

    for name, (kind, pruning) in ON_TWO_PROCESSES.items():
        model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager")
        trainer = make(kind, model, folder, pruning, equal_then_different(4), **SPLIT)
        trainer.train()
        if trainer.is_world_process_zero():
            logs = trainer.state.log_history
            torch.save({"weights": weights(model), "logs": logs}, folder / f"{name}.pt")


if __name__ == "__main__":
    run_as_worker(lambda: main(Path(sys.argv[1])))
