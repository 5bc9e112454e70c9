"""What `auto` becomes on machines of different memory and speed, and what a plan says of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_work import a_cell

from qtuning.experiment.cell import Cell, HubSource, Model
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.needs import schedule_of
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.jobs import Jobs, TrainingJob
from qtuning.plan.lengths import Lengths, assumed
from qtuning.plan.machines import GIB, MACHINES, Machine, find_machine, machine_of_gpu
from qtuning.plan.memory import Place, training_memory
from qtuning.plan.print import list_assumptions
from qtuning.plan.shapes import PUBLISHED
from qtuning.train.launch import Launch

LLAMA = PUBLISHED["meta-llama/Llama-2-7b-hf"]
LORA = {"tuning": "lora", "mixed_precision": "bf16", "dtype": "bfloat16", "batch_size": 8}
FULL = {"tuning": "full", "update_samples": 256, "batch_size": 8}
WIZARD = assumed(70_000, 145, 330, 0.8, 0.6, 2048)
LONG = Lengths(np.full(512, 500.0), np.full(512, 1500.0), 100.0, "tokens")


def on(machine: Machine, cell: Cell, lengths: Lengths = WIZARD, **launch: Any) -> TrainingJob:
    model = Model(name="llama", source=HubSource(id="a/b"))
    cell = cell.model_copy(update={"model": model})
    return TrainingJob(cell, "x", "e", False, LLAMA, lengths, {}).on(machine, Launch(**launch))


def way(job: TrainingJob) -> tuple[bool, str]:
    assert job.cell.pruning is not None
    return job.settings.gradient_checkpointing, schedule_of(job.cell.pruning)


def test_activations_are_recomputed_where_memory_is_short() -> None:
    full = a_cell("full", **LORA)
    large, small = on(MACHINES["h100"], full), on(MACHINES["4090"], full)
    assert (way(large), way(small)) == ((False, "fresh"), (True, "fresh"))
    assert large.memory.total > small.memory.total
    assert large.work.training_flops * 3 == pytest.approx(small.work.training_flops * 2)
    assert way(on(MACHINES["h100"], a_cell("full", gradient_checkpointing=True, **LORA))) == (True, "fresh")
    for recompute, found in (("always", True), ("never", False)):
        assert [way(on(machine, full, recompute=recompute))[0] for machine in MACHINES.values()] == [found] * len(
            MACHINES
        )
    tiny = replace(MACHINES["4090"], memory=4 * GIB)
    assert way(on(tiny, full)) == (True, "fresh"), "nothing fits, so the smallest is tried"


def test_graphs_are_reused_where_that_fits_and_is_faster() -> None:
    """Long samples keep a GPU busy one by one. Short ones wait for launches on a fast GPU."""
    cell = a_cell(
        "q-tuning",
        0.5,
        0.5,
        {"scoring": {"schedule": "auto"}},
        gradient_checkpointing="auto",
        **LORA | {"batch_size": 4},
    )
    a100 = find_machine("a100")
    assert way(on(a100, cell, LONG)) == (False, "reuse-graph")
    assert way(on(replace(a100, memory=32 * GIB), cell, LONG))[0] is True
    assert way(on(find_machine("h100"), cell, WIZARD)) == (False, "fresh")
    fresh = a_cell(
        "q-tuning",
        0.5,
        0.5,
        {"scoring": {"schedule": "fresh"}},
        gradient_checkpointing="auto",
        **LORA | {"batch_size": 4},
    )
    best, plain = on(a100, cell, LONG), on(a100, fresh, LONG)
    seconds = [job.scoring_seconds(a100) + job.training_seconds(a100) for job in (best, plain)]
    assert seconds[0] < seconds[1] and best.memory.total > plain.memory.total


def test_the_graphs_of_an_update_are_shared_by_its_processes() -> None:
    """Of 32 batches, one GPU would hold the kept of 31 beside a whole one; each of eight those of 3."""
    cell = a_cell("q-tuning", 0.25, 0.5, {"scoring": {"schedule": "reuse-graph"}}, **LORA | {"update_samples": 256})
    even = Lengths(np.full(512, 500.0), np.full(512, 1500.0), 100.0, "tokens")
    held = [training_memory(cell, LLAMA, even, Place(count)).tokens / 2000 for count in (1, 8)]
    assert held == [8 + 31 * 2, 8 + 3 * 2]


def test_a_processor_never_reuses_graphs() -> None:
    cell = a_cell("q-tuning", 0.5, 0.5, {"scoring": {"schedule": "auto"}}, **LORA)
    machine = replace(MACHINES["cpu"], memory=1e15)
    assert way(on(machine, cell, LONG)) == (False, "fresh")
    assert way(on(replace(machine, memory=30 * GIB), cell, LONG)) == (True, "fresh")


def test_memory_of_slices_of_4_bits_and_of_8_bit_moments() -> None:
    full = a_cell("full", gradient_checkpointing=True, **FULL)
    alone, eight = (training_memory(full, LLAMA, WIZARD, Place(count, count > 1)) for count in (1, 8))
    assert alone.optimizer == 8 * LLAMA.parameters and eight.optimizer == LLAMA.parameters
    layer, ends = LLAMA.matmul / LLAMA.layers, LLAMA.parameters - LLAMA.matmul
    assert eight.weights == pytest.approx(4 * (LLAMA.parameters / 8 + 2 * layer + ends))
    assert eight.gradients == pytest.approx(4 * (LLAMA.parameters / 8 + layer))
    small = training_memory(a_cell("full", optimizer="adamw-8bit", **FULL), LLAMA, WIZARD)
    assert small.optimizer == pytest.approx(2 * LLAMA.parameters, rel=0.03)
    bits = training_memory(a_cell("full", quantization="nf4", **LORA), LLAMA, WIZARD)
    assert bits.weights < 0.35 * training_memory(a_cell("full", **LORA), LLAMA, WIZARD).weights
    twice = training_memory(a_cell("full", **FULL), LLAMA, WIZARD, Place(2))
    assert twice.gradients == 2 * training_memory(a_cell("full", **FULL), LLAMA, WIZARD).gradients, "DDP"


@pytest.mark.parametrize(
    ("name", "capability", "like"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "h100"),
        ("NVIDIA H200", (9, 0), "h100"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "4090"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "a100"),
        ("NVIDIA L4", (8, 9), "a100"),
        ("Tesla T4", (7, 5), "a100"),
    ],
)
def test_a_gpu_that_is_here(name: str, capability: tuple[int, int], like: str) -> None:
    found = machine_of_gpu(name, 40 * GIB, capability)
    assert found.memory == 40 * GIB and found.rate("bfloat16") == MACHINES[like].rate("bfloat16")
    assert found.attention("float32") == "expanded" and MACHINES["cpu"].attention("float32") == "fused"
    assert found.attention("bfloat16") == ("math" if capability < (8, 0) else "fused")


def test_the_plan_of_the_paper_scale_says_what_it_decides(configs: Path, experiment: Any, tmp_path: Path) -> None:
    """Most trainings of table 1 fit 80 GB without recomputing, which none of them would have tried before."""
    experiment("mine", training=LORA_OF_TABLES, models=["llama2-7b"], methods=["full", "q-tuning", "longest+random"])
    assumptions = read_assumptions(configs)
    grids = ConfigFolder(configs).expand(["mine"])
    for name, recomputing in (("h100", 0), ("4090", 9)):
        machine = find_machine(name)
        jobs = Jobs(grids, ResultPaths(tmp_path), assumptions, machine=machine)
        told = " ".join(list_assumptions(jobs, machine, assumptions))
        found = sum(job.settings.gradient_checkpointing for job in jobs.trainings.values())
        assert f"{found} of {len(jobs.trainings)} trainings recompute activations" in told
        assert found >= recomputing and (found == 0) == (recomputing == 0)
    assert set(jobs.trainings) == {job.identity for job in jobs.trainings.values()} == jobs.open


LORA_OF_TABLES = {"mixed_precision": "bf16", "update_samples": 256}
