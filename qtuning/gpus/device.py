"""What is known of one GPU, whoever made it."""

from dataclasses import dataclass

GIB = 2**30
AMPERE = (8, 0)  # compute capability from which torch has flash attention, and attention in bfloat16 is fused


@dataclass(frozen=True)
class Device:
    """A whole GPU, or an instance of one that MIG divides.

    name: what the variable of `Machine` says to point a process at it: a UUID, or a number where no library tells
    UUIDs. key: the name of its lock. title: for people. number: that of `nvidia-smi`. card: UUID of the whole card that
    a MIG instance is part of. total: bytes of memory, if anything tells. prohibited: the administrator forbids
    computing. node: number of AMD's render node.
    """

    name: str
    key: str
    title: str
    number: int | None = None
    card: str | None = None
    total: int | None = None
    capability: tuple[int, int] | None = None
    prohibited: bool = False
    node: int | None = None

    @property
    def is_instance(self) -> bool:
        """Whether MIG made it. CUDA shows a process one of these at most."""
        return self.card is not None


@dataclass(frozen=True)
class Process:
    """A process that holds memory of a GPU. name, used (bytes): None where the driver does not tell."""

    number: int
    name: str | None
    used: int | None

    def __str__(self) -> str:
        name = "" if self.name is None else f" ({self.name})"
        return f"process {self.number}{name}" + ("" if self.used is None else f" holds {self.used / GIB:.1f} GiB")


@dataclass(frozen=True)
class Memory:
    """The memory of a GPU at this moment, in bytes, and who holds it."""

    total: int
    free: int
    processes: tuple[Process, ...] = ()

    def __str__(self) -> str:
        held = "".join(f"; {process}" for process in self.processes)
        return f"{self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free{held}"


@dataclass(frozen=True)
class Machine:
    """The GPUs that this process may use.

    variable: the environment variable that points a process at some of them. source: who told of them (`nvml`, `rocm`;
    `number`: nobody, they are counted or the user's own; `none`). driver: its version, cuda: the newest CUDA that it
    supports. notes: what a user should know of how they were found.
    """

    devices: tuple[Device, ...] = ()
    variable: str = "CUDA_VISIBLE_DEVICES"
    source: str = "none"
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
