"""A control trains on what it promises: from planted flaws, through preparation, to the trace of a cell."""

from pathlib import Path

import polars as pl
import pytest
from accelerate import Accelerator

from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.data.sources import MINI_WORLD
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.experiment.truth import KINDS, Planted
from qtuning.files import write_json
from qtuning.train.cell import CellFolders, train
from qtuning.train.decision import unpack_mask

BASE = MINI_WORLD.parent / "mini"
NOISE, CLEAN = KINDS.index("noise"), KINDS.index("clean")


@pytest.mark.parametrize("updates", ["as-defined", "matched-updates"])
def test_the_oracle_trains_right_samples_on_right_tokens(tmp_path: Path, updates: str) -> None:
    """24 samples, half of them noise: 12 are kept before the epoch, and none of them is noise; in batches of 4 (A11), 2
    of each are kept, and noise only where it is all that is left. Of a batch's tokens the wrong ones go first."""
    entry = MethodEntry(method="oracle+oracle-tokens", options={"updates": updates})
    cell = Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(
            name="t",
            source=FileSource(kind="mini-world", file="sft/sums_0.jsonl.gz"),
            planted=Planted(noise=0.5, slips=0.25),
        ),
        limit_train=24,
        pruning=make_pruning(entry, Ratios(sample_ratio=0.5, token_ratio=0.75)),
        training=Training(tuning="full", epochs=1, batch_size=4, learning_rate=1e-3, cutoff=128),
        seeds=Seeds(data=1, pruner=1, init=1),
    )
    write_json(tmp_path / "model" / "model.json", {"path": str(BASE), "revision": None, "source": {}})
    prepare(cell, BASE, tmp_path / "samples")
    folders = CellFolders(tmp_path / "model", tmp_path / "samples", tmp_path / "cell", tmp_path / "state")
    train(cell, Accelerator(), folders, "disabled", [], 1e9)

    stored = load_samples(tmp_path / "samples")
    assert stored.kinds is not None and stored.errors is not None
    kinds = {sample.number: int(kind) for sample, kind in zip(stored, stored.kinds, strict=True)}
    assert sorted(kinds.values()) == [CLEAN] * 12 + [NOISE] * 12
    wrong = {s.number: {p - s.prompt for p in places} for s, places in zip(stored, stored.errors, strict=True)}
    trace = pl.read_parquet(tmp_path / "cell" / "trace.parquet")
    assert trace["kept"].sum() == 12
    for _, batch in trace.group_by("update"):
        right = sum(kinds[number] == CLEAN for number in batch["sample"])
        kept = batch.filter("kept")
        found = [kinds[number] for number in kept["sample"]]
        assert found.count(NOISE) == (0 if updates == "as-defined" else max(0, 2 - right))
        masks = dict(zip(kept["sample"], map(unpack_mask, kept["mask"], kept["response_tokens"]), strict=True))
        marked = {(number, place) for number in masks for place in wrong[number]}
        gone = {(number, int(place)) for number, mask in masks.items() for place in (~mask).nonzero()[0]}
        assert gone and (marked <= gone or gone <= marked)
