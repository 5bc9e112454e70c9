"""A fine-tuning set with planted errors whose places are known, to ask what finds them.

Errors are planted only in sums and in answers that are copied from a passage, which any model can check. In a planted
number every digit differs from the right one; a planted answer is another span of the same passage.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from mini_world import wrong
from mini_world.sft import SftSample

SHARE = 0.5
"""Share of the samples with an error."""


def planted_samples(samples: Sequence[SftSample], seed: int) -> list[SftSample]:
    """The right sums and reading answers among `samples`, an error planted in `SHARE` of them."""
    rng = random.Random(f"planted:{seed}")
    checkable = [s for s in samples if s.topic != "facts" and s.kind in ("clean", "redundant") and not s.errors]
    chosen = set(rng.sample(range(len(checkable)), round(SHARE * len(checkable))))
    return [
        _plant(rng, sample) if index in chosen else replace(sample, kind="clean")
        for index, sample in enumerate(checkable)
    ]


def _plant(rng: random.Random, sample: SftSample) -> SftSample:
    """One error; a reading sample whose passage offers no other span stays right."""
    if sample.topic == "reading":
        value = wrong.other_span(rng, sample.input, sample.output)
        if value is None:
            return replace(sample, kind="clean")
        return replace(sample, output=value, kind="noise", errors=((0, len(value)),))
    output, span = wrong.wrong_number(rng, sample.output)
    return replace(sample, output=output, kind="noise", errors=(span,))
