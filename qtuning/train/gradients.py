"""The gradient of each sample by the LoRA weights, from one backward pass over packed samples; and its projection."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.model.batch import pack
from qtuning.model.flops import Positions
from qtuning.model.packed import PackedModel, evaluating

ROWS = 1024  # of the projection matrix that exist at a time


class SampleGradients:
    """Gradients of single samples by a model's LoRA weights, in the order of `names`.

    A LoRA factor W with inputs x_t and gradients g_t of its outputs has the gradient sum_t g_t x_t^T. Attention of
    packed samples never crosses their borders, so the part of the sum over a sample's positions is the gradient of that
    sample's loss. UserError if the model trains anything but LoRA factors.
    """

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        sizes = {name: model.get_parameter(name).numel() for name in self.names}
        starts = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        self.size: int = starts[-1]
        self._places = dict(zip(sizes, starts[:-1], strict=True))
        self._factors = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in sizes
        }
        self._recomputed = [
            module
            for module in model.modules()
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        ]
        if self._factors.keys() != sizes.keys() or not sizes:
            raise UserError("per-sample gradients: the model must train LoRA factors, and nothing else")

    def of(self, samples: Sequence[Sample], device: torch.device) -> tuple[Tensor, Positions]:
        """([B, d] float32: gradient of each sample's mean token NLL over its response, what went through the model)."""
        # the loss is the sum of the samples' means, so that each sample's gradient is that of its own mean
        packed = pack(samples, weights=[1 / sample.response_length for sample in samples])
        assert packed is not None and len(packed.rows) == len(samples)
        gradients = torch.zeros(len(samples), self.size, device=device)
        hooks = [
            factor.register_forward_hook(self._watch(self._places[name], packed.lengths, gradients))
            for name, factor in self._factors.items()
        ]
        try:
            with evaluating(self.model):
                for layer in self._recomputed:
                    layer.training = True  # or transformers would not recompute; what is inside has no dropout
                self.model(packed.to(device))[0].backward()
        finally:
            for layer in self._recomputed:
                layer.training = self.model.training
            for hook in hooks:
                hook.remove()
            self.model.zero_grad(set_to_none=True)
        return gradients, packed.positions

    def _watch(self, place: int, lengths: Sequence[int], gradients: Tensor) -> Any:
        def watch(factor: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return  # the first of two forwards, under activation checkpointing
            parts = inputs[0].detach()[0].float().split(list(lengths))
            part = slice(place, place + factor.weight.numel())

            def take(gradient: Tensor) -> None:
                for row, (x, g) in enumerate(zip(parts, gradient[0].float().split(list(lengths)), strict=True)):
                    gradients[row, part] = (g.T @ x).flatten()

            output.register_hook(take)

        return watch


def adam_direction(gradients: Tensor, first: Tensor, second: Tensor, step: int) -> Tensor:
    """[B, d]: the step that Adam would take on each gradient alone, up to the learning rate (LESS, section 3.1).

    m' = (b1 m + (1 - b1) g) / (1 - b1^t), v' = (b2 v + (1 - b2) g^2) / (1 - b2^t), direction m' / (sqrt(v') + eps),
    with t = step + 1 and the constants of torch's AdamW. gradients: [B, d]; overwritten. first, second: m and v, [d],
    after `step` updates.
    """
    b1, b2, eps = 0.9, 0.999, 1e-8
    variance = gradients.square().mul_(1 - b2).add_(second * b2).div_(1 - b2 ** (step + 1)).sqrt_().add_(eps)
    return gradients.mul_(1 - b1).add_(first * b1).div_(1 - b1 ** (step + 1)).div_(variance)


def project(gradients: Tensor, dimension: int, seed: int) -> Tensor:
    """[B, D] float32: gradients times a matrix of random signs (Rademacher), which keeps inner products on average.

    gradients: [B, d]. Of the [d, D] matrix only ROWS rows exist at a time. Its bits are a hash of seed and place, the
    same on every device and for every number of samples.
    """
    projected = torch.zeros(len(gradients), dimension, device=gradients.device)
    for start in range(0, gradients.shape[1], ROWS):
        part = gradients[:, start : start + ROWS]
        projected += part @ random_signs(start, part.shape[1], dimension, seed, gradients.device)
    return projected


def random_signs(start: int, rows: int, dimension: int, seed: int, device: torch.device) -> Tensor:
    """[rows, dimension] float32 of -1 and 1: rows `start`... of the matrix of this seed.

    Entry (i, j) is bit j % 64 of the word i W + j // 64, with W = ceil(dimension / 64) words a row. Words are
    splitmix64 (Steele et al. 2014) of seed 2^40 + word.
    """
    words = (dimension + 63) // 64
    z = torch.arange(start * words, (start + rows) * words, device=device, dtype=torch.int64)
    z = (z + (seed << 40)) * _signed(0x9E3779B97F4A7C15) + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shifted(z, 31)
    bits = (z[:, None] >> torch.arange(64, device=device)) & 1
    return bits.reshape(rows, 64 * words)[:, :dimension].float().mul_(2).sub_(1)


def _signed(word: int) -> int:
    """An unsigned 64-bit number as torch's int64, which multiplies alike."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's shift repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
