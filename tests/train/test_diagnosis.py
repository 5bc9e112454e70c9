"""What a run is warned about: each thing once, with its number."""

from typing import Any

import pytest

from qtuning.experiment.schema import Pruning
from qtuning.train.journal import Diagnosis


def diagnosis(sample_ratio: float = 0.25, token_ratio: float = 0.5) -> Diagnosis:
    pruning = Pruning(
        sample_pruner="q-tuning", token_pruner="q-tuning", sample_ratio=sample_ratio, token_ratio=token_ratio
    )
    return Diagnosis(pruning, samples=80, tokens=1600)


def fed(chosen: Diagnosis, epochs: int = 1, first: int = 0, **changes: Any) -> Diagnosis:
    """Ten updates in each epoch from `first` on that keep what 25x50 asks for, all well, but for the changes."""
    healthy = {"samples_kept": 2, "tokens_kept": 20, "selection/converged": 1.0, "selection/spread": 1.0}
    healthy |= {f"selection/median_q{quadrant}": 0.25 for quadrant in (1, 2, 3, 4)}
    for epoch in range(first, first + epochs):
        for _ in range(10):
            chosen.feed(healthy | changes | {"epoch": epoch})
    return chosen


def test_a_healthy_run_is_told_nothing() -> None:
    assert fed(diagnosis(), epochs=3).warnings() == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection/converged": 0.49}, "converged in 49% of the decisions"),
        ({"selection/median_q2": 0.04}, "Q2 holds 4.0% of the samples"),
        ({"selection/spread": 0.0}, "no variance in 100%"),
        ({"tokens_kept": 30}, "300 response tokens were kept; 200 are 0.125 of the train set's (+50%)"),
        ({"samples_kept": 8}, "80 samples were kept; 20 are 0.25 of the train set's (+300%)"),
    ],
)
def test_each_thing_is_told_once(changes: dict[str, Any], words: str) -> None:
    chosen = fed(diagnosis(), **changes)
    news = chosen.news()
    assert len(news) == 1 and words in news[0]
    assert fed(chosen, first=1, **changes).news() == [], "and not again"
    assert len(chosen.warnings()) == 1, "but it stands in the result"


def test_thresholds_need_not_converge_where_every_sample_stays() -> None:
    changes: dict[str, Any] = {"selection/converged": 0.0, "samples_kept": 8, "tokens_kept": 80}
    assert fed(diagnosis(1.0, 0.5), **changes).warnings() == {}


def test_other_pruners_have_no_quadrants_to_warn_of() -> None:
    chosen = diagnosis()
    for _ in range(10):
        chosen.feed({"epoch": 0, "samples_kept": 2, "tokens_kept": 20, "loss": None})
    assert chosen.warnings() == {}
    assert chosen.summary() == {"samples_available": 80, "tokens_available": 1600}
