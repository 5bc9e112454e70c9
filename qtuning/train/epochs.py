"""What a training with `each_epoch` keeps of every epoch: the adapter, Adam's moments, the mean learning rate.

They are written at once into the resume state, and move into the cell's weights when training ends, so that a resumed
training has them too.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from qtuning.experiment.cell import Training
from qtuning.files import atomic_path
from qtuning.manifest import FILES, check_files, digests_of, read_sealed, write_sealed
from qtuning.model.packed import PackedModel
from qtuning.train.checkpoint import training_tensors
from qtuning.train.lines import again
from qtuning.train.windows import UpdateWindow, learning_rate

MOMENTS, EPOCH = "adam.safetensors", "epoch.json"


def write_epoch(
    state: Path, window: UpdateWindow, training: Training, model: PackedModel, optimizer: torch.optim.Optimizer
) -> None:
    """Write state/epochs/epoch-N after the last update of epoch N, counted from 1.

    It holds the adapter as peft stores it, adam.safetensors (`optimizer.{exp_avg,exp_avg_sq,step}.NAME`) and epoch.json
    with the mean learning rate of the epoch's updates.
    """
    first, updates = window.epoch * window.count, training.epochs * window.count
    rates = [learning_rate(first + index, updates, training) for index in range(window.count)]
    with atomic_path(state / "epochs" / f"epoch-{window.epoch + 1}") as temporary:
        adapted: nn.Module = model.model
        adapted.save_pretrained(temporary)  # type: ignore[operator]
        saved = training_tensors(model, optimizer)
        moments = {name: value.detach().cpu().contiguous() for name, value in saved.items() if "optimizer." in name}
        save_file(moments, temporary / MOMENTS)
        files = digests_of(temporary, (path for path in temporary.iterdir() if path.is_file()))
        mean = sum(rates) / len(rates)
        write_sealed(temporary / EPOCH, {"epoch": window.epoch + 1, "learning_rate": mean, FILES: files})


def add_epochs(state: Path, weights: Path) -> None:
    """Copy the epochs, if any are kept, into a folder of weights. UserError if one is damaged."""
    for folder in sorted((state / "epochs").glob("epoch-*")):
        check_files(folder, read_sealed(folder / EPOCH, again(state)).get(FILES, {}), again(state))
    if (state / "epochs").is_dir():
        shutil.copytree(state / "epochs", weights, dirs_exist_ok=True)
