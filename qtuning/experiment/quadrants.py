"""The four quadrants of the Error-Uncertainty plane (method.md, Stage 1): number, side of each axis, and fate."""

from dataclasses import dataclass
from typing import Literal

Naming = Literal["figure", "text"]  # reading A1: which quadrant of high error is kept

NOISE, MISCONCEPTION, REDUNDANT, CALIBRATION = 1, 2, 3, 4
BETWEEN = 0  # neither tail: such a sample is in no quadrant of the two-tail reading
LEAST_SHARE = 0.05  # of the samples, that each quadrant should hold; training warns of one that holds less


@dataclass(frozen=True)
class Quadrant:
    """One quadrant. meaning: what its samples are taken for, and what Q-Tuning does with them."""

    number: int
    high_error: bool
    high_uncertainty: bool
    meaning: str

    @property
    def sides(self) -> str:
        """`high error, low uncertainty`."""
        levels = ("low", "high")
        return f"{levels[self.high_error]} error, {levels[self.high_uncertainty]} uncertainty"


def _quadrants(naming: Naming) -> tuple[Quadrant, ...]:
    # the readings of A1 differ in the uncertainty of the two quadrants of high error
    noise_is_uncertain = naming == "figure"
    return (
        Quadrant(NOISE, True, noise_is_uncertain, "harmful noise, dropped"),
        Quadrant(MISCONCEPTION, True, not noise_is_uncertain, "valuable misconception, kept, tokens pruned"),
        Quadrant(REDUNDANT, False, False, "redundant knowledge, dropped"),
        Quadrant(CALIBRATION, False, True, "calibration data, kept whole"),
    )


QUADRANTS: dict[Naming, tuple[Quadrant, ...]] = {"figure": _quadrants("figure"), "text": _quadrants("text")}
