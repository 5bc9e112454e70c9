"""Train the mini world's base model, and if wanted its tokenizer, from nothing."""

import gzip
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.errors import UserError
from qtuning.files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHIPPED = Path(__file__).parents[1] / "qtuning" / "assets" / "mini"
"""Folder of the shipped base model."""
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_SFT_WEIGHT = 8
"""Copies of the fine-tuning texts in the tokenizer's training text, so that their marks become tokens."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule. The defaults made the shipped model."""

    vocabulary: int = 1536
    hidden: int = 160
    layers: int = 4
    heads: int = 5
    intermediate: int = 448
    context: int = 256
    batch: int = 8
    """Blocks of `context` tokens in an update."""
    updates: int = 7000
    muon_learning_rate: float = 0.02
    """Peak, of the matrices inside the layers (Muon)."""
    adam_learning_rate: float = 0.004
    """Peak, of everything else (AdamW)."""
    weight_decay: float = 0.01
    warmup: float = 0.02
    decay: float = 0.4
    """Shares of the updates with rising and with falling (linear to 0) learning rate; between them it is constant."""
    seed: int = 2509


def pretrain(
    world_dir: Path,
    out_dir: Path,
    *,
    threads: int = 1,
    recipe: Recipe | None = None,
    new_tokenizer: bool = False,
) -> None:
    """Train the base model on the world in `world_dir`; write it to `out_dir` (whole or not at all).

    The tokenizer is the shipped one, so that the weights depend on the corpus alone; `new_tokenizer` trains one on this
    world's texts. Equal inputs and `threads` on one machine give equal weights. Writes what `transformers` loads,
    `training_log.jsonl` (loss every 20 updates) and `recipe.json` (recipe, tokens, digest of the corpus).
    """
    import torch
    from transformers import PreTrainedTokenizerFast

    recipe = recipe or Recipe()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    texts = _texts(world_dir)
    manifest = read_json(world_dir / "manifest.json")
    tokenizer: PreTrainedTokenizerFast
    if new_tokenizer:
        tokenizer = train_tokenizer([*texts, *_SFT_WEIGHT * _sft_texts(world_dir)], recipe.vocabulary)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
    model = build_model(recipe, tokenizer)
    blocks = pack(texts, tokenizer, recipe)
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        with open(folder / "training_log.jsonl", "w", encoding="utf-8") as log:
            for entry in _train(model, blocks, recipe):
                log.write(json.dumps(entry) + "\n")
                log.flush()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = {
            "recipe": asdict(recipe),
            "world_seed": manifest["seed"],
            "pretrain_sha256": manifest["files"]["pretrain/train.jsonl.gz"]["sha256"],
            "parameters": sum(p.numel() for p in model.parameters()),
            "tokens_per_epoch": blocks.numel(),
            "threads": threads,
        }
        write_json(folder / "recipe.json", facts)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        raise UserError(f"{path} does not exist; generate the mini world there first")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


def _texts(world_dir: Path) -> list[str]:
    return [row["text"] for row in _rows(world_dir / "pretrain" / "train.jsonl.gz")]


def _sft_texts(world_dir: Path) -> list[str]:
    return [f"{row['instruction']}\nAnswer: {row['output']}" for row in _rows(world_dir / "sft" / "train_0.jsonl.gz")]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE whose digits stay single; adds BOS in front and nothing behind."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A digit takes the blank before it along: ` 4` and `4` are two tokens, as a word is with and without one.
            pre_tokenizers.Split(Regex(r" ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def build_model(recipe: Recipe, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """A fresh LLaMA with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=2 * recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pack(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast", recipe: Recipe) -> "torch.Tensor":
    """All documents (BOS text EOS) end to end, cut to rows: int64 [blocks, context]."""
    import torch

    stream: list[int] = []
    for ids in tokenizer(list(texts), return_attention_mask=False)["input_ids"]:
        stream += ids
        stream.append(tokenizer.eos_token_id)
    usable = len(stream) - len(stream) % recipe.context
    return torch.tensor(stream[:usable]).view(-1, recipe.context)


def _schedule(update: int, recipe: Recipe) -> float:
    """Factor of the peak learning rate: up, constant, down to 0."""
    warm, cool = recipe.warmup * recipe.updates, recipe.decay * recipe.updates
    return min(1.0, (update + 1) / max(1.0, warm), (recipe.updates - update) / max(1.0, cool))


def _train(model: "LlamaForCausalLM", blocks: "torch.Tensor", recipe: Recipe) -> Iterator[dict[str, float]]:
    """Train in place; yield the mean loss of every 20 updates."""
    import torch
    from rich.progress import track

    from mini_world.muon import Muon

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, recipe.muon_learning_rate, recipe.weight_decay),
        torch.optim.AdamW(
            others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
        ),
    ]
    peaks = [recipe.muon_learning_rate, recipe.adam_learning_rate]
    rng = random.Random(recipe.seed)
    order: list[int] = []
    losses: list[float] = []
    start = time.monotonic()
    model.train()
    for update in track(range(recipe.updates), description="pretraining"):
        if len(order) < recipe.batch:
            order = rng.sample(range(len(blocks)), len(blocks))
        rows, order = order[: recipe.batch], order[recipe.batch :]
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * _schedule(update, recipe)
        batch = blocks[rows]
        # float32: bfloat16 is a little faster where processors have it, and takes ten times as long where they do not
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(f"pretraining diverged at update {update}: lower the learning rates")
        if len(losses) == 20:
            yield {
                "update": update + 1,
                "tokens": (update + 1) * recipe.batch * recipe.context,
                "loss": round(sum(losses) / 20, 4),
                "seconds": round(time.monotonic() - start, 1),
            }
            losses.clear()
