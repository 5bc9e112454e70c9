"""FSDP2: weights, gradients and Adam's moments in slices, one a process, where one GPU cannot hold them all.

A layer's weights are gathered when it runs and let go afterwards. So every forward and backward is a collective of all
processes, and all must make the same number of them: who has fewer batches makes idle ones (candidates.py, step.py).
Training through the graphs of scoring (reuse.py) cannot keep count, because every process keeps other samples. There
the weights are gathered once an update and stay whole until their gradients are summed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from qtuning.model.packed import PackedModel

FORWARDS = ("embed", "attend", "own_nll", "hidden_by_segment")
"""Methods of PackedModel that run the backbone and are not called by its `forward`."""


def shard(model: PackedModel, device: torch.device) -> None:
    """Cut the parameters of `model` into slices, one for each process, on `device`.

    The first process has the weights, on the CPU. The others have the same modules on the device `meta` and get their
    slices from it, so that the host holds the model once and no GPU ever holds all of it.
    """
    first, causal_lm = distributed.get_rank() == 0, model.causal_lm
    weights = model.state_dict() if first else {}
    buffers = dict(model.named_buffers())  # also those that are no part of the state, as the angles of RoPE
    model.to("meta")
    causal_lm.tie_weights()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in model.decoder_layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=options)
    for name, buffer in model.named_buffers():
        if first:
            buffer.copy_(buffers[name])
        distributed.broadcast(buffer, 0)
    for method in FORWARDS:
        register_fsdp_forward_method(model, method)
    model.stops = False  # an exception in the middle of a forward would leave the layers gathered


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has cut it."""
    return isinstance(model, FSDPModule)


def rest(model: nn.Module) -> None:
    """Let go of gathered weights: `parameters()` are this process's slices again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def keep_whole(model: nn.Module) -> None:
    """From now on weights stay whole for all forwards and backwards of an update: from `gather` to `reduce`."""
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_forward(False)
    model.set_reshard_after_backward(False)
    model.set_requires_gradient_sync(False)


def gather(model: nn.Module) -> None:
    """Gather all weights now."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()


@contextmanager
def reduce(model: nn.Module) -> Iterator[None]:
    """The backward in here sums the gradients of this and all earlier ones over the processes, and lets weights go."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(True)
    model.set_reshard_after_backward(True)
    try:
        yield
    finally:
        keep_whole(model)


def slice_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The slice of `tensor` that this process holds if it is sharded as `parameter` is; all of it if that is not.

    A slice stays as it is.
    """
    if isinstance(tensor, DTensor):
        return tensor
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:  # Adam's count of steps is a number
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that the processes may hold together, on each of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module, trained: bool) -> dict[str, Any]:
    """The whole weights, on the CPU of the first process; nothing on the others. All processes must ask together.

    trained: only parameters that are trained. Tied weights have one name.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained)
    names = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {name: weight for name, weight in get_model_state_dict(model, options=options).items() if name in names}
