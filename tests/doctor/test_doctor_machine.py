"""What the doctor says of GPUs: by the stand-in for NVML, and of this machine for real."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qtuning.doctor import machine as doctor
from qtuning.doctor.machine import look_at_gpus, look_at_kernels, look_at_machine
from qtuning.errors import UserError
from qtuning.gpus import lease
from qtuning.gpus.device import Device, Machine, Memory, Process
from qtuning.gpus.torch_sees import Torch
from qtuning.model import kernels

GIB = 2**30
CARD = Device("GPU-a", "GPU-a", "GPU 0 (NVIDIA H100)", 0, total=80 * GIB, capability=(9, 0))
FOUND = Machine((CARD,), source="nvml", driver="580.65.06", cuda=(13, 0))
TORCH = Torch("2.13.0+cu130", "13.0", None, 1, architectures=("sm_90",))
EMPTY = Memory(80 * GIB, 79 * GIB)


@pytest.fixture(autouse=True)
def own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lease, "lock_folder", lambda: tmp_path)


def said(
    machine: Machine = FOUND, torch: Torch = TORCH, memory: Memory | None = EMPTY, shared: Path = Path("/nowhere")
) -> list[tuple[str, str]]:
    found = look_at_gpus(torch, lambda: machine, lambda device: memory, shared)
    return [(finding.level, finding.text) for finding in found]


def test_a_good_card() -> None:
    assert said() == [
        ("ok", "NVIDIA driver 580.65.06, CUDA up to 13.0"),
        ("ok", "GPU 0 (NVIDIA H100): GPU-a, compute capability 9.0, 79.0 of 80.0 GiB free"),
    ]


def test_no_card_is_worth_a_note() -> None:
    assert said(Machine(), replace(TORCH, seen=0)) == [("note", "no GPU that we may use: everything runs on the CPU")]


def test_a_torch_that_sees_nothing_is_a_problem_with_its_cause() -> None:
    levels = said(torch=replace(TORCH, version="2.13.0+cpu", cuda=None, seen=0))
    assert levels[1][0] == "problem"
    assert "torch sees none of the 1 GPU(s), so every job would stop: it is built for CPUs" in levels[1][1]


def test_a_chip_that_this_torch_has_no_code_for() -> None:
    old = replace(FOUND, devices=(replace(CARD, capability=(7, 0)),))
    level, text = said(old)[1]
    assert level == "problem" and "has compute capability 7.0, and torch 2.13.0+cu130 has code for 9.0 to 9.0" in text


def test_a_card_that_strangers_fill() -> None:
    full = Memory(80 * GIB, GIB, (Process(4321, "python", 70 * GIB),))
    level, text = said(memory=full)[1]
    assert level == "problem"
    assert "process 4321 (python) holds 70.0 GiB: jobs wait for 80% of its memory, and stop after 10 minutes" in text


def test_a_card_that_our_own_job_fills_is_no_problem(tmp_path: Path) -> None:
    assert lease.lease(1, [CARD], tmp_path, memory=lambda device: None) == [CARD]
    assert said(memory=Memory(80 * GIB, GIB))[1][0] == "ok"
    assert said()[1][1].endswith("held by a job of ours")


def test_numbers_instead_of_uuids_are_worth_a_note() -> None:
    counted = Machine((Device("0", "number-0", "GPU 0"),), source="number", notes=("NVML cannot be used: reboot",))
    assert said(counted, memory=None) == [("note", "NVML cannot be used: reboot"), ("ok", "GPU 0: memory not told")]


def test_little_shared_memory_stops_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = replace(FOUND, devices=(CARD, replace(CARD, name="GPU-b", key="GPU-b")))
    torch = replace(TORCH, seen=2)
    monkeypatch.setattr(doctor, "_size", lambda folder: 64 * 2**20)  # docker's
    assert said(two, torch, shared=tmp_path)[-1] == (
        "problem",
        f"{tmp_path} holds 0.06 GiB: trainings on several GPUs need 1",
    )
    assert "need 1" not in str(said(shared=tmp_path)), "one GPU needs none"
    monkeypatch.undo()
    assert doctor._size(tmp_path) == shutil.disk_usage(tmp_path).total


def test_a_choice_that_is_not_there_is_a_problem_and_no_crash() -> None:
    def find() -> Machine:
        raise UserError("CUDA_VISIBLE_DEVICES = '7': there is no GPU '7' for us here")

    (finding,) = look_at_gpus(TORCH, find)
    assert finding.level == "problem" and "'7'" in finding.text and finding.advice


def test_the_kernel_of_each_dtype_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "capability_of", lambda device: (9, 0))
    kernels.attention_kernel.cache_clear()
    half, single = look_at_kernels("cuda")
    assert half.text == "attention on cuda in bfloat16: kernel varlen (flash attention, one call a layer)"
    assert single.text == "attention on cuda in float32: kernel segments (flash attention has no float32)"
    kernels.attention_kernel.cache_clear()
    assert all("kernel segments" in finding.text for finding in look_at_kernels("cpu"))


@pytest.fixture
def fewer_cores() -> Iterator[Callable[[], int]]:
    import os

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield lambda: 1
    os.sched_setaffinity(0, before)


def test_this_machine(fewer_cores: Callable[[], int]) -> None:
    """A container or taskset may give us fewer cores than the machine has."""
    import torch

    texts = [finding.text for finding in look_at_machine()]
    assert any(text.startswith(f"torch {torch.__version__}, built for") for text in texts)
    assert any(text.startswith("1 CPU cores for us, ") and "GiB free on the machine" in text for text in texts)
