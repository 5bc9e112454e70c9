"""Primary comparisons of an experiment: the default, lists, editions and composites, and what is refused."""

import json
from typing import Any

import pytest
from config_files import Configs

from qtuning.store.collect import identity

EXPERIMENT: dict[str, Any] = {
    "title": "E",
    "models": ["m"],
    "train_sets": ["t"],
    "methods": ["full", "random+random", "q-tuning"],
    "budgets": ["25x50"],
    "seeds": [0],
    "evaluation": {"benchmarks": ["gsm8k"]},
}
PAIR = ["q-tuning", "random+random"]


@pytest.mark.parametrize(
    ("written", "metric", "comparisons"),
    [
        ({}, "headline", ()),
        ({"primary": {"comparisons": "default"}}, "headline", ()),
        ({"primary": {"metric": "nll"}}, "nll", ()),
        ({"primary": {"comparisons": [PAIR, ["full", "zero-shot"]]}}, "headline", (tuple(PAIR), ("full", "zero-shot"))),
    ],
)
def test_what_an_experiment_is_made_for(written: Any, metric: str, comparisons: Any, configs: Configs) -> None:
    configs.write("experiments/e", EXPERIMENT | written)
    grid = configs.expand("e")
    assert (grid.experiment.primary.metric, grid.experiment.primary.comparisons) == (metric, comparisons)
    stored = json.loads(identity(grid, grid.cells[-1])["primary"])
    assert stored == {"metric": metric, "comparisons": [list(pair) for pair in comparisons]}


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"metric": "accuracy"}, "primary.metric = 'accuracy': input should be 'headline', 'nll'"),
        (
            {"comparisons": [["q-tunig", "full"]]},
            "primary.comparisons.0 = 'q-tunig': no method of this experiment; did",
        ),
        ({"comparisons": [["q-tuning"]]}, "primary.comparisons.0.1: required, but not given"),
        ({"comparisons": "all"}, "primary.comparisons = 'all': must be a list, in square brackets"),
    ],
)
def test_a_mistake_is_one_line(written: Any, complaint: str, configs: Configs) -> None:
    path = configs.write("experiments/e", EXPERIMENT | {"primary": written})
    (line,) = configs.complaints()
    assert line.startswith(f"{path}: {complaint}")


def test_editions_and_composites_have_theirs(configs: Configs) -> None:
    configs.write("scales/small", {"label": "small", "primary": {"metric": "choice"}})
    configs.write("experiments/d", EXPERIMENT | {"seeds": [1], "scales": {"small": {}}})
    other = {"scales": {"small": {"primary": {"comparisons": [PAIR]}}}}
    configs.write("experiments/e", EXPERIMENT | other)
    small = configs.expand("e-small").experiment.primary
    assert (small.metric, small.comparisons) == ("choice", (tuple(PAIR),))
    path = configs.write("experiments/both", {"title": "B", "parts": ["d", "e"]})
    assert configs.expand("both").experiment.primary == configs.expand("e").experiment.primary
    assert configs.complaints("both-small") == [
        f"{path}: primary: its parts have different ones; write one for the whole"
    ]
    configs.write(
        "experiments/both", {"title": "B", "parts": ["d", "e"], "primary": {"comparisons": [["full", "q-tuning"]]}}
    )
    assert configs.expand("both-small").experiment.primary.comparisons == (("full", "q-tuning"),)
