"""NVIDIA's GPUs by NVML, the library of the driver: whole cards and MIG instances, by UUID.

It shows what the driver lets this process open, so it is right in containers and under Slurm, where the numbers of
/dev/nvidia* and those that CUDA counts differ.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qtuning.gpus.device import Device, Machine, Memory, Process


class NoNvml(Exception):
    """NVML cannot be used; the message says why, and what helps."""


@contextmanager
def opened() -> Iterator[Any]:
    """The module `pynvml`, initialised. NoNvml where the library or the driver is missing, or they do not fit."""
    import pynvml  # 0.1 s, and only machines with an NVIDIA GPU need it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoNvml(_reason(pynvml, error)) from None
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _reason(nvml: Any, error: Exception) -> str:
    reasons = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "its library (libnvidia-ml.so.1) is not here; a container gets it with "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is not loaded; `nvidia-smi` says more",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated while its kernel module runs on; reboot",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidiactl",
    }
    return reasons.get(error.value, str(error))  # type: ignore[attr-defined]


def find_devices() -> Machine:
    """All GPUs that the driver shows this process. NoNvml where it cannot be asked."""
    devices, notes = list[Device](), list[str]()
    with opened() as nvml:
        version = nvml.nvmlSystemGetCudaDriverVersion_v2()
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found = _devices_of(nvml, index)
            except nvml.NVMLError as error:
                notes.append(f"GPU {index} cannot be used: {error}")
                continue
            if not found:
                notes.append(f"GPU {index} is in MIG mode without an instance that we may use, so CUDA cannot use it")
            devices += found
        driver = nvml.nvmlSystemGetDriverVersion()
    cuda = (version // 1000, version % 1000 // 10)
    return Machine(tuple(devices), "CUDA_VISIBLE_DEVICES", "nvml", driver, cuda, tuple(notes))


def _devices_of(nvml: Any, index: int) -> list[Device]:
    """The card of that number, or its instances if MIG divides it."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, capability = nvml.nvmlDeviceGetUUID(card), nvml.nvmlDeviceGetCudaComputeCapability(card)
    prohibited = _ask(nvml, nvml.nvmlDeviceGetComputeMode, card) == nvml.NVML_COMPUTEMODE_PROHIBITED

    def device(handle: Any, name: str, number: str, of: str | None) -> Device:
        title = f"GPU {number} ({nvml.nvmlDeviceGetName(handle)})"
        memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)  # chips that share the processor's do not tell
        total = None if memory is None else memory.total
        return Device(name, name, title, index, of, total, capability, prohibited)

    modes = _ask(nvml, nvml.nvmlDeviceGetMigMode, card)
    if modes is None or modes[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [device(card, uuid, str(index), None)]
    instances = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument, nvml.NVMLError_NoPermission):
            continue  # there is none of this number, or it is another container's
        instances.append(device(instance, nvml.nvmlDeviceGetUUID(instance), f"{index}:{number}", uuid))
    return instances


def _ask(nvml: Any, question: Callable[[Any], Any], handle: Any) -> Any:
    """The answer, or None where this GPU or this driver has none."""
    try:
        return question(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return None


def memory_of(uuid: str) -> Memory | None:
    """Memory of a GPU or MIG instance now, and the processes that hold some. None where the driver does not tell."""
    with opened() as nvml:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError:
            return None
        return Memory(memory.total, memory.free, _processes(nvml, handle))


def _processes(nvml: Any, handle: Any) -> tuple[Process, ...]:
    running = _ask(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()  # WSL2 does not tell
    return tuple(Process(each.pid, _name(nvml, each.pid), each.usedGpuMemory) for each in running)


def _name(nvml: Any, number: int) -> str | None:
    try:
        name = nvml.nvmlSystemGetProcessName(number)
    except nvml.NVMLError:  # of another container or another user
        return None
    return str(name).rpartition("/")[2]
