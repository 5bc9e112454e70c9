"""How the processes of a cell are started, and how machines find each other."""

import sys
from typing import Any

import pytest
from loops import MODEL, cell_of

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Model
from qtuning.train.launch import Launch, first_host, rendezvous

SLURM = {
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[01-08]",
    "SLURM_JOB_ID": "123456",
}


def of_size(parameters: int, tuning: str, **training: Any) -> Cell:
    model = Model.model_validate(MODEL | {"parameters": parameters})
    return cell_of("full", tuning=tuning, **training).model_copy(update={"model": model})


@pytest.mark.parametrize(
    ("parallel", "processes", "parameters", "tuning", "shards"),
    [
        ("auto", 8, 7_000_000_000, "full", True),
        ("auto", 8, 7_000_000_000, "lora", False),
        ("auto", 8, 1_700_000_000, "full", False),
        ("auto", 1, 7_000_000_000, "full", False),
        ("ddp", 8, 7_000_000_000, "full", False),
        ("fsdp", 8, 135_000_000, "lora", True),
    ],
)
def test_who_holds_slices(parallel: Any, processes: int, parameters: int, tuning: str, shards: bool) -> None:
    assert Launch(processes, parallel=parallel).shards(of_size(parameters, tuning)) is shards


def test_a_warm_up_that_keeps_its_epochs_is_whole() -> None:
    assert not Launch(8, parallel="fsdp").shards(of_size(10, "lora", each_epoch=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, "processes = 0: must be a whole number above 0"),
        ({"processes": "8"}, "processes = '8': must be a whole number above 0"),
        ({"processes": True}, "processes = True: must be a whole number above 0"),
        ({"processes": 8, "nodes": 3}, "processes = 8: nodes = 3 must divide it"),
        ({"parallel": "zero"}, "parallel = 'zero': must be one of auto, ddp, fsdp"),
    ],
)
def test_what_cannot_be_launched_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Launch(**settings)
    assert "\n" not in str(error.value)


def test_one_process_has_nothing_to_share() -> None:
    with pytest.raises(UserError, match=r"parallel = 'fsdp': .* processes = 1; ask for more"):
        Launch(1, parallel="fsdp")


def test_any_number_of_processes_is_launched_without_a_file() -> None:
    """With the same Python, on a free port, and with time to write a checkpoint after SIGTERM."""
    command = Launch(6).command(["--cell", "c.json"], {})
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-4:] == ["-m", "qtuning.train", "--cell", "c.json"]
    options = command[3:-4]
    assert options[options.index("--nproc-per-node") + 1] == "6" and "--standalone" in options
    assert int(options[options.index("--shutdown-timeout") + 1]) >= 300

    from torch.distributed.run import get_args_parser  # the launcher knows these options

    parsed = get_args_parser().parse_args(command[3:])
    assert parsed.training_script_args == ["--cell", "c.json"] and parsed.module and parsed.max_restarts == 0


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu[003-006,010],login1", "gpu003"),
        ("login1,gpu[003-006]", "login1"),
        ("gpu[7,9]", "gpu7"),
        ("rack[1-2]node[04-05].local,x", "rack1node04.local"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_nodes(listed: str, first: str) -> None:
    assert first_host(listed) == first


def test_machines_find_each_other_by_what_srun_sets() -> None:
    options = rendezvous(2, SLURM)
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        "--nnodes": "2",
        "--node-rank": "1",
        "--master-addr": "gpu07",
        "--master-port": "23456",
    }
    assert Launch(16, 2).command([], SLURM)[3:5] == ["--nproc-per-node", "8"]


def test_what_a_user_sets_goes_before_the_scheduler() -> None:
    mine = {"NODE_RANK": "0", "MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "4000"}
    assert rendezvous(3, SLURM | mine) == [
        *("--nnodes", "3", "--node-rank", "0", "--master-addr", "10.0.0.5", "--master-port", "4000")
    ]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "nodes = 2: NODE_RANK = None, MASTER_ADDR = None: must say"),
        ({"NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK = 2, MASTER_ADDR = a: must say which of 0 to 1"),
        ({"NODE_RANK": "1"}, "MASTER_ADDR = None"),
        (SLURM | {"SLURM_STEP_NUM_NODES": "1"}, "srun started this on 1; give srun --nodes 2"),
    ],
)
def test_machines_that_cannot_find_each_other_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        rendezvous(2, environment)
    assert "\n" not in str(error.value)


def test_what_cannot_be_cut_into_slices() -> None:
    for key, value in {"optimizer": "adamw-8bit", "quantization": "nf4", "compile": True}.items():
        cell = of_size(7_000_000_000, "lora" if key == "quantization" else "full", **{key: value})
        assert Launch(8).shards(cell) is False
        with pytest.raises(UserError, match=rf"^parallel = 'fsdp': not with training.{key} = .*; choose ddp$"):
            Launch(8, parallel="fsdp").shards(cell)
