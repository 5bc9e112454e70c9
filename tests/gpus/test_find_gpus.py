"""Which GPUs a process may use: bare machines, containers, MIG, WSL2, the user's choice, and where nothing tells."""

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from nvml_stand_in import Card, NvmlStandIn

from qtuning.errors import UserError
from qtuning.gpus import nvml
from qtuning.gpus.find import look, visible
from qtuning.gpus.lease import current_memory

Make = Callable[..., Path]
CARDS = "dev/nvidiactl", "dev/nvidia0", "dev/nvidia1", "dev/nvidia-uvm"


def two() -> NvmlStandIn:
    return NvmlStandIn(Card("GPU-aaaa-1"), Card("GPU-bbbb-2", name="NVIDIA RTX A6000", capability=(8, 6)))


def names(root: Path) -> list[str]:
    return [device.name for device in look(root).devices]


def test_without_a_driver_the_library_says_so() -> None:
    """Not the stand-in: the installed library, which finds no driver on a machine without GPU."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(nvml.NoNvml, match="libnvidia-ml"):
        nvml.find_devices()


def test_a_machine_without_any_gpu(machine: Make) -> None:
    found = look(machine(None))
    assert (found.devices, found.source, found.notes) == ((), "none", ())


def test_whole_cards_go_by_uuid(machine: Make) -> None:
    stand_in = two()
    found = look(machine(stand_in, *CARDS))
    assert [(d.name, d.key, d.title) for d in found.devices] == [
        ("GPU-aaaa-1", "GPU-aaaa-1", "GPU 0 (NVIDIA H100 80GB HBM3)"),
        ("GPU-bbbb-2", "GPU-bbbb-2", "GPU 1 (NVIDIA RTX A6000)"),
    ]
    assert [d.capability for d in found.devices] == [(9, 0), (8, 6)]
    assert (found.variable, found.source) == ("CUDA_VISIBLE_DEVICES", "nvml")
    assert (found.driver, found.cuda) == ("580.65.06", (13, 0))
    assert stand_in.open == 0, "what was initialised is shut down"


def test_a_container_with_the_fourth_card_alone(machine: Make) -> None:
    """gpu-review 6: /dev has nvidia3 only, CUDA calls it 0, and the job got CUDA_VISIBLE_DEVICES=3."""
    assert names(machine(NvmlStandIn(Card("GPU-dddd-4")), "dev/nvidiactl", "dev/nvidia3")) == ["GPU-dddd-4"]


def test_a_container_without_nvml_counts_from_0(machine: Make) -> None:
    """NVIDIA_DRIVER_CAPABILITIES=compute: no libnvidia-ml.so.1, though CUDA works."""
    absent = NvmlStandIn(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    found = look(machine(absent, "dev/nvidiactl", "dev/nvidia3", "dev/nvidia5", "dev/nvidia-uvm"))
    assert [d.name for d in found.devices] == ["0", "1"]
    assert found.source == "number"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in found.notes[0]
    assert current_memory(found.devices[0]) is None


def test_wsl2_has_one_device_file_and_nvml(machine: Make) -> None:
    """gpu-review 6: /dev/dxg and no /dev/nvidia*: no GPU was seen. Its driver does not tell processes."""
    windows = NvmlStandIn(
        Card("GPU-cccc-3", name="NVIDIA GeForce RTX 4090", total=24 * 2**30, free=2**30, processes=None)
    )
    found = look(machine(windows, "dev/dxg"))
    assert [d.name for d in found.devices] == ["GPU-cccc-3"]
    assert str(current_memory(found.devices[0])) == "1.0 of 24.0 GiB free"


def test_wsl2_without_nvml_has_one_gpu_by_number(machine: Make) -> None:
    absent = NvmlStandIn(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert names(machine(absent, "dev/dxg")) == ["0"]


def test_a_driver_that_was_updated_under_a_running_kernel(machine: Make) -> None:
    found = look(machine(NvmlStandIn(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), *CARDS))
    assert "reboot" in found.notes[0]
    assert [d.name for d in found.devices] == ["0", "1"]


def mig() -> NvmlStandIn:
    small = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    instances = {number: Card(f"MIG-{number}", name=small, total=5 * 2**30, free=4 * 2**30) for number in (0, 2)}
    divided = Card("GPU-mig", name="NVIDIA A100-SXM4-40GB", capability=(8, 0), instances=instances)
    return NvmlStandIn(divided, Card("GPU-whole"), Card("GPU-undivided", instances={}))


def test_of_a_card_that_mig_divides_the_instances_count(machine: Make) -> None:
    found = look(machine(mig(), *CARDS))
    assert [(d.name, d.title, d.card) for d in found.devices] == [
        ("MIG-0", "GPU 0:0 (NVIDIA A100-SXM4-40GB MIG 1g.5gb)", "GPU-mig"),
        ("MIG-2", "GPU 0:2 (NVIDIA A100-SXM4-40GB MIG 1g.5gb)", "GPU-mig"),
        ("GPU-whole", "GPU 1 (NVIDIA H100 80GB HBM3)", None),
    ]
    assert found.devices[0].total == 5 * 2**30
    assert found.notes == ("GPU 2 is in MIG mode without an instance that we may use, so CUDA cannot use it",)


def test_a_card_that_fell_off_the_bus_does_not_hide_the_others(machine: Make) -> None:
    found = look(machine(NvmlStandIn(Card("GPU-a", lost=True), Card("GPU-b")), *CARDS))
    assert [d.title for d in found.devices] == ["GPU 1 (NVIDIA H100 80GB HBM3)"]
    assert "GPU 0 cannot be used: GPU is lost" in found.notes[0]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("1", ["GPU-whole"]),
        ("0", ["MIG-0", "MIG-2"]),
        ("GPU-who", ["GPU-whole"]),
        ("GPU-mig", ["MIG-0", "MIG-2"]),
        ("MIG-2,1", ["MIG-2", "GPU-whole"]),
        ("1,GPU-whole", ["GPU-whole"]),
        ("1,-1,0", ["GPU-whole"]),
        *((nothing, []) for nothing in ("", "-1", "NoDevFiles")),
    ],
)
def test_the_users_choice_is_translated(
    machine: Make, monkeypatch: pytest.MonkeyPatch, choice: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    assert names(machine(mig(), *CARDS)) == expected


@pytest.mark.parametrize("choice", ["7", "GPU-zzzz", "1,7"])
def test_a_choice_of_what_is_not_there_is_refused(machine: Make, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """CUDA would stop reading there, and the job would run on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    with pytest.raises(UserError, match=r"is no GPU '\S+' for us here; there are: GPU 0 \(.*\) GPU-aaaa-1, GPU 1"):
        look(machine(two(), *CARDS))


@pytest.mark.parametrize(("setting", "devices"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-abc", ["GPU-abc"])])
def test_where_nothing_tells_the_users_word_stands(
    monkeypatch: pytest.MonkeyPatch, setting: str, devices: list[str]
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible() == devices


def amd(root: Path, node: int, number: int, gpu: bool = True) -> None:
    """A node of the kernel's topology, as on a machine with AMD's driver; `simd_count` is 0 for processors."""
    folder = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
    folder.mkdir(parents=True)
    lines = [f"cpu_cores_count {0 if gpu else 16}", f"simd_count {304 if gpu else 0}", f"drm_render_minor {node}"]
    (folder / "properties").write_text("\n".join(lines) + "\n")
    memory = root / f"sys/class/drm/renderD{node}/device"
    memory.mkdir(parents=True)
    (memory / "mem_info_vram_total").write_text(f"{64 * 2**30}\n")
    (memory / "mem_info_vram_used").write_text(f"{2**30}\n")


@pytest.fixture
def rocm(machine: Make) -> Path:
    """Two processors and three GPUs, the second of which this container may not open."""
    root = machine(None, "dev/kfd", "dev/dri/renderD128", "dev/dri/renderD130")
    for number, (node, gpu) in enumerate([(0, False), (0, False), (128, True), (129, True), (130, True)]):
        if gpu:
            amd(root, node, number)
    return root


@pytest.mark.parametrize(
    ("rocr", "hip", "cuda", "expected", "variable"),
    [
        (None, None, None, [("0", "amd-128"), ("1", "amd-130")], "HIP_VISIBLE_DEVICES"),
        (None, "1", None, [("1", "amd-130")], "HIP_VISIBLE_DEVICES"),
        (None, None, "1", [("1", "amd-130")], "HIP_VISIBLE_DEVICES"),
        ("1", None, None, [("1", "amd-130")], "ROCR_VISIBLE_DEVICES"),
        ("1", "0", None, [("0", "amd-130")], "HIP_VISIBLE_DEVICES"),
        (None, "", None, [], "HIP_VISIBLE_DEVICES"),
    ],
)
def test_amd(
    rocm: Path,
    monkeypatch: pytest.MonkeyPatch,
    rocr: str | None,
    hip: str | None,
    cuda: str | None,
    expected: list[tuple[str, str]],
    variable: str,
) -> None:
    """gpu-review 6: /dev/kfd alone was no GPU. The lock is that of the render node, whatever number it goes by."""
    for name, value in (("ROCR", rocr), ("HIP", hip), ("CUDA", cuda)):
        if value is not None:
            monkeypatch.setenv(f"{name}_VISIBLE_DEVICES", value)
    found = look(rocm)
    assert [(d.name, d.key) for d in found.devices] == expected
    assert (found.variable, found.source) == (variable, "rocm")
    assert all(d.total == 64 * 2**30 for d in found.devices)


@pytest.mark.parametrize("choice", ["2", "GPU-4b2c1a9f"])
def test_amd_goes_by_number_alone(rocm: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", choice)
    with pytest.raises(UserError, match=rf"ROCR_VISIBLE_DEVICES = '{choice}': .* by number: 0, 1"):
        look(rocm)
