"""Scores of a padded batch under the user's own model, which stays as it is (method.md, Scores)."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qtuning.integrations.padded import Layout
from qtuning.model.head import head_of, statistics
from qtuning.model.packed import PROBED, causal_lm_of
from qtuning.scoring.scores import BatchScores, NonFinite, segment_mean

LOGITS = 2**26  # numbers in one chunk of full logits: 256 MB in float32

Inputs = Mapping[str, Tensor]
Statistics = tuple[Tensor, Tensor]  # token NLL and entropy


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout); afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])
        for module, training in modes:
            module.training = training


def score_padded(model: nn.Module, inputs: Inputs, layout: Layout, apart: bool, everywhere: bool) -> BatchScores:
    """Scores of the rows that have targets, in one forward without gradient. Raises NonFinite.

    inputs: [B, L] tensors, on the model's device. apart: see `can_be_taken_apart`. everywhere: also the mean entropy
    over all positions of the sequence (reading A4, `sequence`).
    """
    if not len(layout.rows):
        nothing = torch.zeros(0, dtype=torch.float64)
        return BatchScores(nothing, nothing, layout.lengths, nothing if everywhere else None)
    sources = layout.sources
    wanted = layout.real if everywhere else sources
    measure = by_parts if apart else by_logits
    nll, entropy = (values.double().cpu() for values in measure(model, inputs, wanted, layout.following))
    sequence_ent = None
    if everywhere:
        # of the rows with targets: the others are not candidates
        mine = layout.targets.any(dim=1, keepdim=True).expand_as(wanted)[wanted].cpu()
        sequence_ent = segment_mean(entropy[mine], wanted[layout.rows].sum(dim=1).cpu())
        among = sources[wanted].cpu()
        nll, entropy = nll[among], entropy[among]
    if not bool(torch.isfinite(nll + entropy).all()):
        raise NonFinite("scores are not finite: the model has diverged or its weights are broken")
    return BatchScores(nll, entropy, layout.lengths, sequence_ent)


@torch.no_grad()
def by_parts(model: nn.Module, inputs: Inputs, wanted: Tensor, following: Tensor) -> Statistics:
    """Statistics at the wanted columns, [M] float32. wanted: [B, L] bool. following: what each column should predict.

    The backbone runs on the padded batch, the head on the wanted positions only, in chunks.
    """
    causal_lm = causal_lm_of(model)
    backbone = getattr(causal_lm, causal_lm.base_model_prefix)
    head = head_of(causal_lm)
    hidden = backbone(**_taken(backbone, inputs), use_cache=False).last_hidden_state[wanted]
    device = head.weight.device  # of a model spread over several, the last one
    return statistics(hidden.to(device), head, following[wanted].to(device))


@torch.no_grad()
def by_logits(model: nn.Module, inputs: Inputs, wanted: Tensor, following: Tensor) -> Statistics:
    """The same, from the model's own logits, a few samples at a time."""
    causal_lm = causal_lm_of(model)
    taken = _taken(causal_lm, inputs)
    length = wanted.shape[1]
    samples = max(1, LOGITS // (length * causal_lm.config.get_text_config().vocab_size))
    nll, entropy = [], []
    for start in range(0, len(wanted), samples):
        part = slice(start, start + samples)
        some = {key: value[part] for key, value in taken.items()}
        logits = model(**some, use_cache=False).logits[:, -length:]  # prompt tuning puts tokens of its own in front
        log_p = logits[wanted[part]].float().log_softmax(dim=-1)
        nll.append(-log_p.gather(1, following[part][wanted[part], None]).squeeze(1))
        entropy.append(torch.special.entr(log_p.exp()).sum(dim=-1))
    return torch.cat(nll), torch.cat(entropy)


def can_be_taken_apart(model: nn.Module, inputs: Inputs, layout: Layout) -> bool:
    """Whether backbone and head, called apart, give what the model's own logits give.

    Tried on the first targets of one sample: a family whose head does something we do not know of shows.
    """
    causal_lm = causal_lm_of(model)
    prompted = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    backbone = getattr(causal_lm, causal_lm.base_model_prefix, None)
    # an adapted or quantised head is more than its weight
    if prompted or backbone is None or type(causal_lm.get_output_embeddings()) is not nn.Linear:
        return False
    row = int(layout.rows[0])
    sources = layout.sources[row : row + 1]
    stop = int(sources[0].nonzero()[:PROBED].max()) + 2
    probe = {key: value[row : row + 1, :stop] for key, value in inputs.items()}
    where = sources[:, :stop], layout.following[row : row + 1, :stop]
    ours, theirs = by_parts(model, probe, *where), by_logits(model, probe, *where)
    differences = torch.stack([(a - b).abs() for a, b in zip(ours, theirs, strict=True)])
    exact = not torch.is_autocast_enabled(sources.device.type) and causal_lm.dtype == torch.float32
    most, most_mean = (1e-3, 1e-4) if exact else (0.5, 0.05)  # bfloat16 rounds each layer to 3 digits
    return float(differences.max()) <= most and float(differences.mean()) <= most_mean


def _taken(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The inputs that the module names. Others (a sample's number) are for the user's own code."""
    names = inspect.signature(type(module).forward).parameters
    return {key: value for key, value in inputs.items() if key in names}
