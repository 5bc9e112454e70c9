"""A leased GPU that torch cannot use is an error with the likely cause, never a silent run on the CPU."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import invoke
from hypothesis import given
from hypothesis import strategies as st
from nvml_stand_in import Card, NvmlStandIn
from torch.cuda import _code_compatible_with_device

from qtuning.cli.options import hold_gpus
from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_json, evaluation_json
from qtuning.experiment.influence import measurement_of
from qtuning.files import canonical_json
from qtuning.gpus import find, lease, torch_sees
from qtuning.gpus.device import Device, Machine
from qtuning.gpus.find import look
from qtuning.gpus.torch_sees import Torch, ask_torch, check_seen, find_cause, lacks_code

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = CONFIGS.parent / "qtuning/assets/mini"  # a folder like any other, which may take a GPU
H100 = Device("GPU-a", "GPU-a", "GPU 0 (NVIDIA H100)", 0, capability=(9, 0))
NVIDIA = Machine((H100,), source="nvml", driver="580.65.06", cuda=(13, 0))
GOOD = Torch("2.13.0+cu130", "13.0", None, 1, architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
BLIND = replace(GOOD, seen=0, architectures=())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia-uvm").touch()
    return tmp_path


def test_a_gpu_that_torch_sees_is_no_error(root: Path) -> None:
    check_seen([H100], NVIDIA, GOOD, root)


@pytest.mark.parametrize(
    ("machine", "torch", "cause"),
    [
        (NVIDIA, replace(BLIND, version="2.13.0+cpu", cuda=None), "built for CPUs; install the build for CUDA"),
        (NVIDIA, replace(BLIND, cuda=None, hip="7.1"), "GPUs are of NVIDIA, and it is built for ROCm"),
        (replace(NVIDIA, source="rocm"), BLIND, "GPUs are of AMD, and it is built for CUDA"),
        (replace(NVIDIA, source="rocm"), replace(BLIND, cuda=None), "install the build for ROCm"),
        (
            replace(NVIDIA, driver="550.54.15", cuda=(12, 4)),
            BLIND,
            "driver 550.54.15 supports CUDA 12.4, and it is built for CUDA 13.0, which needs driver 580 or newer; "
            "update the driver, or install the build of torch for CUDA 12",
        ),
        (NVIDIA, replace(BLIND, complaint="system not yet initialized"), "system not yet initialized"),
        (NVIDIA, BLIND, "torch.cuda.init()"),
        (
            replace(NVIDIA, source="number", notes=("NVML cannot be used: reboot",)),
            BLIND,
            "NVML cannot be used: reboot",
        ),
    ],
)
def test_the_likeliest_cause_is_named(root: Path, machine: Machine, torch: Torch, cause: str) -> None:
    with pytest.raises(UserError) as caught:
        check_seen(machine.devices, machine, torch, root)
    message = str(caught.value)
    assert message.startswith(f"GPU 0 (NVIDIA H100): leased, but torch {torch.version} sees 0 GPU(s): ")
    assert cause in message and "\n" not in message


def test_a_driver_of_the_same_cuda_is_no_cause(root: Path) -> None:
    """Within a major version any driver runs any build: 12.2 is no reason against 12.8."""
    machine, torch = replace(NVIDIA, driver="535.54", cuda=(12, 2)), replace(BLIND, cuda="12.8")
    assert "driver" not in find_cause([H100], machine, torch, root)


def test_causes_that_devices_show(root: Path) -> None:
    assert "nvidia-smi -c DEFAULT" in find_cause([replace(H100, prohibited=True)], NVIDIA, BLIND, root)
    part = replace(H100, card="GPU-b")
    assert "one MIG instance at most" in find_cause([part, part], NVIDIA, replace(BLIND, seen=1), root)
    (root / "dev/nvidia-uvm").unlink()
    assert "/dev/nvidia-uvm is missing" in find_cause([H100], NVIDIA, BLIND, root)


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), GOOD.architectures, True),
        ((8, 9), GOOD.architectures, True),  # code for 8.6 runs on 8.9
        ((7, 0), GOOD.architectures, False),  # V100: CUDA 13 has none before 7.5
        ((12, 1), GOOD.architectures, True),
        ((8, 0), ("sm_86",), False),
        ((10, 3), ("sm_90a", "sm_100f"), True),
        ((11, 0), ("sm_90", "compute_90"), True),  # portable code is compiled on the spot
        ((7, 0), ("sm_90", "compute_90"), False),
    ],
)
def test_code_for_a_chip(capability: tuple[int, int], architectures: tuple[str, ...], runs: bool) -> None:
    found = lacks_code(replace(H100, capability=capability), replace(GOOD, architectures=architectures))
    assert (found is None) == runs
    if not runs:
        with pytest.raises(UserError, match=f"compute capability {capability[0]}.{capability[1]}, and torch"):
            check_seen([replace(H100, capability=capability)], NVIDIA, replace(GOOD, architectures=architectures))


CHIPS = (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 103, 110, 120, 121)  # all but those of embedded boards


@given(st.sampled_from(CHIPS), st.lists(st.sampled_from(CHIPS), min_size=1))
def test_code_for_a_chip_is_what_torch_takes_for_it(chip: int, built: list[int]) -> None:
    """Torch warns when the first tensor is made, and the first kernel then fails."""
    found = lacks_code(
        replace(H100, capability=divmod(chip, 10)), replace(GOOD, architectures=tuple(f"sm_{code}" for code in built))
    )
    assert (found is None) == any(_code_compatible_with_device(chip, code) for code in built)


def test_what_torch_complains_of_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind() -> bool:
        warnings.warn("CUDA initialization: Error 802: system not yet initialized", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", blind)
    found = ask_torch()
    assert (found.seen, found.complaint) == (0, "CUDA initialization: Error 802: system not yet initialized")

    def raises() -> bool:
        raise RuntimeError("HIP_VISIBLE_DEVICES contains more devices than ROCR_VISIBLE_DEVICES")

    monkeypatch.setattr(torch.cuda, "is_available", raises)
    assert ask_torch().complaint.startswith("HIP_VISIBLE_DEVICES contains more")


@pytest.fixture
def two_cards(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NvmlStandIn:
    """What `hold_gpus` finds: two cards, locks of its own, and a torch that sees what CUDA_VISIBLE_DEVICES names."""
    stand_in = NvmlStandIn(Card("GPU-a"), Card("GPU-b"))
    root = machine(stand_in, "dev/nvidiactl", "dev/nvidia-uvm")
    monkeypatch.setattr(find, "look", lambda: look(root))
    monkeypatch.setattr(lease, "lock_folder", lambda: tmp_path)

    def seen() -> Torch:
        return replace(GOOD, seen=len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))

    monkeypatch.setattr(torch_sees, "ask_torch", seen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # restored afterwards
    return stand_in


def test_a_job_is_pointed_at_its_gpu_by_uuid(two_cards: NvmlStandIn) -> None:
    hold_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"


def test_a_job_of_two_gets_both(two_cards: NvmlStandIn) -> None:
    hold_gpus(2, "processes on this machine")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_more_processes_than_gpus_are_refused(two_cards: NvmlStandIn) -> None:
    with pytest.raises(UserError, match=r"ddp-8.yaml: num_processes = 8: this machine has 2 GPU\(s\) for us$"):
        hold_gpus(8, "ddp-8.yaml: num_processes")


def test_mig_instances_are_no_gpus_for_several_processes(two_cards: NvmlStandIn) -> None:
    two_cards.cards[1].instances = {0: Card("MIG-0"), 1: Card("MIG-1")}
    with pytest.raises(UserError, match=r"has 1 GPU\(s\) for us that are no MIG instances"):
        hold_gpus(2, "processes on this machine")


def test_who_asks_for_the_cpu_gets_it_everywhere(two_cards: NvmlStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate` does not ask Accelerate, and would take the first GPU without a lease."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    hold_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == ""


def test_a_driver_without_a_usable_gpu_is_an_error(two_cards: NvmlStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIG mode without an instance: nothing could be leased, and the job trained on the CPU without a word."""
    two_cards.cards = (Card("GPU-a", instances={}),)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(
        UserError, match=r"shows no GPU that can be used \(GPU 0 is in MIG mode.*set CUDA_VISIBLE_DEVICES"
    ):
        hold_gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hold_gpus(1)  # on purpose


def test_without_a_driver_the_cpu_is_told(
    machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine(None)
    monkeypatch.setattr(find, "look", lambda: look(root))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hold_gpus(1)
    assert capsys.readouterr().err == "no GPU here: this runs on the CPU\n"


def test_this_torch_tells_what_it_is() -> None:
    found = ask_torch()
    assert (found.version, found.cuda) == (str(torch.__version__), torch.version.cuda)
    assert found.seen == torch.cuda.device_count()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "cell.json"],
        ["evaluate", "cell.json", "evaluation.json"],
        ["localise", "cell.json"],
        ["influence", "measurement.json"],
        ["plane", str(SHIPPED), "mini"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_runs_a_model_refuses_a_gpu_that_torch_cannot_see(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpu-review 6: CUDA_VISIBLE_DEVICES=0 and a torch without GPUs trained on the CPU without a word; `localise` and
    `plane` never leased at all."""
    if torch.cuda.is_available():
        pytest.skip("this torch sees GPUs")
    (grid,) = ConfigFolder(CONFIGS).expand(["table13"])
    measurement = next(found for cell in grid.cells if (found := measurement_of(cell)) is not None)
    (tmp_path / "measurement.json").write_text(canonical_json(measurement.model_dump(mode="json", by_alias=True)))
    (tmp_path / "cell.json").write_text(cell_json(next(cell for cell in grid.cells if not cell.zero_shot)))
    assert grid.evaluation is not None
    (tmp_path / "evaluation.json").write_text(evaluation_json(grid.evaluation))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(lease, "lock_folder", lambda: tmp_path)
    error = invoke(*command).exception
    assert isinstance(error, UserError), error
    assert str(error).startswith("GPU 0: leased, but torch")
    assert "to run on the CPU on purpose, set CUDA_VISIBLE_DEVICES to nothing" in str(error)
