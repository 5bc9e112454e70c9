"""The machine: processors, memory, torch, GPUs."""

import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import qtuning
from qtuning.doctor.finding import Finding
from qtuning.errors import UserError
from qtuning.gpus.device import GIB, Device, Machine, Memory
from qtuning.gpus.find import look
from qtuning.gpus.lease import PATIENCE, current_memory, is_leased, needed_share
from qtuning.gpus.torch_sees import Torch, ask_torch, find_cause, lacks_code
from qtuning.model.kernels import attention_kernel

SHARED = GIB  # bytes of /dev/shm that several processes need to exchange data (NCCL)


def look_at_machine() -> list[Finding]:
    """What computes here."""
    torch = ask_torch()
    kind = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "CPUs"
    return [
        Finding("ok", f"qtuning {qtuning.__version__}, Python {platform.python_version()}, {platform.platform()}"),
        Finding("ok", f"torch {torch.version}, built for {kind}"),
        Finding("ok", f"{_processors()} CPU cores for us, {_memory()}"),
        *look_at_gpus(torch),
        *look_at_kernels("cuda" if torch.seen else "cpu"),
    ]


def look_at_kernels(kind: str) -> Iterator[Finding]:
    """How attention over packed samples is computed on devices of that kind, by dtype."""
    import torch

    for dtype in (torch.bfloat16, torch.float32):
        kernel = attention_kernel(torch.device(kind), dtype)
        name = str(dtype).removeprefix("torch.")
        yield Finding("ok", f"attention on {kind} in {name}: kernel {kernel.name} ({kernel.why})")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    """Memory of the machine, or of the container that we are in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")  # "max" where there is none
    allowed = limit.read_text().strip() if limit.exists() else "max"
    text = f"{(min(total, int(allowed)) if allowed.isdecimal() else total) / GIB:.1f} GiB of memory"
    found = re.search(r"MemAvailable: *(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return text if found is None else f"{text}, {int(found[1]) * 1024 / GIB:.1f} GiB free on the machine"


def look_at_gpus(
    torch: Torch,
    find: Callable[[], Machine] = look,
    memory: Callable[[Device], Memory | None] = current_memory,
    shared: Path = Path("/dev/shm"),
) -> Iterator[Finding]:
    """The GPUs that a job would find here, and what it would stumble over."""
    try:
        machine, share = find(), needed_share()
    except UserError as error:
        yield Finding("problem", str(error), "name GPUs that there are, or unset the variable")
        return
    if machine.driver is not None:
        cuda = "" if machine.cuda is None else f", CUDA up to {machine.cuda[0]}.{machine.cuda[1]}"
        yield Finding("ok", f"NVIDIA driver {machine.driver}{cuda}")
    if not machine.devices:
        yield Finding("note", "no GPU that we may use: everything runs on the CPU")
    devices = machine.devices
    if devices and not torch.seen:
        cause = find_cause(devices, machine, torch)
        yield Finding("problem", f"torch sees none of the {len(devices)} GPU(s), so every job would stop: {cause}")
    else:
        yield from (Finding("note", note) for note in machine.notes)
    for device in devices:
        yield _device(device, torch, share, memory)
    if len(devices) > 1 and shared.is_dir() and (size := _size(shared)) < SHARED:
        yield Finding(
            "problem",
            f"{shared} holds {size / GIB:.2f} GiB: trainings on several GPUs need {SHARED / GIB:.0f}",
            "start the container with --ipc=host or --shm-size=16g",
        )


def _size(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_frsize * found.f_blocks


def _device(device: Device, torch: Torch, share: float, memory: Callable[[Device], Memory | None]) -> Finding:
    now, leased = memory(device), is_leased(device)
    facts = [device.name] * (device.name not in device.title.split())
    facts += [] if device.capability is None else [f"compute capability {device.capability[0]}.{device.capability[1]}"]
    facts += ["memory not told" if now is None else str(now)] + ["held by a job of ours"] * leased
    text = f"{device.title}: {', '.join(facts)}"
    if (problem := lacks_code(device, torch)) is not None:
        return Finding("problem", problem)
    if now is not None and not leased and now.free < share * now.total:
        wait = f"jobs wait for {share:.0%} of its memory, and stop after {PATIENCE / 60:.0f} minutes"
        return Finding("problem", f"{text}: {wait}", "end what holds it, or see QTUNING_GPU_FREE in docs/gpus.md")
    return Finding("ok", text)
