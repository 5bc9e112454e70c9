"""The same decision seen twice: scores of a small model from packed samples, and cut out of padded batches."""

from dataclasses import replace
from functools import cache

import torch

from qtuning.data.samples import Sample
from qtuning.model.packed import PackedModel
from qtuning.pruners.specimens import Specimen, random_candidates, specimen
from qtuning.pruners.together import join
from qtuning.scoring.scores import BatchScores, observe

VOCABULARY = 211
CPU = torch.device("cpu")
NEEDS = {"scores", "sequence-entropy", "attention"}


@cache
def padded_twins() -> tuple[tuple[Specimen, Specimen], ...]:
    """Pairs of specimens that differ in how their scores were computed, and in nothing else."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).eval()
    torch.set_rng_state(torch_state)
    return tuple(_twins(model, seed) for seed in (41, 42))


def _twins(model: torch.nn.Module, seed: int) -> tuple[Specimen, Specimen]:
    rng = torch.Generator().manual_seed(seed)
    usual = random_candidates(8, seed, longest=24)
    assert usual.prompts is not None
    samples = [
        Sample(int(number), torch.randint(3, VOCABULARY, (int(p + r),), generator=rng), int(p))
        for number, p, r in zip(usual.numbers, usual.prompts, usual.lengths, strict=True)
    ]
    scores = _padded_scores(model, samples)
    wrapped = PackedModel(model)
    together = observe(wrapped, samples, NEEDS, 2, CPU)
    alone = [observe(wrapped, [sample], NEEDS, 2, CPU).attention for sample in samples]
    packed = replace(usual, scores=together.scores, attention=together.attention)
    padded = replace(usual, scores=scores, attention=join(alone))
    name = f"model scores, seed {seed}"
    ratios = (0.5, 0.5)
    return specimen(name, packed, ratios, seed), specimen(name, padded, ratios, seed)


@torch.no_grad()
def _padded_scores(model: torch.nn.Module, samples: list[Sample]) -> BatchScores:
    """By transformers' own forward over a batch padded on the right with a token that is not 0."""
    model.set_attn_implementation("eager")  # type: ignore[operator]
    width = max(len(sample.tokens) for sample in samples)
    ids = torch.full((len(samples), width), 7)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.tokens)] = sample.tokens
        mask[row, : len(sample.tokens)] = 1
    log_p = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.double().log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    nll, ent, sequence = [], [], []
    for row, sample in enumerate(samples):
        length = len(sample.tokens)
        before = slice(sample.prompt - 1, length - 1)
        nll.append(-log_p[row, before].gather(1, sample.tokens[sample.prompt :, None]).squeeze(1))
        ent.append(entropy[row, before])
        sequence.append(entropy[row, :length].mean())
    lengths = torch.tensor([sample.response_length for sample in samples])
    return BatchScores(torch.cat(nll), torch.cat(ent), lengths, torch.stack(sequence))
