"""AdamW, whose moments have the dtype of the weights or 8 bits."""

from collections.abc import Sequence

import torch
from torch import nn

from qtuning.experiment.cell import Training
from qtuning.model.optional import bitsandbytes


def make_optimizer(training: Training, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a cell, by one fused kernel in both cases. UserError where its library is missing."""
    if training.optimizer == "adamw-8bit":
        library = bitsandbytes("training.optimizer = 'adamw-8bit'")
        optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(
            parameters, lr=training.learning_rate, weight_decay=training.weight_decay
        )
        return optimizer
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)
