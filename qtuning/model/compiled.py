"""torch.compile of a model's layers, each but for its attention."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from qtuning.model.attention import PACKED, packed_attention
from qtuning.model.packed import PackedModel


@dataclass(frozen=True)
class Hidden:
    """Lengths of segments that compiled code hands on without a look. It would be compiled anew for each number."""

    lengths: tuple[int, ...]


def compile_layers(model: PackedModel) -> None:
    """Compile each decoder layer, in place, for batches of any size; all layers share the code.

    Attention over segments runs as it always does: it is a kernel already, and its Python depends on the lengths.
    """
    apart: Any = torch.compiler.disable(_attention)
    AttentionInterface.register(PACKED, apart)
    model.hand_on = Hidden
    for layer in model.decoder_layers:
        layer.compile(dynamic=True)


def _attention(*arguments: Any, segments: Any, **more: Any) -> Any:
    return packed_attention(*arguments, segments=segments.lengths if isinstance(segments, Hidden) else segments, **more)
