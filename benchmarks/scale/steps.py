"""`python -m benchmarks.scale.steps load|trace FOLDER`: one step on a prepared train set, for `rows.py` to measure."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from qtuning.data.samples import load_samples
from qtuning.train.candidates import CellSamples
from qtuning.train.journal import RunLog
from qtuning.train.seeding import epoch_order

BATCH, CHECKPOINT = 8, 10_000  # samples; rows of the trace between two checkpoints


def load(folder: Path) -> None:
    """What training does with a train set: load it, count its tokens, meet every sample once, in random order."""
    train_set = CellSamples.of(load_samples(folder))
    samples = train_set.samples
    total = sum(sample.response_length for sample in samples)
    met = 0
    order = epoch_order(0, 0, len(samples))
    for start in range(0, len(order), BATCH):
        met += sum(len(samples[position].tokens) for position in order[start : start + BATCH])
    print(f"{total} response tokens, {met} tokens met")


def trace(folder: Path) -> None:
    """The decisions of an epoch, checkpoint by checkpoint, to the published trace."""
    count = len(load_samples(folder))
    with TemporaryDirectory(dir=folder) as name:
        state = Path(name)
        log = RunLog(state, 0)
        for start in range(0, count, CHECKPOINT):
            rows = range(start, min(start + CHECKPOINT, count))
            decided = (True, False, 100, 50, 1.0, 2.5, bytes(16), None, None)  # kept, ..., mask; few have token scores
            log.trace([(n // BATCH, 0, n, 1 + n / count, n / count, n % 4 + 1, *decided) for n in rows])
            log.log({"update": rows[-1] // BATCH, "epoch": 0})
            log.checkpoint(rows[-1] // BATCH + 1)
        log.publish(state / "out.jsonl", state / "trace.parquet")


if __name__ == "__main__":
    {"load": load, "trace": trace}[sys.argv[1]](Path(sys.argv[2]))
