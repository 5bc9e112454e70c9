"""Random numbers without state: every draw has a generator of its own, made from a seed and the place of the draw.

So a checkpoint needs no state of a generator, processes draw the same numbers, and one axis (data order, pruner,
initialisation) never disturbs another.
"""

import hashlib

import torch
from torch import Tensor


def derived_seed(seed: int, *place: str | int) -> int:
    """A 63-bit seed for `place` (axis, epoch, update, ...), independent between places."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *place: str | int) -> torch.Generator:
    """A CPU generator for `place`."""
    return torch.Generator().manual_seed(derived_seed(seed, *place))


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """[count] int64: the order of the whole train set in an epoch; the same for every pruner (paired comparison)."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the default generators of the CPU and of `device`, from which dropout draws.

    `torch.manual_seed` seeds every kind of device, and for each that is absent it notes where it was called from, for
    later: a millisecond that would come before every update.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
