"""Speed and memory of machines: published peaks, and the share of them that we assume a job reaches (docs/plan.md).

Peaks are of dense matrix products with float32 accumulation, from NVIDIA's data sheets of the H100 SXM5 and the A100
SXM4 and from the Ada GPU architecture white paper (RTX 4090). float32 runs on the ordinary cores, since PyTorch leaves
TF32 off. Of 80 GB of HBM PyTorch can give 79 GiB, of the 4090's 24 GB 23.5.

The shares of the peak are assumptions, not measurements. Pre-training of LLaMA 3 reached 38 to 43% of the bfloat16
peak on H100s (arXiv 2407.21783, section 3.3). We assume less for one GPU in eager mode with a few thousand tokens a
step, and a larger share of the lower float32 peak. The time to launch a layer is taken from the speed of eager
generation at batch 1.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from qtuning.errors import UserError
from qtuning.experiment.yaml_files import nearest
from qtuning.gpus.device import AMPERE
from qtuning.plan.shapes import BYTES, Attention, Shape

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """One GPU, or one CPU thread.

    memory: bytes; margin: share of it that stays unused (fragmentation), and reserve: bytes that the runtime takes.
    bandwidth: bytes a second. peak: FLOP/s by dtype; reached: share of it. layer_seconds: to launch the forward of one
    layer, however small; adapter_factor: how much more that is with LoRA. update_seconds: selection, bookkeeping and
    journal of an update. start_seconds: until a process has imported what it needs and loaded a small model;
    vllm_start_seconds: until an engine has loaded a model of 7B, measured its memory and captured its CUDA graphs.
    capability: of a GPU.
    """

    name: str
    label: str
    device: str
    memory: float
    bandwidth: float
    peak: Mapping[str, float]
    reached: Mapping[str, float]
    layer_seconds: float
    update_seconds: float
    start_seconds: float
    vllm_start_seconds: float = 90.0
    adapter_factor: float = 1.8
    margin: float = 0.05
    reserve: float = 1.0 * GIB
    capability: tuple[int, int] = AMPERE

    @property
    def usable(self) -> float:
        """Bytes that a job may take."""
        return self.memory * (1 - self.margin) - self.reserve

    def attention(self, dtype: str) -> Attention:
        """What attention saves for the backward pass where it computes in `dtype` (model/kernels.py)."""
        if self.device != "cuda":
            return "fused"
        if dtype == "float32":
            return "expanded"
        return "fused" if self.capability >= AMPERE else "math"

    def rate(self, dtype: str) -> float:
        """FLOP/s that are reached."""
        return self.peak[dtype] * self.reached[dtype]

    def seconds(
        self,
        flops: float,
        passes: float,
        shape: Shape,
        dtype: str,
        *,
        adapters: bool = False,
        factor: float = 1.0,
        ahead: bool = False,
    ) -> float:
        """Time of `passes` passes through a model that take `flops` in all.

        Arithmetic, or reading the weights where there is little of it (roofline), and launching the layers. factor: of
        reading and launching, for a pass that goes forward and back. ahead: the program launches ahead of a GPU, so
        that the longer of the two counts; not where it waits for each token.
        """
        reading = passes * factor * shape.parameters * BYTES[dtype] / self.bandwidth
        launching = passes * factor * shape.layers * self.layer_seconds * (self.adapter_factor if adapters else 1.0)
        computing = max(flops / self.rate(dtype), reading)
        return max(computing, launching) if ahead and self.device == "cuda" else computing + launching


_gpu = partial(
    Machine, reached={"bfloat16": 0.35, "float32": 0.6}, layer_seconds=0.6e-3, update_seconds=0.01, start_seconds=25.0,
    device="cuda",
)  # fmt: skip
MACHINES = {
    "h100": _gpu("h100", "NVIDIA H100 SXM, 80 GB", memory=79 * GIB, bandwidth=3.35e12,
                 peak={"bfloat16": 989e12, "float32": 67e12}),
    "a100": _gpu("a100", "NVIDIA A100 SXM, 80 GB", memory=79 * GIB, bandwidth=2.04e12,
                 peak={"bfloat16": 312e12, "float32": 19.5e12}),
    "4090": _gpu("4090", "NVIDIA RTX 4090, 24 GB", memory=23.5 * GIB, bandwidth=1.01e12,
                 peak={"bfloat16": 165e12, "float32": 82.6e12}),
    # measured on one thread of a server with AVX-512 (docs/benchmarks/cpu.md), and with the mini model; the memory is
    # that of this machine
    "cpu": Machine("cpu", "one CPU thread (AVX-512)", device="cpu", bandwidth=10e9,
                   memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
                   peak={"bfloat16": 200e9, "float32": 70e9}, reached={"bfloat16": 0.9, "float32": 0.9},
                   layer_seconds=0.4e-3, update_seconds=0.008, start_seconds=6.0, margin=0.1, reserve=0.5 * GIB),
}  # fmt: skip
"""The machines that `--gpu` knows."""


def find_machine(name: str) -> Machine:
    """The machine that `--gpu` names; UserError for an unknown one."""
    if name not in MACHINES:
        raise UserError(f"--gpu = {name!r}: unknown{nearest(name, MACHINES)}")
    return MACHINES[name]


def machine_of_gpu(name: str, memory: float, capability: tuple[int, int]) -> Machine:
    """A GPU that is here, by torch's name of it: its own memory, and the speeds of the machine that it is most like."""
    known = [each for each in MACHINES.values() if each.device == "cuda" and each.name.upper() in name.upper()]
    like = known[0] if known else MACHINES["h100" if capability >= (9, 0) else "a100"]
    return replace(like, label=name, memory=memory, capability=capability)
