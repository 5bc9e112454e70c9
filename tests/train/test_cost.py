"""The account of a cell, and the memory of a process."""

import time

import pytest
import torch
from fake_gpu import GPU, fake_gpu

from qtuning.train.cost import Cost, Stopwatch, peak_memory


def test_summary_and_memory() -> None:
    summary = Cost(updates=3, flops_scoring=2.0, flops_training=5.0).summary()
    assert summary["flops_total"] == 7.0 and summary["updates"] == 3
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20 // 4)
    assert peak_memory(torch.device("cpu")) >= before > 2**26 and block.numel() > 0


def test_a_stopwatch_goes_by_the_clock_on_a_cpu() -> None:
    watch = Stopwatch(torch.device("cpu"))
    before = time.perf_counter()
    start = watch.mark()
    time.sleep(0.02)
    assert 0.02 <= watch.seconds(start, watch.mark()) <= time.perf_counter() - before
    assert watch.seconds(1.5, 4.0) == 2.5


def test_a_stopwatch_goes_by_events_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks wait for nothing; to read them waits once."""
    with fake_gpu(monkeypatch) as gpu:
        watch = Stopwatch(GPU)
        start, end = watch.mark(), watch.mark()
        assert gpu.waits == 0
        assert watch.seconds(start, end) == 1.5 and gpu.waits == 1
