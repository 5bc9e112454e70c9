"""Trainers of both libraries on tiny data, and what they should do by full logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainingArguments

from qtuning.integrations import Pruned
from qtuning.pruners.base import Candidates
from qtuning.pruners.method import Selection
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator

Q_TUNING = {"method": "q-tuning", "budget": "50x50", "options": {"lambda": 0.5}, "seed": 3}
WHOLE = {**Q_TUNING, "budget": "100x100"}
RANDOM = {"method": "random+random", "budget": "50x50", "seed": 3}
NOTHING_SPARED = {**Q_TUNING, "options": {"supplement": "none", "thresholds": "midpoint", "surplus": "keep"}}
KINDS = ("transformers", "trl")


class PrunedTrainer(Pruned, Trainer): ...


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 97)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def dialogues(count: int, seed: int = 0, turns: int = 2) -> Dataset:
    """Samples of two turns: targets are not next to each other."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        ids, labels = [], []
        for _ in range(turns):
            prompt, response = torch.randint(1, 9, (2,), generator=rng).tolist()
            words = torch.randint(3, 97, (prompt + response,), generator=rng).tolist()
            ids += words
            labels += [-100] * prompt + words[prompt:]
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def equal_then_different(each: int) -> Dataset:
    return Dataset.from_list([dialogues(1, seed=5)[0]] * each + list(dialogues(each)))


def make(kind: str, model: Any, folder: Path, pruning: Any = None, data: Any = None, **settings: Any) -> Any:
    """A trainer of a library, pruned if `pruning` says how."""
    arguments = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,  # TRL's default is True
        **settings,
    }
    collator, held_out = arguments.pop("data_collator", None), arguments.pop("eval_dataset", None)
    data = dialogues(16) if data is None else data
    if kind == "trl":
        trl = pytest.importorskip("trl")

        class PrunedSFTTrainer(Pruned, trl.SFTTrainer): ...  # type: ignore[name-defined, misc]

        sft = {
            "args": trl.SFTConfig(str(folder), **arguments),
            "processing_class": tokenizer(),
            "train_dataset": data,
            "eval_dataset": held_out,
        }
        return trl.SFTTrainer(model, **sft) if pruning is None else PrunedSFTTrainer(model, pruning=pruning, **sft)
    common = {
        "args": TrainingArguments(str(folder), **arguments),
        "data_collator": collator or DataCollatorForSeq2Seq(tokenizer()),
        "train_dataset": data,
        "eval_dataset": held_out,
    }
    return Trainer(model, **common) if pruning is None else PrunedTrainer(model, pruning=pruning, **common)


def weights(model: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def windows(trainer: Any, count: int) -> tuple[list[Any], list[Any], Tensor]:
    """The first `count` micro-batches of the trainer as its collator makes them, pruned, and the denominator."""
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(count), strict=False)]
    pruned, items = trainer.get_batch_samples(iter(batches), count, trainer.args.device)
    return batches, pruned, items


def labelled(batch: Any) -> list[list[tuple[int, int]]]:
    """(column, label) of the targets of each row that has any."""
    rows = [[(c, t) for c, t in enumerate(row) if c and t != -100] for row in batch["labels"].tolist()]
    return [row for row in rows if row]


def candidates_by_logits(model: Any, batch: Any, first: int = 0) -> Candidates:
    """Scores from the model's own full logits, by the oracle. Leaves the model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return candidates_of(logits, batch, first)


def candidates_of(logits: Tensor, batch: Any, first: int = 0) -> Candidates:
    rows = logits.double().numpy()
    nll, entropy, lengths = [], [], []
    with_targets = [row for row, labels in enumerate(batch["labels"][:, 1:].tolist()) if set(labels) != {-100}]
    for row, targets in zip(with_targets, labelled(batch), strict=True):
        at = rows[row, [column - 1 for column, _ in targets]]
        nll += oracles.token_nll(at, [label for _, label in targets]).tolist()
        entropy += oracles.token_entropy(at).tolist()
        lengths.append(len(targets))
    values = (torch.tensor(nll, dtype=torch.float64), torch.tensor(entropy, dtype=torch.float64))
    scores = BatchScores(*values, lengths=torch.tensor(lengths))
    return Candidates(first + torch.arange(len(lengths)), torch.tensor(lengths), scores)


def survivors(batch: Any, selection: Selection) -> list[list[tuple[int, int]]]:
    """What `labelled` gives of the batch if only the selected tokens keep their labels."""
    keep = iter(selection.tokens.tolist())
    rows = [[target for target in row if next(keep)] for row in labelled(batch)]
    return [row for row in rows if row]


def expected_selections(trainer: Any, batches: Sequence[Any]) -> list[Selection]:
    parts = [candidates_by_logits(trainer.model, batch, 100 * index) for index, batch in enumerate(batches)]
    rngs = [generator(3, "batch", 0, index) for index in range(len(parts))]
    return [trainer._method.select(*pair) for pair in zip(parts, rngs, strict=True)]


def masked_loss(model: Any, batches: Sequence[Any], kept: Sequence[Any], total: int) -> Tensor:
    """Sum of the NLL of the kept targets / their number, with the whole padded batches and full logits."""
    summed = torch.zeros(())
    for batch, rows in zip(batches, kept, strict=True):
        log_p = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
        for row, (targets, all_targets) in enumerate(zip(batch["labels"].tolist(), rows, strict=True)):
            for column, label in all_targets:
                assert targets[column] == label
                summed = summed - log_p[row, column - 1, label]
    return summed / total


def by_row(batch: Any, selection: Selection) -> list[list[tuple[int, int]]]:
    """Kept targets of each row, of the dropped ones too."""
    keep = iter(selection.tokens.tolist())
    return [[target for target in row if next(keep)] for row in labelled(batch)]
