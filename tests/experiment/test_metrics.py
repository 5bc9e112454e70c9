"""The list of metrics that a user chooses from."""

import pytest

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.metrics import METRICS, metric_of


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_stored_name_leads_back_to_its_metric(benchmark: str) -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric_of(metric.stored_as(benchmark)) is metric
    assert METRICS["headline"].stored_as(benchmark) == BENCHMARKS[benchmark].metric


def test_secondary_scores_are_shown_as_the_headline_is() -> None:
    assert metric_of("acc_norm").scale == 100
    assert metric_of("acc_norm").higher_is_better


def test_likelihoods_fall_and_probabilities_rise_with_a_better_model() -> None:
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == [
        "nll",
        "nll_answer",
        "bits_per_character",
    ]
    assert [name for name, metric in METRICS.items() if metric.scale == 100] == ["headline", "p_gold", "choice"]
