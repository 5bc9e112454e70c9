"""What a user should be told about a run's pruning: each thing once, with its number."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

CONVERGED = 0.5  # share of the decisions whose threshold search should converge
QUADRANT = 0.05  # share of the samples each quadrant should hold
SPENT = 0.1  # relative difference between the tokens kept and asked


class Diagnosis:
    """Means over the updates of a run, and the warnings that follow from them."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._told: set[str] = set()

    def feed(self, record: Mapping[str, Any]) -> None:
        """Take in the metrics of one update."""
        for key, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._sums[key] += value
                self._counts[key] += 1

    def warnings(self) -> dict[str, str]:
        """Everything there is to warn of, by subject."""
        found = {}
        converged = self._mean("selection/converged")
        if converged is not None and converged < CONVERGED:
            found["convergence"] = (
                f"the threshold search converged in {converged:.0%} of the decisions only; the supplement or the "
                "trimming decides the rest (larger selection batches help)"
            )
        for quadrant in (1, 2, 3, 4):
            share = self._mean(f"selection/q{quadrant}_share")
            if share is not None and share < QUADRANT:
                found[f"q{quadrant}"] = (
                    f"quadrant Q{quadrant} holds {share:.1%} of the samples (under {QUADRANT:.0%}): error and "
                    "uncertainty leave it nearly empty"
                )
        spread = self._mean("selection/spread")
        if spread is not None and spread < 1:
            found["variance"] = (
                f"the scores had no variance in {1 - spread:.0%} of the decisions (batches of one, or equal samples): "
                "ties, not scores, decided there"
            )
        asked, kept = self._sums["tokens_asked"], self._sums["tokens_kept"]
        if asked and abs(kept - asked) > SPENT * asked:
            found["budget"] = (
                f"{kept:,.0f} tokens were kept, {asked:,.0f} asked for ({kept / asked - 1:+.0%}): compare by cost, "
                "not by budget"
            )
        return found

    def news(self) -> list[str]:
        """The warnings that were not told yet."""
        fresh = {subject: text for subject, text in self.warnings().items() if subject not in self._told}
        self._told |= set(fresh)
        return list(fresh.values())

    def summary(self) -> dict[str, float]:
        """Over the run: samples and tokens asked for and kept (sums), and means of what the sample pruner logged."""
        sums = {key: self._sums[key] for key in ("samples_asked", "samples_kept", "tokens_asked", "tokens_kept")}
        logged = (key for key in self._sums if key.startswith("selection/"))
        return sums | {key.removeprefix("selection/"): self._sums[key] / self._counts[key] for key in logged}

    def _mean(self, key: str) -> float | None:
        return self._sums[key] / self._counts[key] if self._counts[key] else None
