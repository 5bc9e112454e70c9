"""What `qtuning plan` needs to know of a card: products, memory, launches, generation, start."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_setting import GIB, Setting, adapt, build
from benchmarks.report import Table, Value
from qtuning.data.samples import Sample
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel
from qtuning.plan.machines import Machine
from qtuning.plan.shapes import BYTES, Shape


@dataclass(frozen=True)
class Speeds:
    """products: FLOP/s by dtype. bandwidth: bytes a second. The others: those of `Machine` (qtuning/plan)."""

    products: dict[str, float]
    bandwidth: float
    layer_seconds: float
    adapter_factor: float
    start_seconds: float | None


def speeds(setting: Setting, assumed: Machine | None) -> tuple[Speeds, list[Table]]:
    """All of it, beside what is assumed of this card where `--gpu` knows it."""
    shapes = setting.sizes.shapes
    smallest, largest = next(iter(shapes.values())), list(shapes.values())[-1]
    products = {dtype: _products(setting, largest, dtype) for dtype in ("bfloat16", "float32")}
    bandwidth, (layer, factor) = _bandwidth(setting), _launches(setting, smallest)
    found = Speeds(products, bandwidth, layer, factor, _start(setting) if setting.affords("start", 30) else None)

    def so_far(value: Callable[[Machine], float]) -> float | None:
        return None if assumed is None else value(assumed)

    rows: list[dict[str, Value]] = [
        _row(
            f"products, {dtype}, TFLOP/s",
            rate / 1e12,
            so_far(lambda machine, dtype=dtype: machine.rate(dtype) / 1e12),  # type: ignore[misc]
            so_far(lambda machine, dtype=dtype, rate=rate: rate / machine.peak[dtype]),  # type: ignore[misc]
        )
        for dtype, rate in products.items()
    ]
    rows += [
        _row(
            "elementwise work, GB/s",
            bandwidth / 1e9,
            so_far(lambda machine: (machine.streaming or 1.0) * machine.bandwidth / 1e9),
            so_far(lambda machine: bandwidth / machine.bandwidth),
        ),
        _row("a layer and token of generation, ms", 1e3 * layer, so_far(lambda machine: 1e3 * machine.layer_seconds)),
        _row("a small forward with LoRA / without", factor, so_far(lambda machine: machine.adapter_factor)),
        _row("imports and first kernel, s", found.start_seconds, so_far(lambda machine: machine.start_seconds)),
    ]
    note = f"Products: those of the largest model's layers with {setting.sizes.products:,} tokens."
    return found, [Table("What the plan needs", rows, (note,)), _generation(setting, found)]


def _row(what: str, measured: float | None, assumed: float | None, share: float | None = None) -> dict[str, Value]:
    return {"what": what, "measured": measured, "assumed": assumed, "measured / peak": share}


def _products(setting: Setting, shape: Shape, dtype: str) -> float:
    """FLOP/s of the products of one layer: queries, keys and values and output, then the three of the MLP."""
    kind, tokens = getattr(torch, dtype), setting.sizes.products
    sizes = [(shape.hidden, shape.query_width), (shape.hidden, shape.intermediate), (shape.intermediate, shape.hidden)]
    pairs = [
        tuple(torch.randn(size, device=setting.device, dtype=kind) for size in ((tokens, wide), (wide, narrow)))
        for wide, narrow in sizes
    ]
    seconds = setting.timed(lambda: [left @ right for left, right in pairs])
    return 2.0 * tokens * sum(wide * narrow for wide, narrow in sizes) / seconds


def _bandwidth(setting: Setting) -> float:
    """Bytes a second of c = a + b, each of some hundred megabytes."""
    a, b, c = (torch.zeros(setting.sizes.copied // 4, device=setting.device) for _ in range(3))
    return 3.0 * a.nbytes / setting.timed(lambda: torch.add(a, b, out=c))


def _launches(setting: Setting, shape: Shape) -> tuple[float, float]:
    """(seconds a layer of a generated token takes, how much longer a small forward takes with LoRA)."""
    decode = _decode(setting, shape) / shape.layers
    packed = pack([Sample(0, torch.arange(4), 2)])
    assert packed is not None
    on_device = packed.to(setting.device)
    seconds = []
    for adapted in (False, True):
        model = build(shape, setting.device, torch.bfloat16)
        wrapped = PackedModel(adapt(model) if adapted else model)
        seconds.append(setting.timed(lambda wrapped=wrapped: wrapped.score(on_device)))  # type: ignore[misc]
    return decode, max(1.0, seconds[1] / seconds[0])


def _decode(setting: Setting, shape: Shape, rows: int = 1) -> float:
    """Seconds of a generated token, all layers, as HF generates in evaluation."""
    model: Any = build(shape, setting.device, torch.bfloat16).eval()
    prompt = torch.ones(rows, 16, dtype=torch.int64, device=setting.device)
    new = setting.sizes.tokens

    def generate(count: int) -> float:
        options = {"do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": None}
        return setting.timed(lambda: model.generate(prompt, max_new_tokens=count, min_new_tokens=count, **options), 2)

    with torch.no_grad():
        return max(1e-9, (generate(2 * new) - generate(new)) / new)


def _generation(setting: Setting, found: Speeds) -> Table:
    """Seconds of a step of generation, beside what the plan would say."""
    rows: list[dict[str, Value]] = []
    for name, shape in setting.sizes.shapes.items():
        weights = shape.parameters * BYTES["bfloat16"]
        if not setting.holds(f"generation, {name}", 1.2 * weights) or not setting.affords(f"generation, {name}", 30):
            continue
        measured = _decode(setting, shape, 16)
        setting.free()
        planned = weights / found.bandwidth + shape.layers * found.layer_seconds
        rows.append(
            {
                "model": name,
                "ms a step": 1e3 * measured,
                "planned": 1e3 * planned,
                "planned / measured": planned / measured,
            }
        )
    return Table(
        "Generation, batch of 16, HF, bfloat16", rows, ("planned: reading the weights and launching the layers.",)
    )


def _start(setting: Setting) -> float:
    """Seconds until a process has imported what trains and has run a first kernel."""
    code = f"import torch, qtuning.train.__main__; torch.ones(8, device='{setting.device}').sum().item()"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def memory_of(device: torch.device) -> tuple[float, float]:
    """(free, all) bytes of the GPU; of a processor, those of the machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(free), float(total)
    return 4.0 * GIB, 4.0 * GIB
