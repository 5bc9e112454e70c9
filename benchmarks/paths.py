"""One training step, forward and backward and no optimizer, in each of the ways that are compared.

Every path leaves the gradients of mean NLL over the kept tokens in `model`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.shapes import Kept
from qtuning.data.samples import Sample
from qtuning.experiment.cell import Pruning
from qtuning.integrations.padded import IGNORED, cut, find_targets
from qtuning.model.batch import Packed, pack
from qtuning.model.packed import PackedModel, half_weights
from qtuning.pruners.base import Candidates
from qtuning.pruners.method import Method, Selection, method_of
from qtuning.scoring.scores import BatchScores, observe
from qtuning.train.reuse import observe_with_graphs
from qtuning.train.windows import balance

TOKEN_RATIO = 0.7


@dataclass(frozen=True)
class Padded:
    """Samples padded on the right, as a collator makes them.

    inputs: input_ids, attention_mask and labels, [B, L]. response: [B, L] bool.
    """

    inputs: dict[str, Tensor]
    response: Tensor

    def keeping(self, kept: Kept) -> Tensor:
        """[B, L] bool: the kept response tokens."""
        mask = torch.zeros_like(self.response)
        mask[self.response] = torch.cat(kept.masks).to(mask.device)
        return mask


def padded(samples: Sequence[Sample], device: torch.device) -> Padded:
    """The samples as one padded batch on `device`."""
    ids = pad_sequence([sample.tokens for sample in samples], batch_first=True)
    real = pad_sequence([torch.ones_like(sample.tokens) for sample in samples], batch_first=True)
    prompts = torch.tensor([sample.prompt for sample in samples])
    response = real.bool() & (torch.arange(ids.shape[1]) >= prompts[:, None])
    inputs = {"input_ids": ids, "attention_mask": real, "labels": ids.masked_fill(~response, IGNORED)}
    return Padded({key: value.to(device) for key, value in inputs.items()}, response.to(device))


def q_tuning(ratio: float) -> Method:
    """Q-Tuning with its default readings, at `ratio` of the samples and TOKEN_RATIO of the tokens."""
    return method_of(
        Pruning(sample_pruner="q-tuning", token_pruner="q-tuning", sample_ratio=ratio, token_ratio=TOKEN_RATIO)
    )


def candidates(samples: Sequence[Sample], scores: BatchScores) -> Candidates:
    """What a training loop hands to the pruners."""
    return Candidates(
        numbers=torch.tensor([sample.number for sample in samples]),
        lengths=torch.tensor([sample.response_length for sample in samples]),
        prompts=torch.tensor([sample.prompt for sample in samples]),
        scores=scores,
    )


def plain_transformers(model: Any, batch: Padded) -> None:
    """Plain SFT as transformers does it: padded, with the model's own loss."""
    model.zero_grad(set_to_none=True)
    model(**batch.inputs).loss.backward()


def naive(model: Any, batch: Padded, samples: Sequence[Sample], kept: Kept, method: Method | None) -> None:
    """Q-Tuning in one forward: full logits with gradient, full log_softmax and softmax, masked loss, full backward.

    method: makes its decision in passing; None to leave that out.
    """
    model.zero_grad(set_to_none=True)
    ids, response = batch.inputs["input_ids"], batch.response[:, 1:]
    logits = model(input_ids=ids, attention_mask=batch.inputs["attention_mask"]).logits[:, :-1]
    log_p = logits.log_softmax(dim=-1)
    nll = -log_p.gather(2, ids[:, 1:, None]).squeeze(2)
    with torch.no_grad():
        entropy = -(logits.softmax(dim=-1) * log_p).sum(dim=-1)
        if method is not None:
            lengths = torch.tensor([sample.response_length for sample in samples])
            scores = BatchScores(nll[response].double().cpu(), entropy[response].double().cpu(), lengths)
            method.select(candidates(samples, scores), torch.Generator().manual_seed(0))
    mask = batch.keeping(kept)[:, 1:]
    ((nll * mask).sum() / mask.sum()).backward()


def trained_by_mixin(model: Any, batch: Padded, kept: Kept) -> None:
    """The padded batch cut to what is kept, as `integrations` does it for users' trainers."""
    model.zero_grad(set_to_none=True)
    target_map = find_targets(batch.inputs)
    smaller = cut(batch.inputs, target_map, batch.keeping(kept))
    model(**smaller, num_items_in_batch=torch.tensor(kept.targets)).loss.backward()


def plain(model: PackedModel, samples: Sequence[Sample], device: torch.device) -> None:
    """Plain SFT of ours: packed, chunked head."""
    train(model, pack(samples), device)


def ours(
    model: PackedModel,
    samples: Sequence[Sample],
    kept: Kept,
    method: Method,
    device: torch.device,
    scoring: torch.dtype | None = None,
) -> Selection:
    """Score without gradient, select, pack, train. scoring: autocast of the scores, by weights copied once.

    The decision is made and returned, but what is trained is `kept`, whose size is known.
    """
    weights = None if scoring is None else half_weights(model)
    with autocast(device, scoring):
        observed = observe(model, samples, {"scores"}, None, device, weights)
    del weights  # before training, as in the training loop
    assert observed.scores is not None
    selection = method.select(candidates(samples, observed.scores), torch.Generator().manual_seed(0))
    train(model, pack(samples, kept.masks), device)
    return selection


def reused(
    model: PackedModel, samples: Sequence[Sample], kept: Kept, method: Method, device: torch.device
) -> Selection:
    """The same through the forward that scored (schedule `reuse-graph`)."""
    model.zero_grad(set_to_none=True)
    observed, graphs = observe_with_graphs(model, samples, {"scores"}, device)
    assert observed.scores is not None
    selection = method.select(candidates(samples, observed.scores), torch.Generator().manual_seed(0))
    packed = pack(samples, kept.masks)
    assert packed is not None
    graphs.keep_only(packed.rows)
    loss, _ = graphs.loss(model, packed.to(device))
    (loss / packed.targets).backward()
    return selection


def rebatched(model: PackedModel, samples: Sequence[Sample], kept: Kept, device: torch.device) -> None:
    """The kept samples in two forwards of about equal token counts (schedule `pool`)."""
    whole = pack(samples, kept.masks)
    assert whole is not None
    parts = [[whole.rows[place] for place in part] for part in balance(range(len(whole.rows)), whole.lengths, 2)]
    packed = [pack([samples[row] for row in part], [kept.masks[row] for row in part]) for part in parts]
    _train_all(model, [part for part in packed if part is not None], whole.targets, device)


def train(model: PackedModel, packed: Packed | None, device: torch.device) -> None:
    """Forward and backward of what was packed."""
    assert packed is not None
    _train_all(model, [packed], packed.targets, device)


def _train_all(model: PackedModel, parts: Sequence[Packed], targets: int, device: torch.device) -> None:
    model.zero_grad(set_to_none=True)
    for part in parts:
        loss, _ = model(part.to(device))
        (loss / targets).backward()


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast to `dtype`; nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
