"""Peak memory of something, in a fresh process: what earlier work left in the allocator would hide it.

Linux: the kernel keeps the largest resident size of a process (VmHWM), and lets it be reset.
"""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

# imported once by the server that the processes are forked from; nothing is computed there
IMPORTS = ["benchmarks.memory", "benchmarks.head", "transformers.models.llama.modeling_llama"]


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """function(...), a function of a module, in a process that has computed nothing before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_above(action: Callable[[], object], device: torch.device) -> int:
    """Bytes: how far the memory rose above what was in use before, while `action` ran."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return int(torch.cuda.max_memory_allocated(device)) - before
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
