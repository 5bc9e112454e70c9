"""Which kernels this device gets, and whether what they compute is what a CPU computes."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks.gpu_setting import Setting, build
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import ragged
from qtuning.data.samples import Sample
from qtuning.model.batch import pack
from qtuning.model.kernels import attention_kernel
from qtuning.model.packed import PackedModel
from qtuning.plan.shapes import Shape
from qtuning.train.reuse import observe_with_graphs

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SMALL = Shape(256, 512, 4, 4, 2, 64, 1024, True)
# nats, and shares of the norm of the gradient; bfloat16 rounds to 3 digits
TOLERANCES = {"float32": (1e-3, 1e-3), "bfloat16 autocast": (0.1, 0.05)}


def kernels(setting: Setting) -> list[Table]:
    """The choice of qtuning, and that of torch for one segment, which counts where qtuning leaves it to torch."""
    rows: list[dict[str, Value]] = []
    for dtype in DTYPES:
        for head_size in (64, 128, 256):
            kernel = attention_kernel(setting.device, dtype, head_size)
            name = f"{str(dtype).removeprefix('torch.')}, heads of {head_size}"
            row = {
                "attention": name,
                "kernel": kernel.name,
                "why": kernel.why,
                "torch alone": _torchs(setting, dtype, head_size),
            }
            rows.append(dict(row))
    return [
        Table("Attention kernels", rows, ("torch alone: what scaled_dot_product_attention takes for grouped keys.",))
    ]


def _torchs(setting: Setting, dtype: torch.dtype, head_size: int) -> str:
    q, k = (torch.randn(1, heads, 128, head_size, device=setting.device, dtype=dtype) for heads in (8, 2))
    try:
        # torch settles its order of preference in the first call
        torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
        chosen = int(torch._fused_sdp_choice(q, k, k, is_causal=True, enable_gqa=True))
    except RuntimeError as error:
        return f"none ({str(error).splitlines()[0]})"
    return str(next((name for name, member in SDPBackend.__members__.items() if member == SDPBackend(chosen)), chosen))


def exactness(setting: Setting) -> list[Table]:
    """Scores, loss and gradient of a small model: packed on the device against packed on the CPU in float32."""
    samples = ragged(8, SMALL.vocabulary, min(1.0, 8 * setting.sizes.stretch))
    cpu = torch.device("cpu")
    exact = _outcome(PackedModel(build(SMALL, cpu, torch.float32)), samples, cpu, None)
    rows: list[dict[str, Value]] = []
    for name, precision in (("float32", None), ("bfloat16 autocast", torch.bfloat16)):
        # the same weights: those that the CPU made
        model = PackedModel(build(SMALL, cpu, torch.float32)).to(setting.device)
        nats, share = TOLERANCES[name]
        for path, reused in (("two passes", False), ("reused graphs", True)):
            found = _outcome(model, samples, setting.device, precision, reused)
            nll, entropy, loss, gradient = zip(found, exact, strict=True)
            rows.append(
                {
                    "path": f"{name}, {path}",
                    "NLL, largest difference": Checked(_largest(*nll), nats),
                    "entropy": Checked(_largest(*entropy), nats),
                    "mean loss": Checked(_largest(*loss), nats),
                    "gradient, norm of difference / norm": Checked(
                        float((gradient[0] - gradient[1]).norm() / gradient[1].norm()), share
                    ),
                }
            )
    note = (
        f"LLaMA, {SMALL.layers} layers, hidden {SMALL.hidden}, {SMALL.heads}/{SMALL.kv_heads} heads; 8 ragged samples."
    )
    return [Table("Exactness against the CPU in float32", rows, (note, "Nats; the gradient of all weights."))]


def _outcome(
    model: PackedModel,
    samples: Sequence[Sample],
    device: torch.device,
    precision: torch.dtype | None,
    reused: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NLL, entropy, mean loss and gradient, on the CPU in float64."""
    packed = pack(samples)
    assert packed is not None
    model.zero_grad(set_to_none=True)
    with nullcontext() if precision is None else torch.autocast(device.type, precision):
        if reused:
            observed, graphs = observe_with_graphs(model, samples, {"scores"}, device)
            assert observed.scores is not None
            nll, entropy = observed.scores.nll, observed.scores.entropy
            loss, _ = graphs.loss(model, packed.to(device))
        else:
            nll, entropy = model.score(packed.to(device))
            loss, _ = model(packed.to(device))
    (loss / packed.targets).backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    found = nll, entropy, loss.detach() / packed.targets, torch.cat(gradients)
    nll, entropy, mean, gradient = (value.double().cpu() for value in found)
    return nll, entropy, mean, gradient


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
