"""Machines: what is assumed, what a measured file puts in its place, and what is wrong with a file."""

from pathlib import Path

import pytest
import yaml
from command_line import invoke

from qtuning.cli.look import GPUS
from qtuning.errors import UserError
from qtuning.plan.machines import MACHINES, find_machine
from qtuning.plan.shapes import PUBLISHED

SHAPE = PUBLISHED["meta-llama/Llama-2-7b-hf"]
FOUND = {
    "label": "NVIDIA H100 80GB HBM3",
    "cuda_name": "NVIDIA H100 80GB HBM3",
    "memory": 85e9,
    "products": {"bfloat16": 700e12, "float32": 50e12},
    "bandwidth": 3.0e12,
    "layer_seconds": 0.5e-3,
    "measured": "2026-11-29, commit abc",
}


def write(configs: Path, name: str, **changes: object) -> None:
    (configs / "machines").mkdir(exist_ok=True)
    (configs / f"machines/{name}.yaml").write_text(yaml.safe_dump(FOUND | changes))


def test_the_command_names_the_machines_that_there_are() -> None:
    assert set(GPUS) == set(MACHINES)
    assert all(machine.cuda_name for machine in MACHINES.values() if machine.device == "cuda")


def test_a_measured_card_replaces_what_is_assumed_of_it(configs: Path) -> None:
    assert find_machine("h100", configs) is MACHINES["h100"]
    write(configs, "h100")
    found = find_machine("h100", configs)
    assert found.rate("bfloat16") == pytest.approx(700e12) and found.rate("float32") == pytest.approx(50e12)
    assert found.streaming is not None and found.streaming * found.bandwidth == pytest.approx(3.0e12)
    assert (found.memory, found.layer_seconds, found.measured) == (85e9, 0.5e-3, FOUND["measured"])
    # what was not measured stays, and the published peaks as well
    assert (found.start_seconds, found.peak) == (MACHINES["h100"].start_seconds, MACHINES["h100"].peak)
    assert find_machine("h100") is MACHINES["h100"]
    text = invoke("plan", "table6", "--configs", configs, "--results", "/nonexistent").output
    assert "measured: 2026-11-29, commit abc" in " ".join(text.split())


def test_a_card_that_nobody_knew_can_be_planned_for(configs: Path) -> None:
    write(configs, "nvidia-geforce-rtx-5090", label="RTX 5090")
    found = find_machine("nvidia-geforce-rtx-5090", configs)
    assert (found.label, found.rate("bfloat16"), found.device) == ("RTX 5090", 700e12, "cuda")
    with pytest.raises(UserError, match="did you mean nvidia-geforce-rtx-5090"):
        find_machine("nvidia-geforce-rtx-509", configs)


def test_a_bad_file_is_named(configs: Path) -> None:
    write(configs, "h100", bandwidth=-1)
    with pytest.raises(UserError, match=r"h100.yaml: bandwidth = -1"):
        find_machine("h100", configs)
    write(configs, "h100", products={"bfloat16": 1e12})
    with pytest.raises(UserError, match=r"h100.yaml: products.float32: required"):
        find_machine("h100", configs)


def test_a_gpu_hides_its_launches_unless_the_program_waits() -> None:
    h100, cpu = MACHINES["h100"], MACHINES["cpu"]
    flops = 10 * 2.0 * SHAPE.matmul * 4096
    working = flops / h100.rate("bfloat16")
    launching = 10 * 32 * h100.layer_seconds
    assert h100.seconds(flops, 10, SHAPE, "bfloat16") == pytest.approx(working) and working > launching
    assert h100.seconds(flops, 10, SHAPE, "bfloat16", waiting=True) == pytest.approx(working + launching)
    assert h100.seconds(1.0, 10, SHAPE, "bfloat16") == pytest.approx(
        max(launching, 10 * 2 * SHAPE.parameters / 3.35e12)
    )
    traffic = 0.85 * 3.35e12  # a second
    assert h100.seconds(flops, 10, SHAPE, "bfloat16", traffic=traffic) == pytest.approx(working + 1)
    # what was measured on a processor is that of whole passes
    assert cpu.seconds(flops, 1, SHAPE, "float32", traffic=traffic) == cpu.seconds(flops, 1, SHAPE, "float32")
