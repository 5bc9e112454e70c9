"""Statistics and summed loss of the head, against float64 and against autograd."""

import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from fake_gpu import GPU, fake_gpu
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtuning.errors import UserError
from qtuning.model.head import Head, summed_loss, token_statistics

SHAPES = [(52, 507, 123), (1, 97, 32), (257, 33, 5), (300, 2, 1)]  # positions, vocabulary, hidden: nothing round


def random_case(
    shape: tuple[int, int, int], seed: int = 0, bias: bool = True, spread: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """hidden, weight, bias, labels; float32. spread: standard deviation of the logits."""
    positions, vocabulary, width = shape
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(positions, width, generator=rng) * spread / math.sqrt(width)
    weight = torch.randn(vocabulary, width, generator=rng)
    offset = torch.randn(vocabulary, generator=rng) if bias else None
    return hidden, weight, offset, torch.randint(vocabulary, (positions,), generator=rng)


def reference_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> np.ndarray:
    z = hidden.double().numpy() @ weight.double().numpy().T
    if bias is not None:
        z = z + bias.double().numpy()
    z = z * scale
    return z if softcap is None else softcap * np.tanh(z / softcap)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (True, 1.7, 8.0)])
def test_statistics_are_as_good_as_naive_float32(
    shape: tuple[int, int, int], spread: float, bias: bool, scale: float, softcap: float | None
) -> None:
    hidden, weight, offset, labels = random_case(shape, bias=bias, spread=spread)
    logits = reference_logits(hidden, weight, offset, scale, softcap)
    truth = oracles.token_nll(logits, labels.tolist()), oracles.token_entropy(logits)

    z = hidden @ weight.T + (0.0 if offset is None else offset)
    z = z * scale if softcap is None else softcap * torch.tanh(z * scale / softcap)
    log_p = z.log_softmax(dim=-1)
    naive = -log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(dim=-1)

    ours = token_statistics(hidden, Head(weight, offset, scale, softcap), labels, chunk=37)
    for mine, plain, exact in zip(ours, naive, truth, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == labels.shape
        error, naive_error = (np.abs(x.double().numpy() - exact).max() for x in (mine, plain))
        assert error <= naive_error + 2e-7 * max(1.0, np.abs(exact).max())
        assert error <= 1e-5 * max(1.0, spread)


@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (True, 1.7, 8.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_is_right_and_the_default_agrees(
    bias: bool, scale: float, softcap: float | None, dtype: torch.dtype
) -> None:
    """In float32 whatever the dtype of the model: bfloat16 logits would be off by a hundredth of themselves."""
    hidden, weight, offset, labels = random_case(SHAPES[0], bias=bias, spread=4.0)
    hidden, weight, offset = hidden.to(dtype), weight.to(dtype), None if offset is None else offset.to(dtype)
    exact = reference_logits(hidden.float(), weight.float(), offset, scale, softcap)
    truth = oracles.token_nll(exact, labels.tolist()), oracles.token_entropy(exact)
    head = Head(weight, offset, scale, softcap)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = token_statistics(hidden, head, labels, impl="reference")
    for mine, default, right in zip(found, token_statistics(hidden, head, labels), truth, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == labels.shape
        assert np.abs(mine.double().numpy() - right).max() <= 2e-5
        if dtype == torch.float32:
            torch.testing.assert_close(mine, default, rtol=0, atol=1e-5)


def test_liger_is_refused_in_one_line_where_it_cannot_run() -> None:
    hidden, weight, _, labels = random_case(SHAPES[0])
    with pytest.raises(UserError, match=r"scoring\.impl = 'liger': needs a GPU, and the model is on cpu") as error:
        token_statistics(hidden, Head(weight), labels, impl="liger")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chunk", [1, 7, 51, 52, 53, 1000])
def test_statistics_do_not_depend_on_the_chunk(chunk: int) -> None:
    hidden, weight, bias, labels = random_case(SHAPES[0], spread=3.0)
    head = Head(weight, bias)
    rounding = 4 * torch.finfo(torch.float32).eps * float(head.logits(hidden).abs().max())
    for mine, whole in zip(
        token_statistics(hidden, head, labels, chunk), token_statistics(hidden, head, labels, 10**6), strict=True
    ):
        torch.testing.assert_close(mine, whole, rtol=0, atol=rounding)


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0, 1e3, 1e6])
def test_statistics_stay_in_their_bounds(spread: float) -> None:
    hidden, weight, _, labels = random_case((200, 97, 16), bias=False, spread=spread)
    nll, entropy = token_statistics(hidden, Head(weight), labels)
    assert bool((nll >= 0).all()) and bool(torch.isfinite(nll).all())
    assert bool((entropy >= 0).all()) and bool((entropy <= math.log(97)).all())
    if spread == 0.0:
        torch.testing.assert_close(nll, torch.full_like(nll, math.log(97)))
        torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(97)))


def test_uniform_logits_far_from_zero_give_log_vocabulary() -> None:
    bias = torch.full((11,), 1e4)
    nll, entropy = token_statistics(torch.ones(3, 2), Head(torch.zeros(11, 2), bias), torch.tensor([0, 5, 10]))
    torch.testing.assert_close(nll, torch.full((3,), math.log(11)))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(11)))


def test_forbidden_words_have_no_part_in_the_entropy() -> None:
    """A vocabulary padded with logits of -inf scores as one without the padding."""
    hidden, weight, bias, _ = random_case((20, 40, 8))
    assert bias is not None
    labels = torch.randint(30, (20,))
    masked = bias.clone()
    masked[30:] = -math.inf
    for mine, small in zip(
        token_statistics(hidden, Head(weight, masked), labels),
        token_statistics(hidden, Head(weight[:30], bias[:30]), labels),
        strict=True,
    ):
        torch.testing.assert_close(mine, small)


def test_bfloat16_statistics_follow_the_rounding_of_the_logits() -> None:
    """bfloat16 keeps 8 bits of each logit; nothing else may be lost."""
    hidden, weight, _, labels = random_case((64, 507, 32), bias=False, spread=4.0)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    logits = reference_logits(hidden.float(), weight.float(), None, 1.0, None)
    nll, entropy = token_statistics(hidden, Head(weight), labels)
    step = np.abs(logits).max() * 2.0**-8
    assert nll.dtype == entropy.dtype == torch.float32
    assert np.abs(nll.double().numpy() - oracles.token_nll(logits, labels.tolist())).max() <= 2 * step
    assert np.abs(entropy.double().numpy() - oracles.token_entropy(logits)).max() <= 4 * step


def autograd_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    factors: Tensor,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients (hidden, weight, bias) by autograd through float64 log-softmax."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    z = leaves[0] @ leaves[1].T
    if bias is not None:
        z = z + leaves[2]
    z = z * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    loss = -(z.log_softmax(dim=-1).gather(1, labels[:, None])[:, 0] * factors.double()).sum()
    return loss, list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 50, 256])
@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (True, 1.7, 4.0)])
def test_summed_loss_and_gradients(
    shape: tuple[int, int, int], chunk: int, bias: bool, scale: float, softcap: float | None
) -> None:
    hidden, weight, offset, labels = random_case(shape, seed=1, bias=bias, spread=2.0)
    factors = torch.rand(len(labels), generator=torch.Generator().manual_seed(2)) * 3
    truth, gradients = autograd_loss(hidden, weight, offset, labels, factors, scale, softcap)

    leaves = [t.requires_grad_() for t in (hidden, weight, offset) if t is not None]
    loss, _ = summed_loss(hidden, Head(weight, offset, scale, softcap), labels, factors, chunk)
    assert loss.dtype == torch.float32 and loss.shape == ()
    (0.37 * loss).backward()
    torch.testing.assert_close(loss.double(), truth, rtol=2e-6, atol=1e-6)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None
        difference = leaf.grad.double() - 0.37 * gradient
        assert float(difference.norm()) <= 3e-6 * float(gradient.norm()) + 1e-9
        assert float(difference.abs().max()) <= 5e-6 * float(gradient.abs().max()) + 1e-9


def test_token_losses_come_with_the_summed_loss() -> None:
    """As good as a plain float32 log-softmax, whatever the factors; and no gradient flows through them."""
    hidden, weight, bias, labels = random_case(SHAPES[0], seed=3, spread=5.0)
    truth = oracles.token_nll(reference_logits(hidden, weight, bias, 1.0, None), labels.tolist())
    naive = -(hidden @ weight.T + bias).log_softmax(dim=-1).gather(1, labels[:, None])[:, 0]
    factors = torch.rand(len(labels)) * 3
    head = Head(weight.requires_grad_(), bias)
    loss, nll = summed_loss(hidden.requires_grad_(), head, labels, factors, chunk=37)
    assert nll.dtype == torch.float32 and nll.shape == labels.shape and loss.requires_grad and not nll.requires_grad
    error, naive_error = (np.abs(x.detach().double().numpy() - truth).max() for x in (nll, naive))
    assert error <= naive_error + 2e-7 * truth.max()
    total = torch.zeros(())
    for part, weights in zip(nll.split(37), factors.split(37), strict=True):
        total += (part * weights).sum()
    assert torch.equal(loss.detach(), total)


def test_frozen_parts_get_no_gradient() -> None:
    hidden, weight, bias, labels = random_case((30, 20, 6))
    factors = torch.ones(30)
    summed_loss(hidden.requires_grad_(), Head(weight, bias), labels, factors)[0].backward()
    assert weight.grad is None and bias is not None and bias.grad is None
    alone = hidden.grad
    hidden.grad = None
    summed_loss(hidden, Head(weight.requires_grad_(), bias.requires_grad_()), labels, factors)[0].backward()
    assert alone is not None and hidden.grad is not None and torch.equal(alone, hidden.grad)
    frozen_hidden = hidden.detach()
    weight.grad = None
    summed_loss(frozen_hidden, Head(weight, bias), labels, factors)[0].backward()
    assert frozen_hidden.grad is None and weight.grad is not None


def test_weight_zero_means_exactly_no_gradient() -> None:
    hidden, weight, _, labels = random_case((40, 30, 8), bias=False, spread=5.0)
    factors = (torch.arange(40) % 3 == 0).float()
    summed_loss(hidden.requires_grad_(), Head(weight.requires_grad_()), labels, factors, chunk=16)[0].backward()
    assert hidden.grad is not None and weight.grad is not None
    assert bool((hidden.grad[factors == 0] == 0).all()) and bool((hidden.grad[factors == 1] != 0).any(dim=1).all())

    kept = factors == 1
    only = hidden.detach()[kept].requires_grad_()
    lone = weight.detach().clone().requires_grad_()
    summed_loss(only, Head(lone), labels[kept], torch.ones(int(kept.sum())))[0].backward()
    torch.testing.assert_close(weight.grad, lone.grad, rtol=0, atol=2e-6)


def test_bfloat16_gradients() -> None:
    """Gradients keep the dtype of what they belong to, and the precision of its bits."""
    hidden, weight, _, labels = random_case((48, 60, 16), bias=False, spread=2.0)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    factors = torch.full((48,), 1.0)
    _, gradients = autograd_loss(hidden.float(), weight.float(), None, labels, factors, 1.0, None)
    summed_loss(hidden.requires_grad_(), Head(weight.requires_grad_()), labels, factors, chunk=10)[0].backward()
    for leaf, gradient in zip((hidden, weight), gradients, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16
        assert float((leaf.grad.double() - gradient).norm()) <= 0.02 * float(gradient.norm())


class Casts(TorchDispatchMode):
    """Counts conversions of tensors of one shape, also those that autocast makes."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default and args[0].shape in (self.shape, self.shape[::-1])
        return func(*args, **(kwargs or {}))


def test_autocast_casts_the_weight_once_a_call() -> None:
    """And scores as with bfloat16 weights; the gradients are as good as bfloat16 products are."""
    hidden, weight, _, labels = random_case((48, 60, 16), bias=False, spread=2.0)
    half = token_statistics(hidden, Head(weight.bfloat16()), labels, chunk=10)
    with torch.autocast("cpu", torch.bfloat16), Casts(weight.shape) as casts:
        found = token_statistics(hidden, Head(weight), labels, chunk=10)
    assert casts.count == 1 and all(mine.equal(other) for mine, other in zip(found, half, strict=True))

    factors = torch.ones(48)
    _, gradients = autograd_loss(hidden, weight, None, labels, factors, 1.0, None)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), Casts(weight.shape) as casts:
        loss, _ = summed_loss(hidden, Head(weight), labels, factors, chunk=10)
    assert casts.count == 1
    loss.backward()
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32
        assert float((leaf.grad.double() - gradient).norm()) <= 0.02 * float(gradient.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_keeps_the_float32_sums_of_bfloat16_products(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Under autocast, float32 weights (full fine-tuning) and bfloat16 ones (LoRA): no product is rounded, none is made
    of float32 matrices, and the gradient of the weight needs no second matrix of its size."""
    hidden, weight, _, labels = random_case((48, 60, 16), bias=False)
    with fake_gpu(monkeypatch) as gpu, torch.autocast("cuda", torch.bfloat16):
        rows, matrix = hidden.to(dtype).to(GPU).requires_grad_(), nn.Parameter(weight.to(dtype).to(GPU))
        places, factors = labels.to(GPU), torch.ones(48).to(GPU)
        nll, _ = token_statistics(rows, Head(matrix), places, chunk=16)
        assert nll.dtype == torch.float32
        assert gpu.products == [("mm", torch.bfloat16, torch.float32)] * 3
        gpu.products.clear()
        loss, _ = summed_loss(rows, Head(matrix), places, factors, chunk=16)
        assert loss.dtype == torch.float32 and loss.device == GPU
    kinds = [("mm", torch.bfloat16, torch.float32)] * 2 + [("addmm", torch.bfloat16, torch.float32)]
    assert gpu.products == kinds * 3
