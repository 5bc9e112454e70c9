"""The bill of experiments: counts, what is paid once, what is done, refusals, the command."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke

from qtuning.errors import UserError
from qtuning.evaluation.tasks import DEFAULT_NEW_TOKENS, TASKS
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id, evaluation_id
from qtuning.files import write_json
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.bill import Bill, bill_of
from qtuning.plan.effect import effects_of
from qtuning.plan.fits import list_too_large
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import MACHINES

ITEMS = 2376 + 1172 + 1319 + 10_570 + 17_944
CELLS = 1 + 2 * (1 + 2 * 4)  # of mini: zero-shot; at two seeds full data, and four methods at two budgets


def jobs(configs: Path, results: Path, *names: str) -> Jobs:
    return Jobs(ConfigFolder(configs).expand(names), ResultPaths(results), read_assumptions(configs))


def bill(configs: Path, results: Path, *names: str, gpu: str = "h100") -> Bill:
    return bill_of(jobs(configs, results, *names), MACHINES[gpu], 1, None)


def test_table_1_is_counted_and_paid_once(configs: Path, experiment: Callable[..., Path], tmp_path: Path) -> None:
    experiment("big")
    experiment("part", methods=["q-tuning", "full"], budgets=["25x50"], zero_shot=False)
    found = bill(configs, tmp_path, "big", "part")
    big, part = found.rows
    # 2 models x (6 budgets x 17 methods + full) trainings; SparseVLM sets its amount itself in no method here
    assert (big.cells, big.trainings, big.evaluations, big.shared) == (208, 206, 208, 0)
    assert (part.cells, part.shared, part.trainings, part.evaluations, part.hours.total) == (4, 4, 0, 0, 0)
    assert (found.cells, found.done) == (208, 0)
    assert found.items == 208 * ITEMS
    assert found.likelihoods == 208 * 4 * (2376 + 1172 + 1319 + 10_570 + 17_944)
    assert found.generations == 208 * (1319 + 10_570 + 17_944)
    assert found.generated[1] == 208 * (1319 * 256 + 10_570 * 64 + 17_944 * 32)
    alone = bill(configs, tmp_path, "big")
    assert alone.total == found.total


def test_the_papers_protocol_asks_its_items(configs: Path, experiment: Callable[..., Path], tmp_path: Path) -> None:
    benchmarks = {"benchmarks": ["arc_easy", "arc_challenge", "gsm8k"]}
    one = {"methods": ["full"], "models": ["qwen3-8b"], "train_sets": ["openhermes"], "zero_shot": False}
    experiment("paper", evaluation=benchmarks | {"protocol": "paper"}, **one)
    experiment("standard", evaluation=benchmarks, **one)
    items = [bill(configs, tmp_path, name).items for name in ("paper", "standard")]
    assert items == [567 + 295 + 1319, 2376 + 1172 + 1319]
    found = bill(configs, tmp_path, "paper", "standard")
    assert [(row.trainings, row.evaluations, row.shared) for row in found.rows] == [(1, 1, 0), (0, 1, 1)]


def test_the_bill_of_the_papers_large_tables(configs: Path, tmp_path: Path) -> None:
    """It must come in 15 seconds of the processor at most; on two busy cores it took 4."""
    names = ("table1", "table2", "table8", "table9", "table10", "table11", "table12")
    started = time.process_time()
    found = bill(configs, tmp_path, *names)
    assert time.process_time() - started < 15
    trainings = {row.experiment: row.trainings for row in found.rows}
    # full data, and the models themselves, are paid in the first table that has them
    assert trainings == dict(zip(names, (36, 54, 70 - 2, 104 - 2, 52, 52 - 1, 105 - 3), strict=True))
    assert sum(row.cells for row in found.rows) == 36 + 54 + 70 + 104 + 52 + 52 + 105 + 2 + 3 + 2 + 2 + 1 + 1 + 3
    assert not list_too_large(jobs(configs, tmp_path, *names), MACHINES["h100"])


def test_references_are_paid_and_are_no_cells_of_a_table(configs: Path, tmp_path: Path) -> None:
    found = bill(configs, tmp_path, "table5")
    assert (found.cells, found.done) == (4, 0)
    assert [(row.trainings, row.references) for row in found.rows] == [(4, 1)]


def test_a_different_evaluation_of_a_shared_cell_is_paid(
    configs: Path, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    experiment("one", methods=["full"], models=["mistral-7b"])
    experiment("two", methods=["full"], models=["mistral-7b"], evaluation={"benchmarks": ["math"]})
    found = bill(configs, tmp_path, "one", "two")
    assert [(row.trainings, row.evaluations, row.shared) for row in found.rows] == [(1, 2, 0), (0, 2, 2)]
    assert found.cells == 2


def test_what_is_done_is_not_paid(configs: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    (grid,) = ConfigFolder(configs).expand(["mini"])
    assert grid.evaluation is not None
    before = bill(configs, results, "mini", gpu="cpu")
    trained = [cell for cell in grid.cells if not cell.zero_shot]
    scores = f"{evaluation_id(grid.evaluation)}/scores.json"
    write_json(results / "cells" / cell_id(grid.cells[0]) / scores, {})  # zero-shot
    write_json(results / "cells" / cell_id(trained[0]) / "train.json", {})  # trained, its weights still here
    (results / "cells" / cell_id(trained[0]) / "weights").mkdir()
    write_json(results / "cells" / cell_id(trained[1]) / "train.json", {})  # both, weights gone
    write_json(results / "cells" / cell_id(trained[1]) / scores, {})
    write_json(
        results / "cells" / cell_id(trained[2]) / "train.json", {}
    )  # trained, weights gone, not evaluated: again
    after = bill(configs, results, "mini", gpu="cpu")
    (row,) = after.rows
    assert (row.cells, row.done, row.trainings, row.evaluations) == (CELLS, 2, CELLS - 1 - 2, CELLS - 2)
    assert after.done == 2
    assert 0 < after.total.total < before.total.total


def test_an_experiment_without_evaluation_is_trained_only(configs: Path, tmp_path: Path) -> None:
    (grid,) = ConfigFolder(configs).expand(["mini"])
    bare = replace(grid, experiment=grid.experiment.model_copy(update={"evaluation": None}))
    assumptions = read_assumptions(configs)
    found = bill_of(Jobs([bare], ResultPaths(tmp_path), assumptions), MACHINES["cpu"], 1, None)
    (row,) = found.rows
    assert (row.cells, row.done, row.trainings, row.evaluations) == (CELLS, 1, CELLS - 1, 0)  # zero-shot asks nothing
    assert found.total.evaluation == found.items == 0 < found.total.training
    assert effects_of([bare], tmp_path, assumptions) == []


def test_hours_add_up_and_follow_the_machine(configs: Path, experiment: Callable[..., Path], tmp_path: Path) -> None:
    experiment("big", models=["mistral-7b"])
    slow, fast = (bill(configs, tmp_path, "big", gpu=gpu) for gpu in ("a100", "h100"))
    assert sum(row.hours.total for row in fast.rows) == pytest.approx(fast.total.total)
    assert sum(row.hours.total for row in fast.models) == pytest.approx(fast.total.total)
    assert slow.total.training > 1.5 * fast.total.training and slow.flops == fast.flops
    # never faster than the peak
    assert fast.total.training * 3600 > fast.flops["training"] / 989e12


def test_what_cannot_fit_is_refused_with_the_key_that_helps(
    configs: Path, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    experiment("huge", training={"tuning": "full", "dtype": "float32"}, methods=["full"], models=["mistral-7b"])
    line, *others = list_too_large(jobs(configs, tmp_path, "huge"), MACHINES["h100"])
    assert not others
    assert "huge: training mistral-7b-wizardlm-full-" in line and "NVIDIA H100 SXM, 80 GB has" in line
    assert "training.tuning: lora" in line or "training.tuning: lora with gradient_checkpointing" in line
    need = int(line.split(" needs ")[1].split(" GiB")[0])
    assert need > 7.2 * 16 / 1.074  # 16 bytes a parameter
    experiment("fits", methods=["full"], models=["smollm2-135m"])
    assert not list_too_large(jobs(configs, tmp_path, "fits"), MACHINES["h100"])
    small = list_too_large(jobs(configs, tmp_path, "huge"), MACHINES["4090"])
    assert any("evaluating" in line and "evaluation.dtype: bfloat16" in line for line in small)


@pytest.fixture
def run(configs: Path, tmp_path: Path) -> Callable[..., Any]:
    options = ["--configs", configs, "--results", tmp_path / "results"]
    return lambda *arguments: invoke("plan", *arguments, *options)


def test_the_command_prints_a_bill_of_100_columns(run: Callable[..., Any], experiment: Callable[..., Path]) -> None:
    experiment("big")
    result = run("big", "mini", "--gpu", "h100", "--devices", "8", "--usd-per-gpu-hour", "2.5")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100 and "…" not in result.output
    for expected in (
        f"{208 + CELLS} cells",
        "USD",
        "Mistral-7B",
        "fits",
        "% of the hours",
        "8 at a time",
        "big: one seed",
        "mini: differences",
        "no finished",
    ):
        assert expected in result.output


def test_the_command_refuses_after_the_bill(run: Callable[..., Any], experiment: Callable[..., Path]) -> None:
    experiment("huge", training={"tuning": "full"}, methods=["full"], models=["mistral-7b"])
    result = run("huge")
    assert isinstance(result.exception, UserError) and "TOO LARGE" in result.output
    with_json = run("huge", "--json")
    content = json.loads(with_json.output)
    assert isinstance(with_json.exception, UserError) and str(with_json.exception) == "\n".join(content["too_large"])


def test_json_holds_the_bill(run: Callable[..., Any]) -> None:
    result = run("mini", "--json", "--gpu", "cpu", "--usd-per-gpu-hour", "1")
    assert result.exit_code == 0, result.output
    content = json.loads(result.output)
    assert content["cells"] == CELLS and content["rows"][0]["trainings"] == CELLS - 1
    assert content["total"]["training"] > 0 and content["effects"][0]["seeds"] == 2
    assert content["check"]["flops"] is None


def test_unknown_names_are_refused_with_a_hint(run: Callable[..., Any]) -> None:
    assert "did you mean h100?" in str(run("mini", "--gpu", "h10").exception)
    assert "did you mean mini?" in str(run("mimi").exception)


def test_assumptions_are_checked(configs: Path, tmp_path: Path, experiment: Callable[..., Path]) -> None:
    path = configs / "planning.yaml"
    path.write_text(path.read_text().replace("rows: 70_000", "rows: none"))
    with pytest.raises(UserError, match=r"planning.yaml: train_sets.wizardlm.rows = 'none'"):
        read_assumptions(configs)
    path.write_text("train_sets: {}\nbenchmarks: {}\neffect: {seed_sd: {}, correlation: 0.5}\n")
    with pytest.raises(UserError, match=r"benchmarks.mini-world.arc_easy: required"):
        jobs(configs, tmp_path, "mini")


def test_a_file_that_is_here_is_read(
    configs: Path, experiment: Callable[..., Path], tmp_path: Path, run: Callable[..., Any]
) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"instruction": "i" * 42, "output": "o" * (21 * number)} for number in range(1, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"instruction": "no answer"}]))
    (configs / "train_sets/mine.yaml").write_text(f"source: {{kind: path, file: {path}}}\n")
    experiment("own", train_sets=["mine"], methods=["full"], models=["smollm2-135m"])
    (training,) = jobs(configs, tmp_path / "results", "own").trainings.values()
    assert training.lengths.rows == 4 and training.lengths.basis == "characters"
    assert training.lengths.prompts.tolist() == [10 + 40] * 4, "42 characters, 4.2 a token, and the template"
    assert training.lengths.responses.tolist() == [5 + 1, 10 + 1, 15 + 1, 20 + 1], "and the end of the text"
    assert "mine: 4 rows of its file" in run("own").output
    experiment("own", train_sets=["mine"], methods=["full"], models=["smollm2-135m"], limit_train=2)
    (training,) = jobs(configs, tmp_path / "results", "own").trainings.values()
    assert training.lengths.rows == 2
    path.unlink()
    assert f"{path}: no such file" in str(run("own").exception)


def test_no_bfloat16_is_advised_on_a_processor(run: Callable[..., Any], experiment: Callable[..., Path]) -> None:
    evaluation = {"benchmarks": ["math"], "dtype": "float32"}
    experiment("exact", methods=["full"], models=["llama2-7b"], evaluation=evaluation, limit_train=50)
    advice = re.compile(r"evaluation.dtype:\s+bfloat16")
    assert advice.search(run("exact", "--gpu", "h100").output)
    assert not advice.search(run("exact", "--gpu", "cpu").output)


def test_every_shipped_train_set_has_an_estimate_of_its_own(configs: Path) -> None:
    assumptions = read_assumptions(configs)
    for path in (configs / "train_sets").glob("*.yaml"):
        assert path.stem in assumptions.train_sets, f"{path.stem}: would be planned as `default`"


def test_limits_of_generations_are_those_of_the_tasks(configs: Path) -> None:
    public = read_assumptions(configs).benchmarks["public"]
    for name in ("squad", "triviaqa", "math"):
        found = re.search(r"max_gen_toks: (\d+)", (TASKS / f"{name}.yaml").read_text())
        assert found is not None and public[name].new_tokens == int(found[1])
    assert public["gsm8k"].new_tokens == DEFAULT_NEW_TOKENS


def test_the_command_does_without_torch(configs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from qtuning.cli.look import plan; from pathlib import Path; "
        f"plan(['mini'], 'h100', 1, None, True, Path({str(configs)!r}), Path({str(tmp_path)!r}), None); "
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
