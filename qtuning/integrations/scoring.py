"""Scores of a padded or packed batch under the user's own model, which stays as it is (method.md, Scores)."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qtuning.errors import UserError
from qtuning.integrations.padded import SEQUENCES, Batch, TargetMap, cut, find_targets
from qtuning.model.head import head_of, token_statistics
from qtuning.model.packed import PROBED, causal_lm_of, same_but_for_rounding
from qtuning.model.transfer import to_host
from qtuning.scoring.scores import BatchScores, NonFinite, segment_mean

Inputs = Mapping[str, Any]
PROBES = 2  # samples that a model is tried on, with PROBED targets each


def inputs_of(batch: Batch, target_map: TargetMap) -> dict[str, Any]:
    """What a model may be told of a batch: its tensors [B, L] but for the labels, and what tells samples apart."""
    size = target_map.real.shape
    return {
        key: value
        for key, value in batch.items()
        if key in SEQUENCES or (isinstance(value, Tensor) and value.shape == size and key != "labels")
    }


def score_batch(model: nn.Module, inputs: Inputs, target_map: TargetMap, everywhere: bool) -> BatchScores:
    """Scores of the samples that have targets, in one forward without gradient. Raises NonFinite.

    inputs: see `inputs_of`; on the model's device. everywhere: also the mean entropy over all positions of the sequence
    (reading A4, `sequence`).
    """
    if not len(target_map.samples):
        nothing = torch.zeros(0, dtype=torch.float64)
        return BatchScores(nothing, nothing, target_map.lengths, nothing if everywhere else None)
    sources = target_map.sources
    wanted = target_map.real if everywhere else sources
    nll, entropy = (v.double() for v in to_host(_statistics(model, inputs, wanted, target_map.following)))
    sequence_ent = None
    if everywhere:
        # samples without targets are no candidates, so their positions do not count
        mine = torch.isin(target_map.owner[wanted], target_map.samples).cpu()
        sequence_ent = segment_mean(entropy[mine], target_map.count(wanted))
        among = sources[wanted].cpu()
        nll, entropy = nll[among], entropy[among]
    if not bool(torch.isfinite(nll + entropy).all()):
        raise NonFinite("scores are not finite: the model has diverged or its weights are broken")
    return BatchScores(nll, entropy, target_map.lengths, sequence_ent)


@torch.no_grad()
def check_head(model: nn.Module, batch: Batch, target_map: TargetMap) -> None:
    """UserError unless backbone and head, called apart, give what the model's own logits give.

    Tried on the first targets of a few samples, so that a head of a kind that is not known shows.
    """
    causal_lm = causal_lm_of(model)
    prompted = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    backbone = getattr(causal_lm, causal_lm.base_model_prefix, None)
    refusal = UserError(
        f"{type(model).__name__}: its head cannot be called by itself (prompt tuning, an adapted or quantised head, or "
        "a head of a kind that is not known), so its samples cannot be scored; choose a method without scores"
    )
    # an adapted or quantised head is more than its weight
    if prompted or backbone is None or type(causal_lm.get_output_embeddings()) is not nn.Linear:
        raise refusal
    inputs, probe = _probe(batch, target_map)
    ours, _ = _statistics(model, inputs, probe.sources, probe.following)
    if not _same(causal_lm, ours, _own(model, inputs, probe.sources, probe.following)):
        raise refusal


@torch.no_grad()
def check_apart(model: nn.Module, batch: Batch, target_map: TargetMap) -> None:
    """UserError unless the model reads the samples of a packed batch as if each were alone.

    Tried on the first targets of a few samples. Else what is dropped would change what is kept.
    """
    inputs, probe = _probe(batch, target_map)
    alone = []
    for sample in probe.samples:
        columns = (probe.owner == sample)[0]
        one = {key: value[:, columns] for key, value in inputs.items() if key not in (*SEQUENCES, "position_ids")}
        alone.append(_own(model, one, probe.sources[:, columns], probe.following[:, columns]))
    if not _same(causal_lm_of(model), _own(model, inputs, probe.sources, probe.following), torch.cat(alone)):
        attention = causal_lm_of(model).config._attn_implementation
        raise UserError(
            f"{type(model).__name__}: with attention {attention!r} samples that share a row see each other, so that "
            "none can be dropped; choose an attn_implementation that keeps them apart, or switch packing and "
            "padding_free off"
        )


def _probe(batch: Batch, target_map: TargetMap) -> tuple[dict[str, Any], TargetMap]:
    """The first PROBES samples with targets, each up to its target number PROBED."""
    place = torch.cat([torch.arange(int(n)) for n in target_map.lengths]).to(target_map.real.device)
    kept = torch.zeros_like(target_map.targets)
    few = target_map.owner[target_map.targets] <= target_map.samples[:PROBES][-1]
    kept[target_map.targets] = (place < PROBED) & few
    probe = cut(batch, target_map, kept)
    found = find_targets(probe)
    return inputs_of(probe, found), found


def _own(model: nn.Module, inputs: Inputs, wanted: Tensor, following: Tensor) -> Tensor:
    """Token NLL at the wanted columns by the model's own logits."""
    logits = model(**_accepted(causal_lm_of(model), inputs), use_cache=False).logits[wanted]
    return -logits.float().log_softmax(dim=-1).gather(1, following[wanted][:, None]).squeeze(1)


def _same(causal_lm: PreTrainedModel, ours: Tensor, theirs: Tensor) -> bool:
    exact = not torch.is_autocast_enabled(ours.device.type) and causal_lm.dtype == torch.float32
    return same_but_for_rounding((ours - theirs).abs(), exact)


@torch.no_grad()
def _statistics(model: nn.Module, inputs: Inputs, wanted: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Token NLL and entropy at the wanted columns, each [M] float32. wanted: [B, L] bool. following: the labels.

    The backbone runs on the whole batch, the head on the wanted positions only, in chunks.
    """
    causal_lm = causal_lm_of(model)
    backbone = getattr(causal_lm, causal_lm.base_model_prefix)
    head = head_of(causal_lm)
    hidden = backbone(**_accepted(backbone, inputs), use_cache=False).last_hidden_state[wanted]
    device = head.weight.device  # of a model spread over several, the last one
    return token_statistics(hidden.to(device), head, following[wanted].to(device))


def _accepted(module: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The inputs that the module's forward names or, of those that tell packed samples apart, hands on."""
    parameters = inspect.signature(type(module).forward).parameters
    handed = SEQUENCES if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else ()
    return {key: value for key, value in inputs.items() if key in parameters or key in handed}
