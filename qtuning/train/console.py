"""What a training prints: derived quantities once, a progress bar, warnings."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from qtuning.data.samples import Sample
from qtuning.experiment.names import cell_id
from qtuning.experiment.schema import Cell, Pruning, Readings
from qtuning.train.loop import Loop
from qtuning.train.schedule import Window


def print_derived(
    cell: Cell,
    accelerator: Accelerator,
    dataset: Sequence[Sample],
    updates: int,
    trainable: Sequence[nn.Parameter],
    start: int,
    difference: float,
) -> None:
    """Every derived quantity once, at the start."""
    assert cell.training is not None and cell.pruning is not None
    t = cell.training
    print(
        f"cell                {cell_id(cell)}\n"
        f"method              {cell.pruning.method} at {cell.pruning.budget} (samples x tokens, per cent)"
        f"{f', {options}' if (options := _options(cell.pruning)) else ''}\n"
        f"samples             {len(dataset)}, {sum(s.response_length for s in dataset)} response tokens an epoch\n"
        f"updates             {updates} expected in {t.epochs} epochs; selection batch {t.batch_size}, window "
        f"{t.processes} process(es) x {t.accumulation} x {t.batch_size} samples\n"
        f"learning rate       {t.learning_rate:g}, {t.schedule}, warm-up {round(t.warmup * updates)} updates\n"
        f"trainable           {sum(p.numel() for p in trainable):,} parameters ({t.tuning}), weights {cell.dtype}, "
        f"autocast {t.mixed_precision}, on {accelerator.device}, {torch.get_num_threads()} thread(s)\n"
        f"packed = own model  within {difference:.1e} nats\n"
        + (f"resumed             at update {start}\n" if start else ""),
        flush=True,
    )


def _options(pruning: Pruning) -> dict[str, Any]:
    """Options and readings of a method; those of every method only where they are not the default."""
    readings = {
        name: getattr(pruning, name)
        for name, field in Readings.model_fields.items()
        if getattr(pruning, name) != field.default
    }
    return pruning.sample_options | pruning.token_options | readings


def progress(loop: Loop, shown: bool) -> Iterator[Window]:
    """A bar on a terminal; in a log file a line every few seconds."""
    to_file = not sys.stderr.isatty()
    with tqdm(
        initial=loop.place.update,
        total=loop.expected_updates,
        unit="update",
        disable=not shown,
        mininterval=5.0 if to_file else 0.2,
        ascii=True if to_file else None,
    ) as bar:
        for window in loop.windows():
            bar.total = window.update - window.index + window.count * (loop.training.epochs - window.epoch)
            yield window
            bar.update()


def warn(news: Sequence[str]) -> None:
    """Print warnings without tearing the progress bar."""
    for text in news:
        tqdm.write(f"warning: {text}", file=sys.stderr)
