"""Speed and memory of machines: published peaks, and what we assume a job reaches of them (docs/plan.md).

Peaks are of dense matrix products with float32 accumulation, from NVIDIA's data sheets and white papers (H100 SXM5,
H200 SXM, A100 SXM4, L40S, RTX A6000, GA102 for the RTX 3090, Ada for the RTX 4090). float32 runs on the ordinary cores,
since PyTorch leaves TF32 off. Memory is what PyTorch can give.

`reached` is the share of the peak that large matrix products alone reach. What a model moves through memory beside
them (traffic.py) takes time of its own, at `streaming` of the bandwidth. Sources of the shares:

- A100: what fits the seconds that Qwen's README measured for LoRA on one, at lengths from 512 to 8,192 (a test); the
  best of all products reaches 0.86 there (the table of maximum achievable matmul FLOPS in Stas Bekman's
  ml-engineering).
- H100, H200: as much of the best product, 0.80 of the peak (the same table), as on the A100. Large products alone reach
  0.73 (SemiAnalysis, December 2024).
- The others: as the A100, assumed.
- 85% of the bandwidth for kernels that stream: assumed.

`make gpu-check` measures a card and writes configs/machines/NAME.yaml, which replaces what is assumed of it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import Field

from qtuning.errors import UserError
from qtuning.experiment.base import Config
from qtuning.experiment.strict_yaml import read_yaml
from qtuning.experiment.yaml_files import nearest, validate
from qtuning.gpus.device import AMPERE
from qtuning.plan.shapes import BYTES, Attention, Shape

GIB = 2**30
FOLDER = "machines"  # of configs/, for what was measured


@dataclass(frozen=True)
class Machine:
    """One GPU, or one CPU thread.

    memory: bytes; margin: share of it that stays unused (fragmentation), and reserve: bytes that the runtime takes.
    bandwidth: bytes a second; streaming: share of it that elementwise work reaches, None where `reached` is that of
    whole passes. peak: FLOP/s by dtype; reached: share of it. layer_seconds: to launch the forward of one layer,
    however small; adapter_factor: how much more that is with LoRA. update_seconds: optimizer, bookkeeping and journal
    of an update; decision_seconds: selection of a batch, in which a GPU waits. start_seconds: until a process has
    imported what it needs and loaded a small model; vllm_start_seconds: until an engine has loaded a model of 7B,
    measured its memory and captured its CUDA graphs. cuda_name: what CUDA calls it. measured: by what, "" if nothing
    was. capability: of a GPU.
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
    streaming: float | None = None
    decision_seconds: float = 0.0
    vllm_start_seconds: float = 90.0
    adapter_factor: float = 1.8
    margin: float = 0.05
    reserve: float = 1.0 * GIB
    cuda_name: str = ""
    measured: str = ""
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
        traffic: float = 0.0,
        adapters: bool = False,
        factor: float = 1.0,
        waiting: bool = False,
    ) -> float:
        """Time of `passes` passes through a model that take `flops`, and move `traffic` bytes beside them, in all.

        Arithmetic and traffic, or reading the weights where there is little of both (roofline); and launching the
        layers, which a GPU hides behind its work unless the program waits for every pass (generation). factor: of
        reading and launching, for a pass that goes forward and back.
        """
        reading = passes * factor * shape.parameters * BYTES[dtype] / self.bandwidth
        launching = passes * factor * shape.layers * self.layer_seconds * (self.adapter_factor if adapters else 1.0)
        moving = 0.0 if self.streaming is None else traffic / (self.streaming * self.bandwidth)
        working = max(flops / self.rate(dtype) + moving, reading)
        return working + launching if waiting or self.device == "cpu" else max(working, launching)


# layer_seconds: from the speed of eager generation at batch 1. update_seconds: to clip and step the 448 tensors of a 7B
# model's adapters takes 4.5 ms of a processor core (measured), trace, metrics and journal some 10. decision_seconds:
# the decision takes 1.1 to 1.6 ms (docs/benchmarks/cpu.md), copies and the wait for scores the rest.
_gpu = partial(
    Machine, layer_seconds=0.6e-3, update_seconds=0.015, decision_seconds=0.003, start_seconds=25.0, streaming=0.85,
    device="cuda",
)  # fmt: skip


def _reached(bfloat16: float) -> dict[str, float]:
    return {"bfloat16": bfloat16, "float32": 0.7}


MACHINES = {
    "h100": _gpu("h100", "NVIDIA H100 SXM, 80 GB", memory=79 * GIB, bandwidth=3.35e12, reached=_reached(0.63),
                 peak={"bfloat16": 989e12, "float32": 67e12}, cuda_name="NVIDIA H100 80GB HBM3"),
    "a100": _gpu("a100", "NVIDIA A100 SXM, 80 GB", memory=79 * GIB, bandwidth=2.04e12, reached=_reached(0.68),
                 peak={"bfloat16": 312e12, "float32": 19.5e12}, cuda_name="NVIDIA A100-SXM4-80GB"),
    "4090": _gpu("4090", "NVIDIA RTX 4090, 24 GB", memory=23.5 * GIB, bandwidth=1.01e12, reached=_reached(0.68),
                 peak={"bfloat16": 165e12, "float32": 82.6e12}, cuda_name="NVIDIA GeForce RTX 4090"),
    "h200": _gpu("h200", "NVIDIA H200 SXM, 141 GB", memory=139 * GIB, bandwidth=4.8e12, reached=_reached(0.63),
                 peak={"bfloat16": 989e12, "float32": 67e12}, cuda_name="NVIDIA H200"),
    "l40s": _gpu("l40s", "NVIDIA L40S, 48 GB", memory=44 * GIB, bandwidth=0.864e12, reached=_reached(0.68),
                 peak={"bfloat16": 362e12, "float32": 91.6e12}, cuda_name="NVIDIA L40S"),
    "a6000": _gpu("a6000", "NVIDIA RTX A6000, 48 GB", memory=47 * GIB, bandwidth=0.768e12, reached=_reached(0.68),
                  peak={"bfloat16": 154.8e12, "float32": 38.7e12}, cuda_name="NVIDIA RTX A6000"),
    "3090": _gpu("3090", "NVIDIA RTX 3090, 24 GB", memory=23.5 * GIB, bandwidth=0.936e12, reached=_reached(0.68),
                 peak={"bfloat16": 71e12, "float32": 35.6e12}, cuda_name="NVIDIA GeForce RTX 3090"),
    # measured on one thread of a server with AVX-512 (docs/benchmarks/cpu.md), and with the mini model; the memory is
    # that of this machine
    "cpu": Machine("cpu", "one CPU thread (AVX-512)", device="cpu", bandwidth=10e9,
                   memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
                   peak={"bfloat16": 200e9, "float32": 70e9}, reached={"bfloat16": 0.9, "float32": 0.9},
                   layer_seconds=0.4e-3, update_seconds=0.008, start_seconds=6.0, margin=0.1, reserve=0.5 * GIB),
}  # fmt: skip
"""The machines that `--gpu` knows without a measurement."""


class Measured(Config):
    """configs/machines/NAME.yaml, which `make gpu-check` writes: what one card reaches. null: not measured."""

    label: str
    cuda_name: str
    memory: float = Field(gt=0, description="bytes that PyTorch sees")
    products: dict[str, float] = Field(description="FLOP/s of large matrix products, by dtype: bfloat16, float32")
    bandwidth: float = Field(gt=0, description="bytes a second that elementwise work reads and writes")
    layer_seconds: float | None = Field(None, gt=0, description="to launch the forward of one layer")
    adapter_factor: float | None = Field(None, ge=1, description="how much more that is with LoRA")
    update_seconds: float | None = Field(None, gt=0, description="optimizer, bookkeeping and journal of an update")
    decision_seconds: float | None = Field(None, ge=0, description="selection of a batch, in which the GPU waits")
    start_seconds: float | None = Field(None, gt=0, description="until a training has imported what it needs")
    measured: str = Field(min_length=1, description="date, commit, driver, versions and command")

    def machine(self, name: str) -> Machine:
        """The machine, with published peaks if `--gpu` knows its name, else with what was measured as its peaks."""
        unknown = _gpu(name, self.label, memory=self.memory, bandwidth=self.bandwidth, peak=self.products, reached={})
        known = MACHINES.get(name, unknown)
        peak = dict(known.peak)
        optional = ("layer_seconds", "adapter_factor", "update_seconds", "decision_seconds", "start_seconds")
        found = {key: getattr(self, key) for key in optional if getattr(self, key) is not None}
        reached = {dtype: rate / peak[dtype] for dtype, rate in self.products.items() if dtype in peak}
        return replace(
            known, label=self.label, memory=self.memory, reached={**known.reached, **reached},
            streaming=self.bandwidth / known.bandwidth, cuda_name=self.cuda_name, measured=self.measured, **found,
        )  # fmt: skip


def find_machine(name: str, configs: Path | None = None, key: str = "--gpu") -> Machine:
    """The machine of a name, as measured if `configs`/machines says so; UserError, in terms of `key`, if unknown."""
    measured = {} if configs is None else {path.stem: path for path in (Path(configs) / FOLDER).glob("*.yaml")}
    if name in measured:
        found = validate(Measured, read_yaml(measured[name]), str(measured[name]))
        if missing := {"bfloat16", "float32"} - set(found.products):
            raise UserError(f"{measured[name]}: products.{min(missing)}: required")
        return found.machine(name)
    if name not in MACHINES:
        raise UserError(f"{key} = {name!r}: unknown{nearest(name, [*MACHINES, *measured])}")
    return MACHINES[name]


def machine_of_gpu(name: str, memory: float, capability: tuple[int, int]) -> Machine:
    """A GPU that is here, by torch's name of it: its own memory, and the speeds of the machine that it is most like."""
    known = [each for each in MACHINES.values() if each.device == "cuda" and each.name.upper() in name.upper()]
    like = known[0] if known else MACHINES["h100" if capability >= (9, 0) else "a100"]
    return replace(like, label=name, memory=memory, capability=capability)
