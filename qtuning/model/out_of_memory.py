"""Too little memory, told in one line: in which phase, for how much, and what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

from qtuning.errors import UserError, one_line

WORDS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says in a plain RuntimeError: its allocator for the CPU, and cuBLAS."""


class OutOfMemory(UserError):
    """A device or the machine had too little memory for a batch, or for the model.

    remedy: a clause on what helps. phase: see `telling`; "" if it is not known.
    """

    def __init__(self, what: str, remedy: str, phase: str = "") -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy, self.phase = what, remedy, phase

    def __reduce__(self) -> tuple[type["OutOfMemory"], tuple[str, str, str]]:
        """Processes of one training send it to each other."""
        return type(self), (self.what, self.remedy, self.phase)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, numpy or Python says so."""
    import torch  # whoever asks has it already, but for a process that only marks answers

    if isinstance(error, OutOfMemory | torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


@contextmanager
def telling(phase: str, what: str, remedy: str) -> Iterator[None]:
    """Raise OutOfMemory instead of what torch raises in here.

    phase: loading, scoring, training, evaluation. what: samples and tokens. remedy: the key to change, as a clause.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory in {phase}: {what} ({one_line(error)})", remedy, phase) from None
