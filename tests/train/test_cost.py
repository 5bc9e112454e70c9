"""The account of a cell, and the memory of a process."""

import torch

from qtuning.train.cost import Cost, peak_memory


def test_summary_and_memory() -> None:
    summary = Cost(updates=3, flops_scoring=2.0, flops_training=5.0).summary()
    assert summary["flops_total"] == 7.0 and summary["updates"] == 3
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20 // 4)
    assert peak_memory(torch.device("cpu")) >= before > 2**26 and block.numel() > 0
