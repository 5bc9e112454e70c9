"""Which kernel attention takes, and that all of them compute the same."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtuning.model import attention, kernels
from qtuning.model.attention import packed_attention
from qtuning.model.kernels import Kernel, attention_kernel

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
SEGMENTS = (7, 1, 12, 3)
HALF = torch.bfloat16
CHIPS = {"T4": (7, 5), "A100": (8, 0), "4090": (8, 9), "H100": (9, 0), "B200": (10, 0), "5090": (12, 0)}


@pytest.mark.parametrize(
    ("chip", "dtype", "head", "more", "why"),
    [
        ("A100", HALF, 128, {}, None),
        ("4090", HALF, 64, {}, None),
        ("H100", torch.float16, 256, {}, None),
        ("B200", HALF, 128, {}, None),
        ("5090", HALF, 8, {}, None),
        ("H100", HALF, 200, {}, None),
        ("4090", HALF, 200, {}, "heads of 200"),
        ("H100", HALF, 264, {}, "heads of 264"),
        ("H100", HALF, 20, {}, "heads of 20"),
        ("H100", torch.float32, 128, {}, "no float32"),
        ("T4", HALF, 128, {}, "compute capability 7.5"),
        ("H100", HALF, 128, {"capped": True}, "no soft cap"),
        ("H100", HALF, 128, {"dropout": True}, "no dropout"),
    ],
)
def test_flash_attention_where_it_can(
    monkeypatch: pytest.MonkeyPatch, chip: str, dtype: torch.dtype, head: int, more: dict[str, bool], why: str | None
) -> None:
    """The limits of flash_api.cpp, chip by chip."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CHIPS[chip])
    attention_kernel.cache_clear()
    found = attention_kernel(GPU, dtype, head, **more)
    attention_kernel.cache_clear()
    assert found.name == ("varlen" if why is None else "segments") and (why or "one call a layer") in found.why


def test_a_cpu_and_amd_go_by_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attention_kernel(CPU, HALF).name == attention_kernel(torch.device("mps"), HALF).name == "segments"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    attention_kernel.cache_clear()
    assert attention_kernel(GPU, HALF) == Kernel("segments", "on ROCm it was never tried")
    attention_kernel.cache_clear()


def documented_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    ends: Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn as it is documented, token by token, with flash attention's windows: a
    query sees window_size[0] tokens before itself (-1: all) and window_size[1] after."""
    assert torch.equal(starts, ends) and longest == longest_key == max(SEGMENTS) and window_size[1] == 0
    total, heads, size = query.shape
    groups = heads // key.shape[1]
    assert enable_gqa == (groups > 1)
    out = torch.zeros_like(query)
    for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        for head in range(heads):
            for t in range(start, end):
                first = start if window_size[0] < 0 else max(start, t - window_size[0])
                seen = key[first : t + 1, head // groups]
                scores = seen @ query[t, head] * (size**-0.5 if scale is None else scale)
                out[t, head] = scores.softmax(dim=0) @ value[first : t + 1, head // groups]
    assert starts[-1] == total
    return out


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_varlen_is_called_for_what_the_segments_compute(
    monkeypatch: pytest.MonkeyPatch, window: int | None, kv_heads: int, scaling: float | None
) -> None:
    """The call against its documentation, where there is no GPU to make it: layout, starts, windows, grouped keys."""
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, sum(SEGMENTS), 8, generator=rng)
    key, value = (torch.randn(1, kv_heads, sum(SEGMENTS), 8, generator=rng) for _ in range(2))
    starts = torch.tensor([0, 7, 8, 20, 23], dtype=torch.int32)
    arguments: Any = (nn.Module().eval(), query, key, value, None)
    options: Any = {"segments": SEGMENTS, "starts": starts, "scaling": scaling, "sliding_window": window}
    expected, _ = packed_attention(*arguments, **options)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", documented_varlen)
    monkeypatch.setattr(attention, "attention_kernel", lambda *_, **__: Kernel("varlen", ""))
    found, _ = packed_attention(*arguments, **options)
    assert found.shape == expected.shape == (1, sum(SEGMENTS), 4, 8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_expanded_keys_give_what_grouped_ones_give(window: int | None) -> None:
    rng = torch.Generator().manual_seed(1)
    query = torch.randn(1, 6, 23, 8, generator=rng)
    key, value = (torch.randn(1, 2, 23, 8, generator=rng) for _ in range(2))
    grouped = attention._by_segment(query, key, value, SEGMENTS, None, 0.0, window, None)
    keys, values = attention._expanded(key, 6), attention._expanded(value, 6)
    assert torch.equal(keys[0, 3], key[0, 1]), "heads 3 to 5 look at the second key"
    expanded = attention._by_segment(query, keys, values, SEGMENTS, None, 0.0, window, None)
    torch.testing.assert_close(expanded, grouped, rtol=1e-5, atol=1e-6)
    assert attention._expanded(query, 6) is query


def test_cudnn_is_off_on_a_gpu_and_back_afterwards() -> None:
    """Its plans are kept for ever, one for each new length."""
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with attention._without_cudnn(GPU):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with attention._without_cudnn(CPU):
        assert torch.backends.cuda.cudnn_sdp_enabled(), "nothing changes on a CPU"


def test_backward_writes_no_row_of_zeros_for_each_segment() -> None:
    """The gradient of a slice is as long as the row: with S segments, S rows are written and added up."""

    class Written(TorchDispatchMode):
        names: set[str] = set()  # noqa: RUF012
        numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            self.names.add(str(func))
            if isinstance(result, Tensor) and result._base is None:
                self.numbers += result.numel()
            return result

    def written(count: int) -> int:
        query, key, value = (torch.randn(1, 2, 4 * count, 8, requires_grad=True) for _ in range(3))
        found, _ = packed_attention(nn.Module(), query, key, value, None, segments=(4,) * count)
        loss = found.sum()
        with Written() as seen:
            loss.backward()
        assert not any("slice_backward" in name for name in seen.names)
        return seen.numbers

    assert written(40) / written(10) < 4.5, "linear, where slices make it quadratic: 16"


def test_backward_stays_on_its_device(build: Any) -> None:
    """On torch's `meta` device, which has an autograd engine (fake_gpu.py has none)."""
    import oracles

    from qtuning.model.batch import pack
    from qtuning.model.packed import PackedModel

    model = PackedModel(build("llama", num_hidden_layers=1)).to("meta").train()
    packed = pack(oracles.random_samples([(3, 4), (2, 5)], seed=0))
    assert packed is not None
    loss, nll = model(packed.to(torch.device("meta")))
    loss.backward()
    assert nll.shape == (9,) and math.prod(loss.shape) == 1
    assert all(parameter.grad.device.type == "meta" for parameter in model.parameters())


def test_capabilities_come_from_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, device.index))
    assert kernels.capability_of(torch.device("cuda:6")) == (8, 6)
