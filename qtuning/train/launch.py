"""How many processes train a cell, on which machines, and how they share the model: `torch.distributed.run`.

Nothing of this is part of a cell: an update has the same samples however many processes share it.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.decide import Recompute

Parallel = Literal["auto", "ddp", "fsdp"]
WHOLE = 2_000_000_000
"""Parameters above which full fine-tuning is sharded: 32 GB at 16 bytes each (weight, gradient, Adam's two moments)."""

TOO_LARGE = "out-of-memory.json"
"""In the resume state of a cell that ran out of memory: the next start recomputes activations."""

GRACE = 600  # seconds between SIGTERM and SIGKILL, in which the processes write a checkpoint


@dataclass(frozen=True)
class Launch:
    """processes: on all machines together. nodes: machines. parallel: see `shards`. recompute: activations, in the
    backward pass; auto: where memory is short (experiment/decide.py). UserError for what cannot be."""

    processes: int = 1
    nodes: int = 1
    parallel: Parallel = "auto"
    recompute: Recompute = "auto"

    def __post_init__(self) -> None:
        for name in ("processes", "nodes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name} = {value!r}: must be a whole number above 0")
        if self.processes % self.nodes:
            raise UserError(f"processes = {self.processes}: nodes = {self.nodes} must divide it (one process a GPU)")
        for name, known in (("parallel", get_args(Parallel)), ("recompute", get_args(Recompute))):
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(known)}")
        if self.parallel == "fsdp" and self.processes == 1:
            raise UserError("parallel = 'fsdp': shares a model among processes, and processes = 1; ask for more")

    @property
    def here(self) -> int:
        """Processes on each machine."""
        return self.processes // self.nodes

    def shards(self, cell: Cell) -> bool:
        """Whether each process holds a slice of the cell's model (fsdp), and not all of it (ddp).

        auto: if it is fully fine-tuned and has more than WHOLE parameters. Never for a LoRA that is kept after each
        epoch, which writes its adapter whole (epochs.py). UserError for fsdp with what bitsandbytes or torch.compile
        does to a model.
        """
        assert cell.training is not None
        training = cell.training
        keys = {"optimizer": training.optimizer != "adamw", "quantization": training.quantization != "none"}
        apart = [key for key, asked in (keys | {"compile": training.compile}).items() if asked]
        if apart and self.parallel == "fsdp":
            raise UserError(
                f"parallel = 'fsdp': not with training.{apart[0]} = {getattr(training, apart[0])!r}; choose ddp"
            )
        if self.processes == 1:
            return False
        large = training.tuning == "full" and (cell.model.parameters or 0) > WHOLE
        wanted = large if self.parallel == "auto" else self.parallel == "fsdp"
        return wanted and not apart and not training.each_epoch

    def options(self) -> str:
        """The options of `qtuning train` that say so, on one machine."""
        recompute = "" if self.recompute == "auto" else f" --recompute {self.recompute}"
        return f"--processes {self.processes} --parallel {self.parallel}{recompute}"

    def command(self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
        """The command that starts this machine's processes; UserError if nothing says which machine this is."""
        options = ["--nproc-per-node", str(self.here), "--shutdown-timeout", str(GRACE)]
        options += rendezvous(self.nodes, environment)
        return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "qtuning.train", *arguments]


def rendezvous(nodes: int, environment: Mapping[str, str]) -> list[str]:
    """Options of torch.distributed.run by which the machines find each other, from what the scheduler has set.

    NODE_RANK, MASTER_ADDR and MASTER_PORT count if they are set; else what Slurm's srun sets. UserError if neither is.
    """
    if nodes == 1:
        return ["--standalone"]  # on a free port, so that two cells may train side by side
    rank = environment.get("NODE_RANK", environment.get("SLURM_NODEID"))
    listed = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    address = environment.get("MASTER_ADDR", first_host(listed))
    job = environment.get("SLURM_JOB_ID", "")
    port = environment.get("MASTER_PORT", str(20000 + int(job) % 10000) if job.isdecimal() else "29500")
    if rank is None or not rank.isdecimal() or int(rank) >= nodes or not address:
        raise UserError(
            f"nodes = {nodes}: NODE_RANK = {rank}, MASTER_ADDR = {address or None}: must say which of 0 to {nodes - 1} "
            f"this machine is and where the first is; `srun --nodes {nodes} --ntasks-per-node 1 qtuning train` does"
        )
    started = environment.get("SLURM_STEP_NUM_NODES", str(nodes)) if "NODE_RANK" not in environment else str(nodes)
    if started != str(nodes):
        raise UserError(f"nodes = {nodes}: srun started this on {started}; give srun --nodes {nodes} as well")
    return ["--nnodes", str(nodes), "--node-rank", rank, "--master-addr", address, "--master-port", port]


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[003-006,010],login1` begins with `gpu003`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group())
