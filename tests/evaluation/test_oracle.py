"""Gold answers through the real tasks and scorers give 1, wrong ones 0.

The language model is played by a class that knows the answers: what is tested is everything around it.
"""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from qtuning.evaluation.run import items_table, run_tasks, summarise_items
from qtuning.evaluation.tasks import load_tasks
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation


class Oracle(LM):
    """Answers every request rightly (or always wrongly)."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        answers = []
        for request in requests:
            choices = request.doc["choices"]
            gold = choices["label"].index(request.doc["answerKey"])
            chosen = gold if self.right else (gold + 1) % len(choices["label"])
            assert request.args[1] == " " + choices["text"][request.idx]
            # far apart: acc_norm divides by lengths
            answers.append((-0.001, True) if request.idx == chosen else (-1e6, False))
        return answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        texts = []
        for request in requests:
            text = f" {self._gold(request.doc)}" if self.right else " nothing at all"
            for stop in request.args[1]["until"]:  # as a real model is cut
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    @staticmethod
    def _gold(doc: dict[str, Any]) -> str:
        if "solution" in doc:
            return str(doc["solution"])
        if "answers" in doc:
            return str(doc["answers"]["text"][-1])
        return str(doc["answer"] if isinstance(doc["answer"], str) else doc["answer"]["aliases"][-1])


def scores(folder: Path, right: bool, **options: Any) -> dict[str, dict[str, Any]]:
    evaluation = Evaluation(benchmarks=options.pop("benchmarks", tuple(BENCHMARKS)), source="data-dir", **options)
    samples = run_tasks(Oracle(right), load_tasks(evaluation, folder), evaluation)
    items = items_table(samples)
    return {benchmark: summarise_items(benchmark, items) for benchmark in evaluation.benchmarks}


def test_gold_answers_score_one(data_dir: Path) -> None:
    for benchmark, result in scores(data_dir, right=True).items():
        assert result["items"] == 6
        assert result["metrics"][BENCHMARKS[benchmark].metric] == 1.0
        assert set(result["metrics"].values()) == {1.0}, benchmark


def test_wrong_answers_score_zero(data_dir: Path) -> None:
    for benchmark, result in scores(data_dir, right=False).items():
        assert set(result["metrics"].values()) == {0.0}, benchmark


def test_all_metrics_are_stored(data_dir: Path) -> None:
    names = {benchmark: set(result["metrics"]) for benchmark, result in scores(data_dir, right=True).items()}
    assert names == {
        "arc_easy": {"acc", "acc_norm"},
        "arc_challenge": {"acc", "acc_norm"},
        "gsm8k": {"exact_match,strict-match", "exact_match,flexible-extract"},
        "squad": {"f1", "exact_match"},
        "triviaqa": {"exact_match"},
        "math": {"exact_match", "math_verify"},
        "retention": {"acc", "acc_norm"},
    }


@pytest.mark.slow
@pytest.mark.skipif("QTUNING_DATA_DIR" not in os.environ, reason="QTUNING_DATA_DIR: folder of the real benchmarks")
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_gold_answers_of_all_real_items(benchmark: str) -> None:
    folder = Path(os.environ["QTUNING_DATA_DIR"])
    result = scores(folder, right=True, benchmarks=(benchmark,))[benchmark]
    print(benchmark, result["items"], result["metrics"])
    with gzip.open(folder / benchmark / f"{BENCHMARKS[benchmark].split}.jsonl.gz") as lines:
        assert result["items"] == sum(1 for _ in lines)
    for metric, value in result["metrics"].items():
        assert value >= (0.999 if metric == "math_verify" else 1.0), metric
