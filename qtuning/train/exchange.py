"""What the processes of one cell tell each other from the host: over gloo, so that no GPU waits for it.

NCCL carries gradients and sharded weights alone. A collective of NCCL that waits minutes has lost a process, and NCCL
ends it; the host may wait long for another host, as for the one that writes a checkpoint. Without other processes all
functions return what they were given.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import TypeVar

from torch import Tensor, distributed

DEVICE_WAIT = timedelta(minutes=15)
"""How long a GPU may wait for another one, in a collective of NCCL. (accelerate would not hand on its default, 10.)"""
HOST_WAIT = timedelta(hours=1)
"""How long a process may wait for another one on the host, which may write a checkpoint or read a model."""
LOCK_WAIT = timedelta(days=7)
"""How long the other processes wait for the first one to get the cell's lock."""

T = TypeVar("T")


@cache
def host_group(wait: timedelta = HOST_WAIT) -> "distributed.ProcessGroup | None":
    """The gloo group of all processes; None if there is one process only. All processes must ask in the same order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.new_group(backend="gloo", timeout=wait)


def wait_for_everyone(wait: timedelta = HOST_WAIT) -> None:
    """Return when every process has come here."""
    if (group := host_group(wait)) is not None:
        distributed.barrier(group)


def gather_objects(own: Sequence[T]) -> list[T]:
    """The objects of all processes, in the order of the processes; the same list everywhere. They are pickled."""
    if (group := host_group()) is None:
        return list(own)
    parts: list[Sequence[T]] = [()] * distributed.get_world_size(group)
    distributed.all_gather_object(parts, list(own), group=group)
    return [item for part in parts for item in part]


def sum_over_processes(own: Tensor) -> Tensor:
    """The sum of a tensor over all processes. It comes back on the CPU if there are several."""
    if (group := host_group()) is None:
        return own
    total = own.detach().to("cpu", copy=True)
    distributed.all_reduce(total, group=group)
    return total
