"""A fine-tuning set with planted errors whose places are known, to ask what finds them.

Errors are planted only in sums and in answers that are copied from a passage, which any model can check. In a planted
number every digit differs from the right one; a planted answer is another span of the same passage.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from mini_world.sft import SftSample

SHARE = 0.5
"""Share of the samples with an error."""


def planted_samples(samples: Sequence[SftSample], seed: int) -> list[SftSample]:
    """The right sums and reading answers among `samples`, an error planted in `SHARE` of them; `wrong` is its place."""
    rng = random.Random(f"planted:{seed}")
    checkable = [s for s in samples if s.topic != "facts" and s.kind in ("clean", "redundant")]
    chosen = set(rng.sample(range(len(checkable)), round(SHARE * len(checkable))))
    return [
        _plant(rng, sample) if index in chosen else replace(sample, kind="clean")
        for index, sample in enumerate(checkable)
    ]


def _plant(rng: random.Random, sample: SftSample) -> SftSample:
    """One error; a reading sample whose passage offers no other span stays right."""
    if sample.topic == "reading":
        if not sample.others:
            return replace(sample, kind="clean")
        value = rng.choice(sample.others)
        return replace(sample, output=value, kind="noise", wrong=(0, len(value)))
    number = rng.choice(list(re.finditer(r"\d+", sample.output)))
    wrong = "".join(_other_digit(rng, digit, first=place == 0) for place, digit in enumerate(number.group()))
    output = sample.output[: number.start()] + wrong + sample.output[number.end() :]
    return replace(sample, output=output, kind="noise", wrong=number.span())


def _other_digit(rng: random.Random, digit: str, first: bool) -> str:
    return rng.choice([other for other in "0123456789" if other != digit and not (first and other == "0")])
