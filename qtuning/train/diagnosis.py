"""What a user should be told about a run's pruning: each thing once, with its number."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from qtuning.experiment.schema import Pruning

CONVERGED = 0.5  # share of the decisions whose threshold search should converge
QUADRANT = 0.05  # share of the samples each quadrant should hold
SPENT = 0.1  # relative difference between the tokens kept and asked


class Diagnosis:
    """Means over the updates of a run, and the warnings that follow from them.

    pruning: what was asked for. samples, tokens: of the train set, samples and response tokens.
    """

    def __init__(self, pruning: Pruning, samples: int, tokens: int) -> None:
        self._pruning, self._samples, self._tokens = pruning, samples, tokens
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._epochs = 0
        self._told: set[str] = set()

    def feed(self, record: Mapping[str, Any]) -> None:
        """Take in the metrics of one update."""
        self._epochs = int(record["epoch"]) + 1
        for key, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._sums[key] += value
                self._counts[key] += 1

    def warnings(self) -> dict[str, str]:
        """Everything there is to warn of, by subject; asked at the end of an epoch."""
        found = {}
        converged = self._mean("selection/converged")
        # at a ratio of 1 the tails cannot hold everything, and need not
        if converged is not None and converged < CONVERGED and self._pruning.sample_ratio < 1:
            found["convergence"] = (
                f"the threshold search converged in {converged:.0%} of the decisions only; the supplement or the "
                "trimming decides the rest (larger selection batches help)"
            )
        for quadrant in (1, 2, 3, 4):
            share = self._mean(f"selection/median_q{quadrant}")
            if share is not None and share < QUADRANT:
                found[f"q{quadrant}"] = (
                    f"quadrant Q{quadrant} holds {share:.1%} of the samples at a median split (under {QUADRANT:.0%}): "
                    "error and uncertainty leave it nearly empty"
                )
        spread = self._mean("selection/spread")
        if spread is not None and spread < 1:
            found["variance"] = (
                f"the scores had no variance in {1 - spread:.0%} of the decisions (batches of one, or equal samples): "
                "ties, not scores, decided there"
            )
        pruning = self._pruning
        for what, of, ratio in (
            ("samples", self._samples, pruning.sample_ratio),
            ("response tokens", self._tokens, pruning.sample_ratio * pruning.token_ratio),
        ):
            asked, kept = ratio * of * self._epochs, self._sums[f"{what.split()[-1]}_kept"]
            if asked and abs(kept - asked) > SPENT * asked:
                found[f"budget of {what}"] = (
                    f"{kept:,.0f} {what} were kept; {asked:,.0f} are {ratio:.4g} of the train set's "
                    f"({kept / asked - 1:+.0%}): compare by cost, not by budget"
                )
        return found

    def news(self) -> list[str]:
        """The warnings that were not told yet."""
        fresh = {subject: text for subject, text in self.warnings().items() if subject not in self._told}
        self._told |= set(fresh)
        return list(fresh.values())

    def summary(self) -> dict[str, float]:
        """What there was to choose from in all epochs, and the means of what the sample pruner logged."""
        available = {"samples_available": self._samples * self._epochs, "tokens_available": self._tokens * self._epochs}
        logged = (key for key in self._sums if key.startswith(("selection/", "agreement/")))
        return available | {key.removeprefix("selection/"): self._sums[key] / self._counts[key] for key in logged}

    def _mean(self, key: str) -> float | None:
        return self._sums[key] / self._counts[key] if self._counts[key] else None
