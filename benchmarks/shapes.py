"""What is measured on: LLaMA models with random weights, ragged batches, and kept sets of a wanted size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from qtuning.data.samples import Sample


@dataclass(frozen=True)
class Shape:
    """Of a LLaMA model with tied embeddings and heads of 64 channels."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    layers: int
    vocabulary: int

    def __str__(self) -> str:
        return (
            f"LLaMA, {self.layers} layers, hidden {self.hidden}, {self.heads}/{self.kv_heads} heads, "
            f"inter {self.intermediate}, vocabulary {self.vocabulary:,}, tied"
        )


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    model: of the step, LoRA, bf16 and gradient tables. large: of the memory table. stretch: factor of the samples'
    lengths. vocabularies, lengths: of the scorer's grid; logits: numbers in the largest full logits that are tried.
    batches: of the selection. repeats: passes of the step table; fewer: of other tables; runs: of short things.
    starts: of each command. learned: updates before bf16 scores are judged. judged: samples that they are judged on.
    """

    model: Shape
    large: Shape
    stretch: float
    vocabularies: tuple[int, ...]
    lengths: tuple[int, ...]
    logits: int
    scorer_vocabulary: int
    batches: tuple[int, ...]
    repeats: int
    fewer: int
    runs: int
    starts: int
    learned: int
    judged: int


# the head of `model` has the same share of the parameters as in SmolLM2-135M (30 layers, vocabulary 49,152)
CPU = Sizes(
    model=Shape(576, 9, 3, 1536, 6, 9792),
    large=Shape(576, 9, 3, 1536, 10, 49152),
    stretch=1.0,
    vocabularies=(4096, 16384, 49152, 131072, 262144),
    lengths=(128, 1024, 4096),
    logits=2**27,
    scorer_vocabulary=49152,
    batches=(8, 32, 64, 256),
    repeats=7,
    fewer=3,
    runs=31,
    starts=2,
    learned=60,
    judged=1024,
)
# untried where this was written: the same command, on a model that keeps a GPU busy
GPU = Sizes(
    **{
        **vars(CPU),
        "model": Shape(1024, 16, 4, 3584, 16, 16384),
        "large": Shape(1024, 16, 4, 3584, 16, 49152),
        "stretch": 2.0,
        "logits": 2**31,
        "repeats": 11,
        "fewer": 11,
    }
)
QUICK = Sizes(
    model=Shape(128, 2, 1, 192, 2, 384),
    large=Shape(128, 2, 1, 192, 2, 384),
    stretch=0.125,
    vocabularies=(512, 2048),
    lengths=(32, 64),
    logits=2**16,
    scorer_vocabulary=1024,
    batches=(8,),
    repeats=1,
    fewer=1,
    runs=3,
    starts=1,
    learned=2,
    judged=32,
)


@dataclass(frozen=True)
class Setting:
    """What every section is given."""

    device: torch.device
    sizes: Sizes


def build(shape: Shape, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, float32, in training mode."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return model.to(device).train()  # type: ignore[no-any-return]


# of 8 samples: a draw with 66% real tokens, 42% response positions (of the padded batch), and subsets of 12.5, 25 and
# 50% of its tokens and of its response tokens
SEED = 28707


def ragged(count: int, vocabulary: int, stretch: float) -> list[Sample]:
    """Samples of log-normal lengths, 40 to 512 tokens times `stretch`, 20 to 60% of them prompt."""
    rng = torch.Generator().manual_seed(SEED)
    lengths = (5.1 + 0.6 * torch.randn(count, generator=rng)).exp().round().clamp(40, 512)
    prompts = (lengths * (0.2 + 0.4 * torch.rand(count, generator=rng))).round()
    samples = []
    for number, (length, prompt) in enumerate(zip(lengths.tolist(), prompts.tolist(), strict=True)):
        tokens = torch.randint(vocabulary, (round(length * stretch),), generator=rng)
        samples.append(Sample(number, tokens, max(1, round(prompt * stretch))))
    return samples


@dataclass(frozen=True)
class Kept:
    """What of a batch is trained. masks: [|T_i|] bool a sample. share: tokens of the kept samples / all tokens."""

    masks: tuple[Tensor, ...]
    share: float

    @property
    def targets(self) -> int:
        """How many tokens have a loss."""
        return int(sum(mask.sum() for mask in self.masks))


def keep_share(samples: Sequence[Sample], ratio: float, token_ratio: float) -> Kept:
    """The samples that hold `ratio` of all tokens, or as near as can be; of their responses, a random `token_ratio`.

    Among the 2^B subsets, that of the smallest max(3 |tokens - ratio|, |response tokens - ratio|), both as shares.
    """
    lengths = torch.tensor([len(sample.tokens) for sample in samples]).double()
    responses = torch.tensor([sample.response_length for sample in samples]).double()
    bits = torch.arange(len(samples))
    subsets = (torch.arange(1, 2 ** len(samples))[:, None] >> bits & 1).double()
    tokens, response = subsets @ lengths / lengths.sum(), subsets @ responses / responses.sum()
    best = int(torch.maximum(3 * (tokens - ratio).abs(), (response - ratio).abs()).argmin())
    rng = torch.Generator().manual_seed(SEED)
    masks = []
    for sample, kept in zip(samples, subsets[best].bool().tolist(), strict=True):
        mask = torch.zeros(sample.response_length, dtype=torch.bool)
        if kept:
            count = max(1, round(token_ratio * sample.response_length))
            mask[torch.randperm(sample.response_length, generator=rng)[:count]] = True
        masks.append(mask)
    return Kept(tuple(masks), float(tokens[best]))


def forwarded(samples: Sequence[Sample], kept: Kept) -> float:
    """Tokens that are trained, tails cut off, as a share of all tokens."""
    from qtuning.model.batch import pack

    packed = pack(samples, kept.masks)
    assert packed is not None
    return packed.tokens / sum(len(sample.tokens) for sample in samples)
