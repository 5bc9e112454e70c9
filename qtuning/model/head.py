"""The language-model head, applied to a few positions at a time: statistics and loss without logits of all positions.

Logits are the largest tensors of a language model: [positions, vocabulary]. Here only those of CHUNK positions exist at
a time, and they are overwritten in place. Statistics are float32 whatever the dtype of the model.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qtuning.errors import UserError
from qtuning.experiment.cell import Scorer
from qtuning.model.flops import CHUNK


@dataclass(frozen=True)
class Head:
    """logits = cap(scale * (h W^T + b)); cap(z) = softcap * tanh(z / softcap), or the identity.

    weight: [V, H]. bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def under_autocast(self) -> "Head":
        """The same head; under autocast with a copy of the weight in its dtype, which autocast makes for each chunk."""
        device = self.weight.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return self
        return replace(self, weight=self.weight.to(torch.get_autocast_dtype(device)))

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V] float32, which the caller may overwrite. On an NVIDIA GPU without a gradient."""
        z = _product(hidden.to(self.weight.dtype), self.weight.T)
        if self.bias is not None:
            z += self.bias.float()
        if self.scale != 1.0:
            z *= self.scale
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z


def _product(a: Tensor, b: Tensor, total: Tensor | None = None) -> Tensor:
    """a @ b in float32; added to `total` if it is given, in place. a, b: matrices of one dtype.

    A product of bfloat16 matrices is summed in float32 everywhere. An NVIDIA GPU keeps the sums here; elsewhere torch
    rounds them to bfloat16.
    """
    kept = a.device.type == "cuda" and torch.version.hip is None and a.dtype in (torch.bfloat16, torch.float16)
    if total is None:
        return torch.mm(a, b, out_dtype=torch.float32) if kept else (a @ b).float()
    if kept:  # no second matrix of the size of the weight, as `total += product` would need
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    if a.dtype == torch.float32:
        return total.addmm_(a, b)
    total += a @ b
    return total


def head_of(model: PreTrainedModel) -> Head:
    """The head of a transformers causal language model, with the scalings of its family."""
    layer = model.get_output_embeddings()
    assert layer is not None, "a causal language model has a head"
    config = model.config.get_text_config()
    scale = 1.0
    if getattr(config, "logit_scale", None) is not None:  # Cohere multiplies
        scale = float(config.logit_scale)
    if getattr(config, "logits_scaling", None) is not None:  # Granite divides
        scale = 1.0 / float(config.logits_scaling)
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def token_statistics(
    hidden: Tensor, head: Head, labels: Tensor, chunk: int = CHUNK, impl: Scorer = "chunked"
) -> tuple[Tensor, Tensor]:
    """Token NLL and entropy (method.md, Scores), in nats.

    hidden: [M, H] of the predicting positions; labels: [M]. Returns (l, H), each [M] float32, from the logits z:
    l = lse(z) - z_y and H = lse(z) - sum_v p_v z_v.

    impl: `chunked` takes both from one softmax of `chunk` positions at a time. `reference` follows their definitions
    with the float32 logits of all positions at once, which takes many times the memory. `liger` calls Liger-Kernel
    (fused on Hopper GPUs in bfloat16; this code was written without a GPU and has not run it). UserError if Liger
    cannot be used.
    """
    if impl == "reference":
        return _reference(hidden, head, labels)
    if impl == "liger":
        return _liger(hidden, head, labels)
    head = head.under_autocast()
    nll = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
    entropy = torch.empty_like(nll)
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        z = head.logits(hidden[part])
        z -= z.max(dim=-1, keepdim=True).values  # neither statistic changes, and exp cannot overflow
        target = z.gather(1, labels[part, None]).squeeze(1)
        p = z.exp()  # not yet divided by its sum: dividing [M] results costs less than dividing [M, V]
        total = p.sum(dim=-1)
        # a logit of -inf (a masked word) has p = 0, but 0 * -inf is NaN; the lowest finite number gives 0
        mean = p.mul_(z.clamp_(min=torch.finfo(z.dtype).min)).sum(dim=-1) / total
        lse = total.log()
        nll[part], entropy[part] = _bounded(lse - target, lse - mean, z.shape[1])
    return nll, entropy


def _bounded(nll: Tensor, entropy: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Exactly, both are >= 0 and H <= ln V; rounding may leave -1e-7."""
    return nll.clamp_(min=0.0), entropy.clamp_(min=0.0, max=math.log(vocabulary))


def _reference(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        log_p = Head(head.weight.float(), bias, head.scale, head.softcap).logits(hidden.float()).log_softmax(dim=-1)
    nll = -log_p.gather(1, labels[:, None]).squeeze(1)
    return _bounded(nll, torch.special.entr(log_p.exp()).sum(dim=-1), log_p.shape[1])


def _liger(hidden: Tensor, head: Head, labels: Tensor) -> tuple[Tensor, Tensor]:
    if hidden.device.type != "cuda":
        raise UserError(f"scoring.impl = 'liger': needs a GPU, and the model is on {hidden.device}; write chunked")
    if head.bias is not None or head.softcap is not None:
        raise UserError("scoring.impl = 'liger': knows no bias and no soft cap, which this head has; write chunked")
    try:
        from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as Fused
    except ImportError:
        raise UserError(
            "scoring.impl = 'liger': pip install 'liger-kernel>=0.8.5', or write chunked (both score alike)"
        ) from None
    rows = hidden.to(head.weight.dtype)
    # arguments 5 and 6 are the ignored label and a tile size that no longer matters; the last asks for the entropy
    nll, entropy = Fused.apply(rows, head.weight.detach(), labels, 1.0 / head.scale, -100, 1, True)
    return _bounded(nll.float(), entropy.float(), len(head.weight))


class _SummedLoss(torch.autograd.Function):
    """sum_m w_m l_m and the l_m. The forward pass also makes the gradients, chunk by chunk.

    Autograd would keep the logits of all positions for the backward pass. But the loss is a sum, and its gradient is
    known up to one factor while the logits of a chunk exist: dz = (softmax(z) - onehot(y)) w. The backward pass only
    multiplies by the factor that comes down.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        factors: Tensor,
        scale: float,
        softcap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        head = Head(weight, bias, scale, softcap).under_autocast()
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # float32 sums: in bfloat16 the part of a late chunk could vanish in the sum of those before it
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need_bias else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            rows = hidden[part].to(head.weight.dtype)
            z = head.logits(rows)
            # d cap(u) / du = 1 - tanh(u / softcap)^2, needed before z is overwritten
            slope = None if softcap is None else 1.0 - (z / softcap).square()
            target = labels[part, None]
            lse = z.logsumexp(dim=-1, keepdim=True)
            nll = (lse - z.gather(1, target)).squeeze(1)
            losses[part] = nll
            loss += (nll * factors[part]).sum()
            # from here on z becomes dz, in the same buffer
            z.sub_(lse).exp_()
            z.scatter_add_(1, target, torch.full_like(lse, -1.0))
            z *= factors[part, None] * scale
            if slope is not None:
                z *= slope
            dz = z.to(head.weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = _product(dz, head.weight)
            if grad_weight is not None:
                _product(dz.T, rows, grad_weight)
            if grad_bias is not None:
                grad_bias += z.sum(dim=0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)  # type: ignore[arg-type]
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(losses)
        return loss, losses

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors  # type: ignore[attr-defined]
        weight_dtype, bias_dtype = ctx.dtypes  # type: ignore[attr-defined]
        if grad_hidden is not None:
            # float32, because 1 / tokens rounded to bfloat16 would be off by up to 0.4% in every gradient
            grad_hidden = (grad_hidden.float() * grad).to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(weight_dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.mul_(grad).to(bias_dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def summed_loss(
    hidden: Tensor, head: Head, labels: Tensor, factors: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """sum_m w_m l_m, and the l_m themselves. The caller divides the sum once, by the global number of kept tokens.

    hidden: [M, H]; labels: [M]; factors: w, [M] float32. Returns a float32 scalar and the token NLL, [M] float32,
    without a gradient. The loss is differentiable in hidden and in the head's weight and bias; a frozen head costs no
    weight gradient.
    """
    return _SummedLoss.apply(  # type: ignore[no-any-return, no-untyped-call]
        hidden, head.weight, head.bias, labels, factors, head.scale, head.softcap, chunk
    )
