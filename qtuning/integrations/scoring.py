"""Scores of a padded batch under the user's own model, which stays as it is (method.md, Scores)."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qtuning.errors import UserError
from qtuning.integrations.padded import TargetMap
from qtuning.model.head import head_of, token_statistics
from qtuning.model.packed import PROBED, causal_lm_of, same_but_for_rounding
from qtuning.model.transfer import to_host
from qtuning.scoring.scores import BatchScores, NonFinite, segment_mean

Inputs = Mapping[str, Tensor]


def score_padded(model: nn.Module, inputs: Inputs, target_map: TargetMap, everywhere: bool) -> BatchScores:
    """Scores of the rows that have targets, in one forward without gradient. Raises NonFinite.

    inputs: [B, L] tensors, on the model's device. everywhere: also the mean entropy over all positions of the sequence
    (reading A4, `sequence`).
    """
    if not len(target_map.rows):
        nothing = torch.zeros(0, dtype=torch.float64)
        return BatchScores(nothing, nothing, target_map.lengths, nothing if everywhere else None)
    sources = target_map.sources
    wanted = target_map.real if everywhere else sources
    nll, entropy = (v.double() for v in to_host(_statistics(model, inputs, wanted, target_map.following)))
    sequence_ent = None
    if everywhere:
        # rows without targets are no candidates, so their positions do not count
        mine = target_map.targets.any(dim=1, keepdim=True).expand_as(wanted)[wanted].cpu()
        sequence_ent = segment_mean(entropy[mine], wanted[target_map.rows].sum(dim=1).cpu())
        among = sources[wanted].cpu()
        nll, entropy = nll[among], entropy[among]
    if not bool(torch.isfinite(nll + entropy).all()):
        raise NonFinite("scores are not finite: the model has diverged or its weights are broken")
    return BatchScores(nll, entropy, target_map.lengths, sequence_ent)


@torch.no_grad()
def check_padded_forward(model: nn.Module, inputs: Inputs, target_map: TargetMap) -> None:
    """UserError unless backbone and head, called apart, give what the model's own logits give.

    Tried on the first targets of one sample, so that a head of a kind that is not known shows.
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
    row = int(target_map.rows[0])
    sources = target_map.sources[row : row + 1]
    stop = int(sources[0].nonzero()[:PROBED].max()) + 2
    probe = {key: value[row : row + 1, :stop] for key, value in inputs.items()}
    wanted, following = sources[:, :stop], target_map.following[row : row + 1, :stop]
    ours, _ = _statistics(model, probe, wanted, following)
    log_p = model(**_accepted(causal_lm, probe), use_cache=False).logits[wanted].float().log_softmax(dim=-1)
    theirs = -log_p.gather(1, following[wanted][:, None]).squeeze(1)
    exact = not torch.is_autocast_enabled(sources.device.type) and causal_lm.dtype == torch.float32
    if not same_but_for_rounding((ours - theirs).abs(), exact):
        raise refusal


@torch.no_grad()
def _statistics(model: nn.Module, inputs: Inputs, wanted: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Token NLL and entropy at the wanted columns, each [M] float32. wanted: [B, L] bool. following: the labels.

    The backbone runs on the padded batch, the head on the wanted positions only, in chunks.
    """
    causal_lm = causal_lm_of(model)
    backbone = getattr(causal_lm, causal_lm.base_model_prefix)
    head = head_of(causal_lm)
    hidden = backbone(**_accepted(backbone, inputs), use_cache=False).last_hidden_state[wanted]
    device = head.weight.device  # of a model spread over several, the last one
    return token_statistics(hidden.to(device), head, following[wanted].to(device))


def _accepted(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The inputs that the module's forward names. Others (a sample's number) are for the user's own code."""
    names = inspect.signature(type(module).forward).parameters
    return {key: value for key, value in inputs.items() if key in names}
