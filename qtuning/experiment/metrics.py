"""The metrics that a user chooses from (docs/metrics.md): labels, units, directions. Imports neither torch nor lm-eval.

The likelihood metrics are stored under their own names for every benchmark; `headline` stands for each benchmark's own
metric (`Benchmark.metric`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from qtuning.experiment.benchmarks import BENCHMARKS

MetricName = Literal["headline", "nll", "nll_answer", "bits_per_character", "p_gold", "choice"]


@dataclass(frozen=True)
class Metric:
    """A metric of an item; that of a benchmark is the mean over its items.

    label: what tables call it. unit: of the shown value. scale: the stored value of an item x scale is the value that
    is shown, and that `scores.parquet` holds. higher_is_better: its direction.
    """

    name: MetricName
    label: str
    unit: str
    scale: float
    higher_is_better: bool

    @property
    def decimals(self) -> int:
        """How many are shown of a mean."""
        return 2 if self.scale == 100 else 3

    def stored_as(self, benchmark: str) -> str:
        """The value of the column `metric`, in items.parquet and scores.parquet, for a benchmark."""
        return BENCHMARKS[benchmark].metric if self.name == "headline" else self.name


_ALL = (
    Metric("headline", "headline metric", "points", 100.0, True),
    Metric("nll", "NLL per token", "nats per token", 1.0, False),
    Metric("nll_answer", "NLL per answer", "nats per answer", 1.0, False),
    Metric("bits_per_character", "bits per character", "bits per character", 1.0, False),
    Metric("p_gold", "p(gold)", "points", 100.0, True),
    Metric("choice", "choice accuracy", "points", 100.0, True),
)
METRICS: Mapping[MetricName, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
assert set(METRICS) == set(get_args(MetricName))

EDITIONS: tuple[MetricName, ...] = ("nll", "p_gold")
"""The likelihood metrics by which the workflow and the report write tables of their own, beside the headline's."""


def metric_of(stored: str) -> Metric:
    """The metric of a value of the column `metric`: a likelihood metric, else `headline`'s record (x 100, higher)."""
    return next((metric for metric in _ALL if metric.name == stored), METRICS["headline"])
