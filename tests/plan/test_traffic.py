"""Bytes beside the large products, counted again: every operation of a pass, with what it reads and writes."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qtuning.data.samples import Sample
from qtuning.model.batch import pack
from qtuning.model.head import Head, summed_loss, token_statistics
from qtuning.model.load import adapt_under_autocast
from qtuning.model.packed import PackedModel
from qtuning.plan.shapes import from_config
from qtuning.plan.traffic import HEAD_LOSS, HEAD_SCORES, TRAFFIC, Way

RANK = 8
NOTHING = {"detach", "empty", "empty_like", "empty_strided", "_unsafe_view", "lift_fresh"}
FEW = {"gather", "scatter_add_", "index_select"}  # they touch some numbers of what they are given


class Counter(TorchDispatchMode):
    """Bytes that operations read and write; large matrix products, and what moves nothing, do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name in ("mm", "addmm", "bmm"):
            one, other = [matrix for matrix in read if matrix.ndim >= 2][-2:]
            if min(*one.shape[-2:], other.shape[-1]) > RANK:
                return out
        if not func.is_view and name not in NOTHING | FEW:
            written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        return out


def counted(build: Any, way: Way, layers: int, tokens: int, grad: bool) -> tuple[int, int]:
    """Bytes of forward and backward of the backbone."""
    from peft import LoraConfig, get_peft_model

    model = build("llama", num_hidden_layers=layers, **SIZES).to(getattr(torch, way.dtype))
    if way.tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
    packed_model = PackedModel(model).train()
    mixed = way.mixed == "bf16"
    if mixed:
        adapt_under_autocast(packed_model)
    packed = pack([Sample(0, torch.arange(tokens) % 97, tokens - 1)])
    assert packed is not None
    with torch.autocast("cpu", torch.bfloat16, mixed), torch.set_grad_enabled(grad), Counter() as forward:
        hidden = packed_model.hidden(packed)
    backward = Counter()
    if grad:
        gradient = torch.ones_like(hidden)
        with backward:
            hidden.backward(gradient)
    return forward.bytes, backward.bytes


SIZES = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 16, "head_dim": 16}
SIZES["num_key_value_heads"] = 4


@pytest.mark.parametrize("way", [Way(*key) for key in TRAFFIC], ids=[" ".join(key) for key in TRAFFIC])
def test_traffic_of_a_layer_is_what_its_operations_read_and_write(build: Any, way: Way) -> None:
    shape = from_config(build("llama", num_hidden_layers=1, **SIZES).config.to_dict(), "here")
    ends = {
        (layers, tokens): counted(build, way, layers, tokens, grad=True) for layers in (1, 2) for tokens in (100, 200)
    }
    # what a second layer adds for each of 100 more tokens: neither weights nor embeddings
    forward, backward = (
        ((ends[2, 200][i] - ends[1, 200][i]) - (ends[2, 100][i] - ends[1, 100][i])) / 100 for i in (0, 1)
    )
    assert way.scoring(shape, 1.0, 0.0) == pytest.approx(forward, rel=0.02)
    assert way.training(shape, 1.0, 0.0, 1) == pytest.approx(forward + backward, rel=0.02)
    assert way.training(shape, 1.0, 0.0, 2) == pytest.approx(2 * forward + backward, rel=0.02)
    assert way.training(shape, 1.0, 0.0, 0) == pytest.approx(backward, rel=0.02)


def test_a_forward_without_gradient_moves_the_same(build: Any) -> None:
    way = Way("lora", "bfloat16", "bf16")
    assert counted(build, way, 2, 50, grad=True)[0] == counted(build, way, 2, 50, grad=False)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_traffic_of_the_head(dtype: torch.dtype) -> None:
    """Scores and loss of 256 more positions over 512 more words."""
    found: dict[tuple[str, int, int], int] = {}
    for words in (512, 1024):
        head = Head(torch.randn(words, 64).to(dtype).requires_grad_())
        for count in (256, 512):
            hidden, labels = torch.randn(count, 64).to(dtype).requires_grad_(), torch.arange(count) % 97
            with Counter() as scores:
                token_statistics(hidden, head, labels)
            with Counter() as loss:
                summed_loss(hidden, head, labels, torch.ones(count))
            found |= {("scores", words, count): scores.bytes, ("loss", words, count): loss.bytes}

    def slope(what: str) -> float:
        more = [found[what, words, 512] - found[what, words, 256] for words in (512, 1024)]
        return (more[1] - more[0]) / 256 / 512

    assert slope("scores") == pytest.approx(HEAD_SCORES, rel=0.15)
    assert slope("loss") == pytest.approx(HEAD_LOSS, rel=0.25)


def test_other_models_have_no_adapters_and_a_depth_takes_its_share() -> None:
    from qtuning.plan.shapes import Shape

    shape = Shape(32, 48, 4, 4, 2, 8, 97, True)
    assert Way("lora", "float32", "bf16").without_adapters == Way("full", "float32", "bf16")
    whole = Way("full", "float32").scoring(shape, 10.0, 0.0)
    assert Way("full", "float32").scoring(shape, 10.0, 3.0, 0.5) == whole / 2 + 3 * 97 * HEAD_SCORES
