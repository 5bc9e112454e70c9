"""Damage to files as disks and copies do it: a flipped bit, a cut, at places that a seed draws."""

import random
from collections.abc import Iterator
from pathlib import Path


def damages(path: Path, tries: int, seed: int = 0) -> Iterator[str]:
    """Damage a file in turn, and say how; it is whole again after each."""
    whole, draw = path.read_bytes(), random.Random(f"{path.name} {seed}")
    for _ in range(tries):
        place = draw.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        for content, what in ((bytes(flipped), "a bit flipped at"), (whole[:place], "cut at")):
            path.write_bytes(content)
            yield f"{path.name}: {what} {place}"
    path.write_bytes(whole)
