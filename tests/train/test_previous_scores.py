"""The need `previous-scores`: each sample's scores one epoch ago, against what the trace says of that epoch."""

import math
from typing import Any

import asking_pruners
import pytest
from loops import Run, cell_of, run

from qtuning.data.samples import Sample
from qtuning.experiment.lookup import find_pruner
from qtuning.pruners.base import Candidates

EPOCHS = {"epochs": 3}


def trained(method: str, model: Any, samples: list[Sample], **options: Any) -> tuple[Run, list[Candidates]]:
    asking_pruners.TOLD.clear()
    result = run(cell_of(method, (0.5, 0.5), options=options, **EPOCHS), model, samples)
    return result, list(asking_pruners.TOLD)


def scored(result: Run) -> dict[tuple[int, int], tuple[float, float]]:
    """(epoch, sample) -> its scores in the trace."""
    return {(row[1], row[2]): (row[3], row[4]) for row in result.trace}


def told_pairs(told: list[Candidates]) -> dict[tuple[int, int], tuple[float, float]]:
    """(epoch, sample) -> what a pruner was told of the epoch before."""
    pairs: dict[tuple[int, int], tuple[float, float]] = {}
    for candidates in told:
        assert candidates.previous is not None
        scores = zip(candidates.previous.ppl.tolist(), candidates.previous.ent.tolist(), strict=True)
        pairs |= {(candidates.epoch, n): pair for n, pair in zip(candidates.numbers.tolist(), scores, strict=True)}
    return pairs


@pytest.mark.parametrize("schedule", ["fresh", "reuse-graph", "pool"])
def test_by_batch_all_samples_have_those_of_their_last_batch(
    tiny_llama: Any, samples: list[Sample], schedule: str
) -> None:
    scoring = {"schedule": schedule} | ({"batches": 2} if schedule == "pool" else {})
    result, told = trained("asking_pruners:relieved+none", tiny_llama, samples, scoring=scoring)
    pairs, trace = told_pairs(told), scored(result)
    assert len(pairs) == len(trace) == 3 * len(samples), "dropped samples as well"
    for (epoch, sample), pair in pairs.items():
        assert all(map(math.isnan, pair)) if epoch == 0 else pair == trace[epoch - 1, sample]
    assert any(pairs[2, sample.number] != pairs[1, sample.number] for sample in samples)


def test_by_epoch_all_samples_have_those_of_the_last_draw(tiny_llama: Any, samples: list[Sample]) -> None:
    _, told = trained("asking_pruners:relieved_set+none", tiny_llama, samples)
    assert [candidates.epoch for candidates in told] == [0, 1, 2], "scores are known, so no other seeds are tried"
    draws = {candidates.epoch: candidates for candidates in told}
    for epoch in (1, 2):
        before, previous = draws[epoch - 1].scores, draws[epoch].previous
        assert before is not None and previous is not None
        assert previous.ppl.tolist() == before.ppl.tolist() and previous.ent.tolist() == before.ent.tolist()


@pytest.mark.parametrize("sample_pruner", ["random", "random-once", "entropy"])
def test_of_a_token_pruner_also_samples_that_are_not_drawn_are_known(
    tiny_llama: Any, samples: list[Sample], sample_pruner: str
) -> None:
    result, told = trained(f"{sample_pruner}+asking_pruners:of_relieved", tiny_llama, samples)
    pairs, trace = told_pairs(told), scored(result)
    assert {epoch for epoch, _ in pairs} == {0, 1, 2}
    new = 0
    for (epoch, sample), pair in pairs.items():
        assert all(math.isnan(value) == (epoch == 0) for value in pair)
        row = next((row for row in result.trace if row[1:3] == (epoch - 1, sample)), None)
        if row is not None and not row[6]:  # not drawn in the epoch before, so scored for its draw alone
            assert pair == trace[epoch - 1, sample]
            new += 1
    assert new > 0 or sample_pruner == "random-once"


def test_the_need_is_declared_with_scores_and_not_before_training() -> None:
    assert find_pruner("asking_pruners:relieved", "sample").needs == {"scores", "previous-scores"}
