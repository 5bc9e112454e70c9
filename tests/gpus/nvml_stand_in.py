"""A machine with NVIDIA GPUs for `qtuning.gpus.nvml`: the functions that it calls, over the library's own types.

Everything else (error classes, constants, structures) is the real library's. What no stand-in can show: that a driver
answers like this. The answers follow NVIDIA's NVML reference and the sources of nvidia-ml-py.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import pynvml


@dataclass
class Card:
    """A card or, in `instances`, what MIG makes of it. processes: {number: bytes, or None where nobody tells}."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int | None = 80 * 2**30
    free: int = 79 * 2**30
    processes: dict[int, int | None] | None = field(default_factory=dict)
    capability: tuple[int, int] = (9, 0)
    mode: int = pynvml.NVML_COMPUTEMODE_DEFAULT
    instances: dict[int, "Card"] | None = None  # None: the card has no MIG, or it is off
    lost: bool = False


class NvmlStandIn:
    """Put in the place of the module `pynvml`."""

    def __init__(self, *cards: Card, driver: str = "580.65.06", cuda: int = 13000, init: int = 0) -> None:
        self.cards, self.driver, self.cuda, self.init = cards, driver, cuda, init
        self.names: dict[int, str] = {}  # of processes
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(pynvml, name)
        assert not name.startswith("nvml"), f"{name}: a function without a stand-in"
        return value

    def nvmlInit(self) -> None:
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        card = self._card(index)
        if card.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return card

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        everything = [*self.cards, *(each for card in self.cards for each in (card.instances or {}).values())]
        for card in everything:
            if card.uuid == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetComputeMode(self, card: Card) -> int:
        return card.mode

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        if card.instances is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        assert card.instances is not None
        if index not in card.instances:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.instances[index]

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> pynvml.c_nvmlMemory_t:
        if card.total is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        number = ctypes.c_ulonglong
        return pynvml.c_nvmlMemory_t(number(card.total), number(card.free), number(card.total - card.free))

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:
        if card.processes is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        found = []
        for number, used in card.processes.items():
            struct = pynvml.c_nvmlProcessInfo_t()
            struct.pid, struct.usedGpuMemory = number, used or 0
            each = pynvml.nvmlStructToFriendlyObject(struct)
            each.usedGpuMemory = used
            found.append(each)
        return found

    def nvmlSystemGetProcessName(self, number: int) -> str:
        if number not in self.names:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.names[number]

    def _card(self, index: int) -> Card:
        if index >= len(self.cards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.cards[index]
