"""Fetched first, then no job asks the hub: the rules, and an experiment whose every part comes from a hub."""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_files as samples
import pytest
import yaml
from hub_server import TOKEN, Hub, serve
from test_workflow import checkout, jobs

from qtuning.data.sources import MINI_WORLD
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.files import read_json
from qtuning.hub.offline import JOBS, VARIABLES
from qtuning.workflow.hub import HubInputs
from qtuning.workflow.inputs import load_inputs

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "qtuning/assets/mini"
EXPERIMENT = """
title: All of it from a hub
models: [fetched]
train_sets: [fetched]
methods: [random+random]
budgets: [25x50]
seeds: [0]
limit_train: 16
training: {tuning: full, epochs: 1, batch_size: 8, learning_rate: 5.0e-4, cutoff: 256}
evaluation: {benchmarks: [gsm8k, squad], source: hub, batch_size: 8, max_length: 256, limit: 2, fewshot: 0}
"""


def test_every_command_of_the_rules_is_kept_offline_but_the_one_that_fetches() -> None:
    text = "".join(path.read_text() for path in REPOSITORY.glob("workflow/rules/*.smk"))
    commands = set(re.findall(r"qtuning ([\w-]+) \{", text))
    # contamination, which users type too, fetches what it lacks; the others read results alone
    assert commands - JOBS == {"prefetch", "contamination", "tables", "collect", "instrument", "figures"}
    assert commands > JOBS


def test_jobs_are_offline_before_any_library_is_imported(tmp_path: Path) -> None:
    """In the process that a rule starts, as in all that it starts: a warm server, `accelerate launch`."""
    program = (
        "import os, sys; import qtuning.cli.app as app; import qtuning.__main__ as main\n"
        "hub = {'huggingface_hub', 'datasets', 'transformers'}.intersection(sys.modules)\n"
        "app.main = lambda: print(hub, [os.environ.get(name) for name in sys.argv.pop().split(',')])\n"
        "main.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    for command, expected in (("evaluate", "1"), ("prefetch", None)):
        printed = subprocess.run(
            [sys.executable, "-c", program, command, ",".join(VARIABLES)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout
        assert printed == f"set() {[expected] * 3}\n"


def test_jobs_wait_for_what_they_read_of_the_hub(tmp_path: Path) -> None:
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "configs/config.yaml").read_text())
    inputs = load_inputs(config | {"warm": False, "results": str(tmp_path)}, REPOSITORY / "configs")
    hub = HubInputs(inputs)

    def names(paths: list[Path]) -> list[str]:
        assert all(path.parent == tmp_path / "hub" and path.suffix == ".fetched" for path in paths)
        return [path.stem.rpartition("-")[0] for path in paths]

    cell = next(cell for cell in inputs.grid("table1").cells if cell.training is not None)
    model, pair = inputs.paths.model(cell).name, inputs.paths.samples(cell).name
    assert names(hub.of_model(model)) == [f"hub-model-{cell.model.source.id.replace('/', '.').lower()}"]
    assert names(hub.of_train_set(pair)) == ["hub-dataset-wizardlmteam.wizardlm_evol_instruct_70k"]
    evaluation = inputs.paths.evaluation(cell, inputs.grid("table1").evaluation).name
    benchmarks = names(hub.of_evaluation(evaluation))
    ids = ("allenai.ai2_arc", "mandarjoshi.trivia_qa", "openai.gsm8k", "rajpurkar.squad")
    assert sorted(set(benchmarks)) == [f"hub-dataset-{name}" for name in ids]
    (report,) = inputs.overlaps("table1")
    assert sorted(names(hub.of_check(report.stem))) == sorted([*names(hub.of_train_set(pair)), *benchmarks])
    measured = next(name for name, each in inputs.measurements.items() if each.influence.source == "hub")
    targets = {BENCHMARKS[name].hub_id for name in inputs.measurements[measured].influence.targets}
    assert len(set(names(hub.of_measurement(measured)))) == len(targets)
    mini = inputs.grid("mini").cells[-1]
    assert hub.of_model(inputs.paths.model(mini).name) == hub.of_train_set(inputs.paths.samples(mini).name) == []
    hub.check_access(["mini", "results/tables/mini.md", "all"])  # asks no hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A gated copy of the shipped model, rows of the mini world, and two benchmarks."""
    found = Hub()
    model: dict[str, bytes | str] = {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()}
    found.add("model", "owner/mini", model, gated=True)
    rows = gzip.decompress((MINI_WORLD / "sft/train_0.jsonl.gz").read_bytes())
    found.add("dataset", "owner/rows", {"train.jsonl": rows})
    samples.publish(found, "gsm8k", {"main": {"train": samples.gsm8k(4), "test": samples.gsm8k(4, 10)}})
    samples.publish(found, "squad", {"plain_text": {"train": samples.squad(4), "validation": samples.squad(4, 10)}})
    server = serve(found)
    yield found
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_an_experiment_of_which_everything_is_on_a_hub(hub: Hub, tmp_path: Path) -> None:
    """Refused while the model is gated; fetched; then run to its table without one more request."""
    folder = checkout(tmp_path / "checkout")
    configs = {
        "models/fetched": "source: {kind: hub, id: owner/mini}\ntemplate: plain\nparameters: 1_516_960\n",
        "train_sets/fetched": "source: {kind: hub, id: owner/rows}\n",
        "experiments/hubbed": EXPERIMENT,
    }
    for name, text in configs.items():
        (folder / "configs" / f"{name}.yaml").write_text(text)
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}

    def snakemake(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "hubbed", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment | more)

    planned = snakemake("--dry-run")
    assert jobs(planned.stdout)["prefetch"] == 4, planned.stderr
    assert hub.requests == [], "a plan asks nobody"
    refused = snakemake()
    assert refused.returncode != 0
    accept = "accept its licence at https://huggingface.co/owner/mini and log in with `hf auth login`"
    _, *said = refused.stderr.splitlines()  # the first line names a profile of Snakemake
    assert said == [f"error: model owner/mini is gated; {accept}"]
    assert not (folder / "results").exists()

    fetched = snakemake("--until", "prefetch", HF_TOKEN=TOKEN)
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    assert "Fetching 1 files: 100%" in fetched.stderr, "progress is on the terminal"
    assert len(list((folder / "results/hub").glob("*.fetched"))) == 4
    assert not (folder / "results/models").exists()
    number = len(hub.requests)
    run = snakemake()  # nobody is logged in any more
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("results/logs/**/*.log"))
    assert run.returncode == 0, run.stdout + run.stderr + logs
    assert hub.requests[number:] == []
    assert "Nothing to be done" in snakemake().stderr
    assert hub.requests[number:] == []

    commits = {id: repo.refs["main"] for (_, id), repo in hub.repos.items()}
    (trained,) = (folder / "results/cells").glob("*/train.json")
    inputs = read_json(trained)["inputs"]
    assert inputs["model_revision"] == commits["owner/mini"]
    assert inputs["train_set_revision"] == commits["owner/rows"]
    for path in (folder / "results/cells").glob("*/evaluation-*/scores.json"):
        benchmarks = read_json(path)["benchmarks"]
        for name in ("gsm8k", "squad"):
            id, revision = BENCHMARKS[name].hub_id, BENCHMARKS[name].revision
            assert benchmarks[name]["data_set"] == {"id": id, "revision": revision, "commit": revision}
    text = (folder / "results/tables/hubbed.md").read_text()
    assert f"model owner/mini {commits['owner/mini'][:12]}" in text
    assert f"data set openai/gsm8k {BENCHMARKS['gsm8k'].revision[:12]}" in text
    assert "Unpinned, so another fetch may give other files: data set owner/rows (main was" in text
