"""Ratings of the fine-tuning set, as a strong language model might give them, from the planted kinds.

`rating` (0 to 5, as in DS2): right and new samples deserve more than redundant ones, and noise least. `quality` (1 to
6) says the same of the answer, and `complexity` (1 to 6, both as in Deita) follows the length of prompt and answer.
Each number is wrong with probability ERROR, and then any other score of its scale, so that there is something to
correct.
"""

import random
from collections.abc import Sequence

from mini_world.sft import Kind, SftSample

ERROR = 0.2
"""Probability that a number is not the deserved one."""
RATING: dict[Kind, int] = {"clean": 5, "misconception": 5, "ambiguous": 3, "redundant": 2, "noise": 1}
STEP = 50
"""Characters of prompt and answer that make a sample one step more complex."""


def rate(names: Sequence[str], samples: Sequence[SftSample], part: str, seed: int) -> list[dict[str, str | int]]:
    """A record for each sample: id, rating, complexity, quality. part: the file that they belong to."""
    rng = random.Random(f"ratings:{part}:{seed}")
    records: list[dict[str, str | int]] = []
    for name, sample in zip(names, samples, strict=True):
        deserved = RATING[sample.kind]
        characters = len(sample.instruction) + len(sample.input) + len(sample.output)
        complexity = min(6, 1 + characters // STEP)
        records.append({
            "id": name,
            "rating": _told(rng, deserved, 0, 5),
            "complexity": _told(rng, complexity, 1, 6),
            "quality": _told(rng, deserved + 1, 1, 6),
        })  # fmt: skip
    return records


def _told(rng: random.Random, deserved: int, lowest: int, highest: int) -> int:
    if rng.random() >= ERROR:
        return deserved
    return rng.choice([score for score in range(lowest, highest + 1) if score != deserved])
