"""The samples of an optimizer update stay the same on any number of processes; what does not divide is told."""

import pytest
from config_files import Configs
from hypothesis import given
from hypothesis import strategies as st

from qtuning.errors import UserError
from qtuning.experiment.cell import Evaluation, Training
from qtuning.experiment.ids import evaluation_id

EXPERIMENT = {
    "title": "E", "models": ["m"], "train_sets": ["t"], "methods": ["full", "q-tuning"], "budgets": ["25x50"],
    "seeds": [0], "evaluation": {"benchmarks": ["gsm8k"]},
}  # fmt: skip


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 4096))
def test_every_process_accumulates_its_share(size: int, processes: int, samples: int) -> None:
    training = Training(batch_size=size, update_samples=samples)
    whole = [steps for steps in range(1, samples + 1) if steps * size * processes == samples]
    if whole:
        assert [training.accumulation(processes)] == whole
        assert training.batches == whole[0] * processes
    else:
        with pytest.raises(UserError, match=r"^training\.update_samples = \d+: batch_size \d+.* must divide it"):
            training.accumulation(processes)


def test_the_papers_update_on_any_machine() -> None:
    paper = Training(update_samples=256)
    assert [paper.accumulation(gpus) for gpus in (1, 2, 4, 8)] == [32, 16, 8, 4]
    assert Training().batches == 1, "without the key, one batch"


def test_what_does_not_divide_is_one_line(configs: Configs) -> None:
    configs.write("experiments/e", EXPERIMENT | {"training": {"update_samples": 20}})
    (line,) = configs.complaints()
    assert line.endswith(
        "e.yaml: training.update_samples = 20: batch_size 8 must divide it, with an update of one batch or more for "
        "each process"
    )
    # a part of the settings is no problem by itself: what they are together counts
    configs.write("experiments/e", EXPERIMENT | {"training": {"update_samples": 20}, "trainings": [{"batch_size": 4}]})
    assert {cell.training.batches for cell in configs.expand("e").cells if cell.training} == {5}


def test_the_protocol_is_part_of_an_evaluation_but_in_the_mini_world(configs: Configs) -> None:
    def identity(source: str, protocol: str) -> str:
        return evaluation_id(
            Evaluation.model_validate({"benchmarks": ["gsm8k"], "source": source, "protocol": protocol})
        )

    assert identity("hub", "paper") != identity("hub", "standard")
    assert identity("mini-world", "paper") == identity("mini-world", "standard"), "it has one split to ask"
    configs.write("experiments/e", EXPERIMENT | {"evaluation": {"benchmarks": ["gsm8k"], "protocol": "papre"}})
    (line,) = configs.complaints()
    assert line.endswith("e.yaml: evaluation.protocol = 'papre': input should be 'standard' or 'paper'")
