"""Peak memory of one training step, gradients included, above the model that is resident anyway."""

from collections.abc import Callable

import torch

from benchmarks import paths
from benchmarks.fresh import in_fresh_process, peak_above
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import QUICK, Setting, Shape, build, keep_share, ragged
from qtuning.data.samples import Sample
from qtuning.model.packed import PackedModel

TARGET = 0.22
MIB = 2**20
VARIANTS = ("transformers", "plain", "0.125")
LABELS = {"transformers": "plain SFT, transformers, padded", "plain": "plain SFT, ours"}


def run(setting: Setting) -> list[Table]:
    """Each variant in a process of its own."""
    sizes = setting.sizes
    peaks = {name: in_fresh_process(peak, name, sizes.large, sizes.stretch, str(setting.device)) for name in VARIANTS}
    rows: list[dict[str, Value]] = []
    for name in VARIANTS:
        ratio = peaks[name] / peaks["transformers"]
        rows.append(
            {
                "step": LABELS.get(name) or f"Q-Tuning, ours, {float(name):.1%}",
                "peak MiB": peaks[name] / MIB,
                "/ transformers": Checked(ratio, TARGET) if name == "0.125" else ratio,
            }
        )
    parameters = sum(parameter.numel() for parameter in build(sizes.large, torch.device("cpu")).parameters())
    gradients = f"{4 * parameters / MIB:,.0f} MiB of every figure are the gradients"
    note = f"{sizes.large}; the batch of the step table; {gradients}. Resident size of a fresh process each."
    return [Table("Peak memory of a step above the model, float32", rows, (note,))]


def peak(variant: str, shape: Shape, stretch: float, device: str) -> int:
    """Bytes above the model, in one step; run it in a fresh process."""
    torch.set_num_threads(1)
    where = torch.device(device)
    language_model = build(shape, where)
    samples = ragged(8, shape.vocabulary, stretch)
    # a step of a small model brings the code of the kernels into memory, and leaves no large buffers to the allocator
    small = QUICK.model
    few = [Sample(sample.number, sample.tokens[:4] % small.vocabulary, 1) for sample in samples]
    _step(variant, build(small, where), few, where)()
    return peak_above(_step(variant, language_model, samples, where), where)


def _step(
    variant: str, language_model: torch.nn.Module, samples: list[Sample], where: torch.device
) -> Callable[[], object]:
    if variant == "transformers":
        batch = paths.padded(samples, where)
        return lambda: paths.plain_transformers(language_model, batch)
    model = PackedModel(language_model)
    if variant == "plain":
        return lambda: paths.plain(model, samples, where)
    ratio = float(variant)
    kept, method = keep_share(samples, ratio, paths.TOKEN_RATIO), paths.q_tuning(ratio)
    return lambda: paths.ours(model, samples, kept, method, where)
