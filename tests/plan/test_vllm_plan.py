"""The bill of evaluations under vLLM: one start an engine, no launches, marking off the GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qtuning.experiment.cell import Evaluation
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.bill import bill_of
from qtuning.plan.jobs import Jobs
from qtuning.plan.machines import find_machine
from qtuning.plan.shapes import shape_of_model
from qtuning.plan.work import BenchmarkWork, evaluation_work

H100 = find_machine("h100")
SETTINGS: dict[str, Any] = {"benchmarks": ["gsm8k", "math"], "batch_size": 16, "dtype": "bfloat16"}


def jobs_of(experiment: Callable[..., Path], configs: Path, tmp_path: Path, **changes: Any) -> Jobs:
    evaluation = SETTINGS | changes.pop("evaluation", {})
    experiment(
        "mine", **{"budgets": ["25x50"], "methods": ["full", "random+random"], "evaluation": evaluation} | changes
    )
    return Jobs(ConfigFolder(configs).expand(["mine"]), ResultPaths(tmp_path / "results"), read_assumptions(configs))


def test_an_engine_starts_once_for_all_adapters_of_a_model(
    experiment: Callable[..., Path], configs: Path, tmp_path: Path
) -> None:
    def starts(**changes: Any) -> tuple[int, int]:
        jobs = jobs_of(experiment, configs, tmp_path, **changes).evaluations.values()
        return sum(job.starts for job in jobs), len(jobs)

    vllm = {"evaluation": {"backend": "vllm"}}
    assert starts() == (6, 6)  # two models: the base model and two methods of each
    assert starts(**vllm) == (2, 6)
    assert starts(**vllm, training={"tuning": "full"}) == (6, 6)


def test_tokens_a_second_are_those_that_were_published() -> None:
    """Of models of 7 to 8B on one GPU, prompts: some 25,000 a second on an H100. Generated: 5,500 were measured on an
    A100 (TensorRT-LLM issue 2648), 7,500 with prompts on an older vLLM (vLLM pull request 5046)."""
    model = ConfigFolder(Path(__file__).parents[2] / "configs").expand(["table1"])[0].cells[0].model
    shape = shape_of_model(model, Path("not made ready"))

    def seconds(**changes: Any) -> float:
        work = {"items": 1000, "choices": None, "answers": 0, "prompt_tokens": 200.0, "answer_tokens": 100.0}
        work |= {"batch_size": 256, "steps": 0.0, "most_steps": 256, "item_seconds": 1.0}
        return BenchmarkWork("gsm8k", **work | changes).vllm_seconds(shape, H100, "bfloat16")

    assert 1000 * 200 / seconds() == pytest.approx(25_000, rel=0.25)
    assert 5_000 < 1000 * 200 / (seconds(steps=200.0) - seconds()) < 11_000
    # each answer with its prompt before it
    scored = seconds(answers=4) - seconds()
    assert 1000 * 4 * 300 / scored == pytest.approx(25_000, rel=0.25)


def test_vllm_takes_an_eighth_of_the_hours_and_marks_on_a_cpu(
    experiment: Callable[..., Path], configs: Path, tmp_path: Path
) -> None:
    hours = {}
    for backend in ("hf", "vllm"):
        settings = {"backend": backend, "likelihoods": False}
        hours[backend] = bill_of(jobs_of(experiment, configs, tmp_path, evaluation=settings), H100, 1, None).total
    assert hours["vllm"].evaluation < hours["hf"].evaluation / 8
    assert hours["vllm"].training == hours["hf"].training
    bill = bill_of(jobs_of(experiment, configs, tmp_path, evaluation={"likelihoods": False}), H100, 1, None)
    if bill.dominates.startswith("Evaluation"):
        assert "evaluation.backend: vllm would take" in bill.dominates
    evaluation = Evaluation(**SETTINGS | {"backend": "vllm"})
    shape = next(iter(jobs_of(experiment, configs, tmp_path).evaluations.values())).shape
    (_, math) = evaluation_work(evaluation, read_assumptions(configs))
    assert math.item_seconds > 0
    slower = type(math)(**vars(math) | {"item_seconds": 99.0})
    assert slower.vllm_seconds(shape, H100, "bfloat16") == math.vllm_seconds(shape, H100, "bfloat16")
