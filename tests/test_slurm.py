"""`profiles/slurm` on a real Slurm of one node: a table, a lost node, what jobs ask for, locks between nodes.

`make test-slurm` runs it; CI installs what it needs (.ci/run).
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import Cluster, cluster, end_with_parent, missing
from test_workflow import MICRO, snakemake, table
from test_workflow import checkout as whole_checkout

from qtuning.holders import current

LACKING = missing() + ["the plugin"] * (importlib.util.find_spec("snakemake_executor_plugin_slurm") is None)
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (apt-get install slurm-wlm munge; make slurm)"
    ),
]
# Only a test wants answers every second, and has no accounting database.
IMPATIENT = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
OPTIONS = ["--profile", "profiles/slurm", "--slurm-status-command", "squeue", "--slurm-no-account", *IMPATIENT]


def checkout(folder: Path) -> Path:
    """With the micro experiment alone, since every job reads all experiments, and long enough to be stopped halfway."""
    whole_checkout(folder)
    for path in (folder / "configs/experiments").iterdir():
        if path.stem != "micro":
            path.unlink()
    micro = folder / "configs/experiments/micro.yaml"
    micro.write_text(MICRO.replace("epochs: 1,", "epochs: 20,"))
    return folder


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="qtuning-slurm-") as folder, cluster(Path(folder), cores=8) as running:
        yield running


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro experiment, run on this machine without Slurm."""
    folder = checkout(tmp_path_factory.mktemp("here"))
    snakemake(folder)
    return folder


def submit(slurm: Cluster, folder: Path, *arguments: str, target: str = "micro") -> "subprocess.Popen[str]":
    """Start `snakemake` as a user of the cluster, on a login node that says that it has a GPU."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *OPTIONS, target, *arguments],
        cwd=folder,
        env={**slurm.environment, "CUDA_VISIBLE_DEVICES": "7", "QTUNING_WARM": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    )


def finish(running: "subprocess.Popen[str]", folder: Path) -> str:
    try:
        printed, _ = running.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        running.kill()
        printed, _ = running.communicate()
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("results/logs/**/*.log"))
    assert running.returncode == 0, f"{printed}\n{logs}"
    return printed


def wait(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)


def queue(slurm: Cluster) -> list[dict[str, str]]:
    """What Slurm knows of every job, ended ones among them."""
    lines = slurm.ask("scontrol", "show", "job", "--oneliner").splitlines()
    jobs = [dict(re.findall(r"([A-Za-z]+)=(\S+)", line)) for line in lines]
    return [job for job in jobs if "JobId" in job]


def test_micro_experiment_to_its_table(slurm: Cluster, here: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    printed = finish(submit(slurm, folder), folder)
    assert table(folder) == table(here)
    jobs = queue(slurm)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert not any("TresPerJob" in job for job in jobs), "a model that the package ships takes no GPU"
    # base model, train set, overlap; the zero-shot evaluation; three trainings with their evaluations
    assert len(jobs) == 5, printed
    trained = "\n".join(path.read_text() for path in folder.glob("results/logs/train/*.log"))
    assert trained.count("on cpu") == 3


def test_a_job_that_is_lost_with_its_node_goes_on(slurm: Cluster, here: Path, tmp_path: Path) -> None:
    """Slurm queues it again after two minutes, and training goes on from its checkpoint to the same table."""
    folder = checkout(tmp_path)
    running = submit(slurm, folder, "--config", "checkpoint_seconds=0.1")
    wait(lambda: list(folder.glob("results/state/*/checkpoint-*")), "a training has a checkpoint", 300)
    slurm.kill_node()
    slurm.wait_until_down()
    slurm.start_node()
    lost = [job["JobId"] for job in queue(slurm) if job["JobState"] == "PENDING"]
    assert len(lost) in (1, 2), queue(slurm)  # the zero-shot evaluation may have been at work beside the training
    finish(running, folder)
    assert table(folder) == table(here)
    trained = "\n".join(path.read_text() for path in folder.glob("results/logs/train/*.log"))
    assert "resumed             at update" in trained


def test_what_a_training_on_a_gpu_asks_for(slurm: Cluster, tmp_path: Path) -> None:
    """As many GPUs as the cell has processes, memory and time of the plan; the environment names no device."""
    folder = checkout(tmp_path)
    mini = Path(__file__).parents[1] / "qtuning/assets/mini"
    (folder / "configs/models/own.yaml").write_text(f"source: {{kind: hub, id: {mini}}}\nparameters: 1_500_000\n")
    micro = MICRO.replace("models: [mini]", "models: [own]").replace(
        "batch_size: 8, l", "batch_size: 4, update_samples: 8, l"
    )
    (folder / "configs/experiments/own.yaml").write_text(re.sub("methods: .*", "methods: [full]", micro))
    snakemake(folder, "--until", "prepare", "--config", "processes=2", target="own")
    before = {job["JobId"] for job in queue(slurm)}
    slurm.ask("scontrol", "update", "partitionname=main", "state=down")
    running = submit(slurm, folder, "--config", "processes=2", "time_limit=7", target="own")

    def asked() -> list[dict[str, str]]:
        return [job for job in queue(slurm) if job["JobId"] not in before and "train" in job["Comment"]]

    try:
        wait(lambda: asked() or running.poll() is not None, "the training is submitted", 300)
        (job,) = asked()
        (submitted,) = slurm.folder.glob(f"state/hash.*/job.{job['JobId']}/environment")
        inherited = submitted.read_bytes()
    finally:
        running.kill()  # asked to stop, it would wait for its jobs
        print(running.communicate()[0])
        slurm.ask("scancel", "--state=PENDING")
        slurm.ask("scontrol", "update", "partitionname=main", "state=up")
    assert job["TresPerJob"] == "gres:gpu:2"
    assert job["TimeLimit"] == "00:07:00"
    assert job["Requeue"] == "1"
    amount, unit = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"]).groups()
    gigabytes = float(amount) / {"G": 1, "M": 1024}[unit]
    assert 12 < gigabytes < 14, "6 GiB and a small model for each of two processes"
    assert b"PATH=" in inherited
    assert b"CUDA_VISIBLE_DEVICES" not in inherited and b"QTUNING_WARM" not in inherited


def test_a_lock_reaches_other_nodes(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's lock does not: the Slurm job that a lock file names is asked for."""
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    number = slurm.ask("sbatch", "--parsable", "-o", "/dev/null", "-D", str(tmp_path), "--wrap", "sleep 60")
    wait(lambda: slurm.ask("squeue", "-h", "-j", number, "-o", "%T") == "RUNNING", "the job runs")
    other = replace(current(), host="another-node", slurm=number)
    assert other.runs() is True
    monkeypatch.setenv("SLURM_JOB_ID", number)
    assert other.runs() is False, "our own job, started again"
    monkeypatch.delenv("SLURM_JOB_ID")
    slurm.ask("scancel", number)
    wait(lambda: other.runs() is False, "it is known that the job has ended")
    assert replace(other, slurm="999999").runs() is False
    monkeypatch.setenv("PATH", os.devnull)
    assert other.runs() is None
