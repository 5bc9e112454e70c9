"""What a pruned trainer leaves and logs: the trace, shares, warnings, TRL's own metrics."""

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from trainers import (
    KINDS,
    NOTHING_SPARED,
    Q_TUNING,
    RANDOM,
    dialogues,
    equal_then_different,
    expected_selections,
    make,
    weights,
    windows,
)

from qtuning.train.decision import unpack_mask
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.token_scores import decode


def trace_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "qtuning" / "trace.parquet")


def training_logs(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_says_what_full_logits_say(llama: Any, tmp_path: Path, kind: str) -> None:
    data = dialogues(16)
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "train_sampling_strategy": "sequential"}
    trainer = make(kind, llama, tmp_path, Q_TUNING, data, **settings)
    batches, _, _ = windows(trainer, 2)
    expected = expected_selections(trainer, batches)
    trainer = make(kind, llama, tmp_path, Q_TUNING, data, **settings)
    trainer.train()
    trace = trace_of(tmp_path)
    assert dict(trace.schema) == {name: type_() for name, type_ in TRACE_SCHEMA.items()}
    assert trace["sample"].to_list() == list(range(16))
    assert trace["kept"].to_list() == torch.cat([chosen.samples.kept for chosen in expected]).tolist()
    assert trace["quadrant"].to_list() == torch.cat([chosen.samples.quadrant for chosen in expected]).tolist()
    lengths = [sum(label != -100 for label in row["labels"][1:]) for row in data]
    assert trace["response_tokens"].to_list() == lengths
    masks = torch.cat([chosen.tokens for chosen in expected]).split(lengths)
    assert trace["kept_tokens"].to_list() == [int(mask.sum()) for mask in masks]
    for row, mask in zip(trace.iter_rows(named=True), masks, strict=True):
        if row["mask"] is not None:
            assert unpack_mask(row["mask"], len(mask)).tolist() == mask.tolist()
        nll = decode(row["token_nll"])
        assert nll.mean() == pytest.approx(torch.tensor(row["ppl"]).log().item(), rel=0.05)
        if row["kept_tokens"]:
            assert row["loss"] == pytest.approx(nll[mask.numpy()].mean(), rel=0.05)
    (record,) = map(json.loads, (tmp_path / "qtuning" / "metrics.jsonl").read_text().splitlines())
    (logged,) = training_logs(trainer)
    assert {key: logged[f"qtuning/{key}"] for key in ("samples", "samples_kept", "tokens_kept")} == {
        "samples": 16,
        "samples_kept": trace["kept"].sum(),
        "tokens_kept": trace["kept_tokens"].sum(),
    }
    assert logged["qtuning/tokens_kept_share"] == trace["kept_tokens"].sum() / sum(lengths)
    shares = [logged[f"qtuning/selection/q{quadrant}_share"] for quadrant in (1, 2, 3, 4)]
    assert shares == [record[f"selection/q{quadrant}_share"] for quadrant in (1, 2, 3, 4)] and sum(shares) > 0


def text(count: int) -> Dataset:
    """Sample n answers with n % 5 + 1 words; TRL adds the end of the sequence."""
    rows = [{"prompt": "w3 w4", "completion": " w5" * (n % 5 + 1), "source": str(n)} for n in range(count)]
    return Dataset.from_list(rows)


def test_rows_keep_their_numbers_through_trls_preparation(llama: Any, tmp_path: Path) -> None:
    """Tokenised, filtered (max_length leaves nothing of some answers), shuffled, unused columns removed."""
    settings = {"shuffle_dataset": True, "max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 4}
    make("trl", llama, tmp_path, RANDOM, text(24), **settings).train()
    trace = trace_of(tmp_path)
    assert sorted(trace["sample"]) == list(range(24)) != trace["sample"].to_list()
    assert (trace["response_tokens"] == trace["sample"] % 5 + 2).all()
    make("trl", llama, tmp_path, RANDOM, text(24).add_column("index", range(100, 124)), **settings).train()
    trace = trace_of(tmp_path)
    assert sorted(trace["sample"]) == list(range(100, 124)), "a column `index` says them"


class Rows(TorchDataset):  # type: ignore[type-arg]
    """Not a `datasets.Dataset`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.rows[place]


def test_numbers_that_nobody_knows_are_null(llama: Any, tmp_path: Path) -> None:
    rows = list(dialogues(8))
    make("transformers", llama, tmp_path, RANDOM, Rows(rows), max_steps=1).train()
    assert trace_of(tmp_path)["sample"].null_count() == 8
    rows = [{**row, "idx": 7 * number} for number, row in enumerate(rows)]
    make("transformers", llama, tmp_path, RANDOM, Rows(rows), max_steps=1).train()
    assert sorted(trace_of(tmp_path)["sample"]) == [7 * number for number in range(8)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_pruning_it_is_the_trainer_itself(tiny_llama: Any, tmp_path: Path, kind: str) -> None:
    import copy

    import trl
    from trainers import PrunedTrainer, tokenizer
    from transformers import DataCollatorForSeq2Seq, TrainingArguments

    from qtuning.integrations import Pruned

    class PrunedSFTTrainer(Pruned, trl.SFTTrainer): ...  # type: ignore[name-defined, misc]

    plain = make(kind, copy.deepcopy(tiny_llama), tmp_path / "plain")
    model, settings = copy.deepcopy(tiny_llama), plain.args.to_dict() | {"output_dir": str(tmp_path / "none")}
    kwargs = {"train_dataset": dialogues(16), "pruning": None}
    if kind == "trl":
        args: Any = trl.SFTConfig(**{key: settings[key] for key in PLAIN})  # type: ignore[attr-defined]
        ours: Any = PrunedSFTTrainer(model, args, processing_class=tokenizer(), **kwargs)
    else:
        args = TrainingArguments(**{key: settings[key] for key in PLAIN})
        ours = PrunedTrainer(model, args, DataCollatorForSeq2Seq(tokenizer()), **kwargs)
    plain.train()
    ours.train()
    assert torch.equal(weights(plain.model), weights(ours.model))
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
    for mine, theirs in zip(ours.state.log_history, plain.state.log_history, strict=True):
        assert mine.keys() == theirs.keys() and all(mine[key] == theirs[key] for key in mine.keys() - timed)
    assert not (tmp_path / "none" / "qtuning").exists()


PLAIN = ("output_dir", "per_device_train_batch_size", "max_steps", "learning_rate", "logging_steps", "save_strategy",
         "report_to", "disable_tqdm", "use_cpu", "bf16")  # fmt: skip


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_resumed_inside_a_logging_window_logs_and_leaves_the_same(
    tiny_llama: Any, tmp_path: Path, stop: int
) -> None:
    import copy

    settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "max_steps": 6}
    settings |= {"per_device_train_batch_size": 4}
    found = []
    for resume in (None, str(tmp_path / f"checkpoint-{stop}")):
        trainer = make("trl", copy.deepcopy(tiny_llama), tmp_path, Q_TUNING, **settings)
        trainer.train(resume_from_checkpoint=resume)
        logs = [{k: v for k, v in log.items() if k.startswith("qtuning/")} for log in training_logs(trainer)]
        found.append((logs, trace_of(tmp_path), (tmp_path / "qtuning" / "metrics.jsonl").read_text()))
    (logs, trace, metrics), (logs_again, trace_again, metrics_again) = found
    assert len(logs) == 2 and logs == logs_again and logs[0]["qtuning/samples"] == 12
    assert trace.equals(trace_again) and metrics == metrics_again and trace["update"].max() == 5


def test_budgets_missed_are_warned_of(llama: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A micro-batch of one sample keeps it, whatever the budget."""
    settings = {"per_device_train_batch_size": 1, "max_steps": 8, "train_sampling_strategy": "sequential"}
    with caplog.at_level(logging.WARNING, "qtuning"):
        make("transformers", llama, tmp_path, RANDOM, dialogues(8), **settings).train()
    (samples,) = [text for text in caplog.messages if "samples were kept" in text]
    assert "8 samples were kept; 4 are 0.5 of those seen (+100%)" in samples
    caplog.clear()
    make("transformers", llama, tmp_path, RANDOM, dialogues(8), max_steps=1).train()
    assert not [text for text in caplog.messages if "samples were kept" in text]


def test_trls_metrics_are_true_of_what_is_trained(llama: Any, tmp_path: Path) -> None:
    """num_tokens: those that go through training. Accuracy and entropy: of the kept tokens."""
    settings = {"gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential", "max_steps": 1}
    data = equal_then_different(8)
    trainer = make("trl", llama, tmp_path, NOTHING_SPARED, data, **settings)
    _, (nothing, pruned), items = windows(trainer, 2)
    with torch.no_grad():
        inputs = {key: pruned[key] for key in ("input_ids", "attention_mask")}
        log_p = trainer.model.eval()(**inputs).logits[:, :-1].log_softmax(-1)
    labels = pruned["labels"][:, 1:]
    kept = labels != -100
    entropy = -(log_p.exp() * log_p).sum(-1)[kept].mean().item()
    accuracy = (log_p.argmax(-1) == labels)[kept].float().mean().item()
    nll = -log_p.gather(2, labels.clamp(min=0)[..., None])[..., 0][kept].sum().item()
    trainer = make("trl", llama.train(), tmp_path, NOTHING_SPARED, data, **settings)
    trainer.train()
    (log,) = training_logs(trainer)
    assert log["num_tokens"] == int(pruned["attention_mask"].sum()) + int(nothing["attention_mask"].sum())
    assert log["entropy"] == pytest.approx(entropy, rel=1e-4), "the micro-batch that kept nothing does not count as 0"
    assert log["mean_token_accuracy"] == pytest.approx(accuracy)
    assert log["loss"] == pytest.approx(nll / int(items), rel=1e-4)
    trainer = make("trl", llama, tmp_path, NOTHING_SPARED, data, max_steps=1, train_sampling_strategy="sequential")
    trainer.train()
    (log,) = training_logs(trainer)
    assert log["loss"] == 0 and "entropy" not in log, "where nothing is kept there is nothing to say"
