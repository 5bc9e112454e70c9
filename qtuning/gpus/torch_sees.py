"""Whether torch sees the GPUs that a job holds, and if not, why: a job must never train on the CPU without a word."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qtuning.errors import UserError, one_line
from qtuning.gpus.device import Device, Machine

DRIVERS = {13: 580, 12: 525, 11: 450}  # first driver of each CUDA; within one, any later build of torch runs
ADVICE = "to run on the CPU on purpose, set CUDA_VISIBLE_DEVICES to nothing"


@dataclass(frozen=True)
class Torch:
    """What torch is, and what it sees. cuda, hip: versions that it is built for. complaint: its own word, or ''."""

    version: str
    cuda: str | None
    hip: str | None
    seen: int
    complaint: str = ""
    architectures: tuple[str, ...] = ()


def ask_torch() -> Torch:
    """Ask the torch of this process. It counts GPUs once: to be called when the variable has its final value."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            seen, complaint = torch.cuda.device_count() if torch.cuda.is_available() else 0, ""
        except RuntimeError as error:
            seen, complaint = 0, one_line(error)
    if caught:
        complaint = one_line(Warning("; ".join(dict.fromkeys(str(each.message) for each in caught))))
    architectures = tuple(torch.cuda.get_arch_list()) if seen else ()
    return Torch(str(torch.__version__), torch.version.cuda, torch.version.hip, seen, complaint, architectures)


def check_seen(leased: Sequence[Device], machine: Machine, torch: Torch, root: Path = Path("/")) -> None:
    """UserError with the likely cause if torch does not see just the leased GPUs, or has no code for them."""
    titles = ", ".join(device.title for device in leased)
    if torch.seen != len(leased):
        cause = find_cause(leased, machine, torch, root)
        raise UserError(f"{titles}: leased, but torch {torch.version} sees {torch.seen} GPU(s): {cause}; {ADVICE}")
    for device in leased:
        if (problem := lacks_code(device, torch)) is not None:
            raise UserError(f"{problem}; {ADVICE}")


def find_cause(devices: Sequence[Device], machine: Machine, torch: Torch, root: Path = Path("/")) -> str:
    """The likeliest reason why torch does not see these GPUs, and what helps."""
    amd = machine.source == "rocm"
    built = torch.cuda or torch.hip
    newest = int(torch.cuda.partition(".")[0]) if torch.cuda else 0
    if machine.source == "number" and machine.notes:
        return machine.notes[0]
    if built is None:
        return f"it is built for CPUs; install the build for {'ROCm' if amd else 'CUDA'} (docs/gpus.md)"
    if amd != (torch.hip is not None):
        kind, other = ("AMD", "CUDA") if amd else ("NVIDIA", "ROCm")
        return f"the GPUs are of {kind}, and it is built for {other} (docs/gpus.md)"
    if machine.cuda is not None and machine.cuda[0] < newest:
        return (
            f"driver {machine.driver} supports CUDA {machine.cuda[0]}.{machine.cuda[1]}, and it is built for CUDA "
            f"{torch.cuda}, which needs driver {DRIVERS.get(newest, 'of that CUDA')} or newer; update the driver, or "
            f"install the build of torch for CUDA {machine.cuda[0]} (docs/gpus.md)"
        )
    if any(device.prohibited for device in devices):
        return "their compute mode is Prohibited; an administrator types `nvidia-smi -c DEFAULT`"
    if len(devices) > 1 and any(device.is_instance for device in devices):
        return "CUDA shows a process one MIG instance at most"
    if machine.source == "nvml" and not any((root / path).exists() for path in ("dev/nvidia-uvm", "dev/dxg")):
        return "/dev/nvidia-uvm is missing; type `nvidia-modprobe -u -c 0`, or start the container with its device"
    return torch.complaint or "`python -c 'import torch; torch.cuda.init()'` says more"


def lacks_code(device: Device, torch: Torch) -> str | None:
    """What to say if this build of torch has no code for the device. Code for x.y runs on x.z with z at least y."""
    if device.capability is None or not torch.architectures or torch.hip:
        return None
    major, minor = device.capability
    known = []
    for name in torch.architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")  # code for exactly this chip or family
        if not digits.isdecimal():
            continue
        known.append((int(digits[:-1]), int(digits[-1])))
        portable = kind == "compute" and known[-1] <= (major, minor)
        if portable or (known[-1][0] == major and known[-1][1] <= minor):
            return None
    span = f"{min(known)[0]}.{min(known)[1]} to {max(known)[0]}.{max(known)[1]}" if known else "no GPU"
    return (
        f"{device.title} has compute capability {major}.{minor}, and torch {torch.version} has code for {span}; "
        "install a build of torch that has it (docs/gpus.md)"
    )


def smallest_gpu() -> tuple[str, int, tuple[int, int]] | None:
    """(name, bytes of memory, compute capability) of the smallest GPU that torch sees; None without any."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    least = min(properties, key=lambda each: each.total_memory)
    return least.name, least.total_memory, (least.major, least.minor)
