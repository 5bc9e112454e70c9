"""A GPU that is not there: tensors on `cuda:0` that have shapes and dtypes and no values, so that a CPU finds mistakes.

torch's FakeTensorMode computes with them. On `cuda:0`, as on a real GPU, an operation with a tensor of the CPU is an
error. Unlike on a real GPU, so is every look at a value (`float`, `bool`, `tolist`, an index by a mask): there it would
silently wait. `to_host`, the one place that may wait, is counted and returns made-up values; so is what is moved there.
Autograd records, but its engine wants a driver: `backward` hands out gradients of the right kind, and the tests of
backward run on torch's `meta` device.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from qtuning.model import kernels, transfer

GPU = torch.device("cuda:0")
GUARDS = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry: one pointer a device type
CUDA, META = 1, 14  # c10::DeviceType


class FakeGpu(TorchFunctionMode):
    """While it is entered, whatever is made on or moved to `cuda:0` is fake. waits: calls of `to_host`, and of events.
    moved: what `Tensor.to` and `torch.tensor` took there. pageable: how much of that would wait, because it was not in
    pinned memory or not asked to go on. attention: what computed it, and in which dtype. products: the function, the
    dtype of the matrices and that of their product, where the head multiplies them (head.py). whole: what `to_host`
    says of whole numbers and of truths."""

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.capability, self.whole = capability, 1
        self.mode = FakeTensorMode()
        self.waits, self.moved, self.pageable = 0, 0, 0
        self.attention: list[tuple[str, torch.dtype]] = []
        self.products: list[tuple[str, torch.dtype, torch.dtype]] = []
        self._pinned: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False):
            assert kwargs.get("device") is None, "only memory of the host can be pinned"
            self._pinned.append(func(*args, **kwargs))
            return self._pinned[-1]
        if func is Tensor.to and GPU in (*args[1:], kwargs.get("device")):
            fake = isinstance(args[0], FakeTensor)
            self.moved += not fake
            pinned = any(args[0] is tensor for tensor in self._pinned)
            self.pageable += not fake and not (pinned and kwargs.get("non_blocking"))
            with self.mode:
                return (args[0] if fake else self.mode.from_tensor(args[0])).to(*args[1:], **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("mm", "addmm", "addmm_", "matmul", "__matmul__"):
            product = func(*args, **kwargs)
            self.products.append((name, args[-1].dtype, product.dtype))
            return product
        if name in ("scaled_dot_product_attention", "_varlen_attn"):
            self.attention.append((name, args[0].dtype))
        if name == "_varlen_attn":
            _check_flash(*args[:7])
        if name == "scaled_dot_product_attention":
            return self._some_attention(*args, **kwargs)
        if kwargs.get("device") == GPU:
            self.moved += func is torch.tensor
            self.pageable += func is torch.tensor
            with self.mode:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _some_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        enable_gqa: bool = False,
        **_: Any,
    ) -> Tensor:
        """As many numbers as attention gives; torch's own is not there for fake tensors in a build without CUDA."""
        assert query.device == key.device == value.device == GPU and query.dtype == key.dtype == value.dtype
        assert not torch.backends.cuda.cudnn_sdp_enabled(), "it would keep a plan for each length"
        flash = self.capability >= (8, 0) and query.dtype in (torch.bfloat16, torch.float16) and attn_mask is None
        alone = query.shape[2] == 1  # such a token has no L^2 weights
        assert flash or alone or not enable_gqa, "it would keep all L^2 weights"
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = (grouped.repeat_interleave(groups, dim=1) for grouped in (key, value))
        assert query.shape[:2] == key.shape[:2] and key.shape == value.shape
        weights = query @ key.transpose(-1, -2)
        if attn_mask is not None:
            assert attn_mask.device == GPU and not is_causal and attn_mask.dtype in (torch.bool, query.dtype)
            assert torch.broadcast_shapes(attn_mask.shape, weights.shape) == weights.shape
        return weights @ value

    def to_host(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Made-up values in place of what `transfer.to_host` would bring."""
        assert all(isinstance(tensor, FakeTensor) for tensor in tensors), "these have never been on the GPU"
        buffer = transfer.joined(tensors)
        assert buffer.device == GPU
        self.waits += 1
        rng = torch.Generator().manual_seed(self.waits)
        return [
            torch.rand(tensor.shape, generator=rng).to(tensor.dtype) + 0.5
            if tensor.is_floating_point()
            else torch.full(tensor.shape, self.whole, dtype=tensor.dtype)
            for tensor in tensors
        ]

    def move(self, model: nn.Module) -> nn.Module:
        """The model with its weights and buffers on the GPU; tied weights stay tied."""
        moved: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and id(weight) not in moved:
                    moved[id(weight)] = nn.Parameter(weight.detach().to(GPU), requires_grad=weight.requires_grad)
                module._parameters[name] = None if weight is None else moved[id(weight)]
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(GPU)
        return model


def _check_flash(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, ends: Tensor, longest: int, *_: Any
) -> None:
    """What flash_api.cpp (mha_varlen_fwd) demands, which the fake kernel does not check."""
    assert query.dtype == key.dtype == value.dtype and query.dtype in (torch.bfloat16, torch.float16)
    assert starts.dtype == ends.dtype == torch.int32 and starts.is_contiguous()
    assert all(tensor.device == GPU and tensor.stride(-1) == 1 for tensor in (query, key, value, starts, ends))
    assert query.shape[0] == key.shape[0] == value.shape[0] and query.shape[1] % key.shape[1] == 0
    assert query.shape[2] % 8 == 0 and 0 < longest <= query.shape[0]


class FakeAccelerator:
    """What TrainingLoop asks of accelerate, with one process on the GPU."""

    num_processes, process_index, is_main_process = 1, 0, True
    device = GPU

    def __init__(self, mixed: bool) -> None:
        self._mixed = mixed

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self._mixed else nullcontext()

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare(self, model: nn.Module) -> nn.Module:
        """As accelerate: every forward is under autocast."""
        if self._mixed:
            model.forward = torch.autocast("cuda", torch.bfloat16)(model.forward)  # type: ignore[method-assign]
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def backward(self, loss: Tensor) -> None:
        assert loss.device == GPU and loss.shape == () and loss.dtype == torch.float32 and loss.grad_fn is not None
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)


class FakeEvent:
    """torch.cuda.Event."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def record(self, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        self._gpu.waits += 1

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1500.0


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[FakeGpu]:
    """Enter a GPU of this compute capability. Skips where torch cannot be made to record gradients without a driver."""
    gpu = FakeGpu(capability)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    # transformers looks at no value of a fake tensor, which would hide that it looks on a real GPU
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: False)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: FakeEvent(gpu))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    users = ("qtuning.scoring.scores", "qtuning.train.step", "qtuning.train.reuse")
    for user in (*users, "qtuning.evaluation.answers", "qtuning.evaluation.generation"):
        monkeypatch.setattr(f"{user}.to_host", gpu.to_host)
    kernels.attention_kernel.cache_clear()
    with _guard(), gpu:
        yield gpu
    kernels.attention_kernel.cache_clear()


@contextmanager
def _guard() -> Iterator[None]:
    """Let autograd record on `cuda`: a build of torch without CUDA gets the guard of `meta` for it, which does nothing.

    (A build with CUDA and no GPU gets one from FakeTensorMode itself.)
    """
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    try:
        guards = (ctypes.c_void_p * 20).in_dll(ctypes.CDLL(str(library)), GUARDS)
    except (OSError, ValueError):
        pytest.skip("this build of torch keeps its device guards elsewhere")
    before = guards[CUDA]
    guards[CUDA] = before or guards[META]
    try:
        yield
    finally:
        guards[CUDA] = before
