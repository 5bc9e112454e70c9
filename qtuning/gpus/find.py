"""Which GPUs this process may use: those that the driver shows it, or the user's choice of them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qtuning.errors import UserError
from qtuning.gpus import nvml, rocm
from qtuning.gpus.device import Device, Machine

CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
NOTHING = ("", "-1", "NoDevFiles", "none", "void")  # Slurm's and the container toolkit's words for no GPU
WINDOWS = "dev/dxg"  # the one device file of WSL2


def visible() -> list[str]:
    """Names of the GPUs that this process may use."""
    return [device.name for device in look().devices]


def look(root: Path = Path("/")) -> Machine:
    """The GPUs that this process may use. root: of the file system. UserError for a choice of GPUs that are not there.

    NVIDIA's are known by UUID, or by number where NVML is missing; AMD's by number.
    """
    if any((root / path).exists() for path in ("dev/nvidiactl", "proc/driver/nvidia", WINDOWS)):
        try:
            machine = nvml.find_devices()
        except nvml.NoNvml as error:
            return _counted(root, str(error))
        return replace(machine, devices=tuple(_chosen(machine.devices)))
    if (root / "dev/kfd").exists():
        return _of_rocm(root)
    names = _entries(CUDA)
    if not names:
        return Machine()
    # the user's word; a job that torch does not confirm it to is refused (torch_sees.py)
    note = f"{CUDA} = {os.environ[CUDA]!r} names GPUs, but nothing here shows one: no driver of NVIDIA, AMD or WSL2"
    return Machine(_numbered(names), source="number", notes=(note,))


def _entries(variable: str) -> list[str] | None:
    """What the variable names, up to the first word for nothing, where CUDA stops reading, too. None: it is not set."""
    value = os.environ.get(variable)
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    end = next((place for place, entry in enumerate(entries) if entry in NOTHING), len(entries))
    return entries[:end]


def chose_none() -> bool:
    """Whether the user has said that no GPU shall be used."""
    return any(_entries(variable) == [] for variable in (CUDA, HIP, ROCR))


def _numbered(names: Sequence[str]) -> tuple[Device, ...]:
    return tuple(Device(name, f"number-{name}", f"GPU {name}") for name in names)


def _counted(root: Path, reason: str) -> Machine:
    """NVIDIA's GPUs by number, as CUDA counts them: from 0, whatever the numbers of the device files."""
    count = len(list((root / "dev").glob("nvidia[0-9]*"))) or int((root / WINDOWS).exists())
    entries = _entries(CUDA)
    names = [str(number) for number in range(count)] if entries is None else entries
    note = f"NVML cannot be used: {reason}. GPUs go by number, and their free memory is not looked at"
    return Machine(_numbered(names), source="number", notes=(note,))


def _chosen(devices: Sequence[Device]) -> list[Device]:
    """Those that CUDA_VISIBLE_DEVICES names, by a number of `nvidia-smi` or by (the beginning of) a UUID."""
    entries = _entries(CUDA)
    if entries is None:
        return list(devices)
    chosen: list[Device] = []
    for entry in entries:
        found = [device for device in devices if _is_named(device, entry)]
        if not found:
            there = ", ".join(f"{device.title} {device.name}" for device in devices) or "none"
            raise UserError(f"{CUDA} = {os.environ[CUDA]!r}: there is no GPU {entry!r} for us here; there are: {there}")
        chosen += [device for device in found if device not in chosen]
    return chosen


def _is_named(device: Device, entry: str) -> bool:
    """Whether `entry` names a GPU or, of a card that MIG divides, all its instances."""
    if entry.isdecimal():
        return device.number == int(entry)
    return device.name.startswith(entry) or (device.card or "").startswith(entry)


def _of_rocm(root: Path) -> Machine:
    """AMD's GPUs. ROCR_VISIBLE_DEVICES comes first, and numbers of HIP_VISIBLE_DEVICES count what it left over."""
    devices = rocm.find_devices(root)
    below, above = _entries(ROCR), _entries(HIP) if HIP in os.environ else _entries(CUDA)
    if below is not None:
        devices = _picked(devices, below, ROCR)
        if above is not None:  # whose numbers count what is left, from 0
            devices = [replace(device, name=str(place)) for place, device in enumerate(devices)]
    if above is not None:
        devices = _picked(devices, above, HIP if HIP in os.environ else CUDA)
    variable = ROCR if below is not None and above is None else HIP
    note = "AMD GPUs go by number; nothing of this was ever tried on one"
    return Machine(tuple(devices), variable, "rocm", notes=(note,))


def _picked(devices: Sequence[Device], entries: Sequence[str], variable: str) -> list[Device]:
    for entry in entries:
        if not entry.isdecimal() or int(entry) >= len(devices):
            there = ", ".join(str(number) for number in range(len(devices))) or "none"
            raise UserError(f"{variable} = {os.environ[variable]!r}: there is no AMD GPU {entry!r}; by number: {there}")
    return [devices[int(entry)] for entry in dict.fromkeys(entries)]
