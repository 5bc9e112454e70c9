"""Replay: a trace made again gives the weights again, and what is shuffled keeps the counts that it promises."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from accelerate import Accelerator

from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.data.sources import MINI_WORLD
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import cell_id
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.references import references_of
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import write_json
from qtuning.train.cell import CellFolders, train
from qtuning.train.replay import load_recording

BASE = MINI_WORLD.parent / "mini"
ORIGINAL: dict[str, Any] = {"method": "q-tuning", "options": {"surplus": "trim"}}
POOLED: dict[str, Any] = {"method": "q-tuning", "options": {"scoring": {"schedule": "pool", "batches": 2}}}


def a_cell(method: str, of: Any = None, budget: tuple[float, float] = (0.5, 0.5)) -> Cell:
    entry = of if of is not None and method == "" else {"method": method, "options": {} if of is None else {"of": of}}
    ratios = Ratios(sample_ratio=budget[0], token_ratio=budget[1])
    return Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(name="t", source=FileSource(kind="mini-world", file="sft/sums_0.jsonl.gz")),
        limit_train=22,
        pruning=make_pruning(MethodEntry.model_validate(entry), ratios),
        training=Training(tuning="full", epochs=2, batch_size=4, learning_rate=1e-3, cutoff=128),
        seeds=Seeds(data=3, pruner=3, init=3),
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replay")
    write_json(root / "model" / "model.json", {"path": str(BASE), "revision": None, "source": {}})
    prepare(a_cell("full"), BASE, root / "samples")
    return root


def trained(root: Path, cell: Cell) -> Path:
    """The folder of the cell, trained after what it needs."""
    out = root / "cells" / cell_id(cell)
    if not (out / "train.json").exists():
        references = tuple(trained(root, reference) for reference in references_of(cell))
        folders = CellFolders(root / "model", root / "samples", out, root / "state" / out.name, references=references)
        train(cell, Accelerator(), folders, "disabled", [], 1e9)
    return out


def kept(folder: Path) -> dict[tuple[int, int], tuple[bool, int, bytes | None]]:
    """(epoch, sample) -> whether it was kept, how many of its tokens, and which, if not all."""
    columns = ("epoch", "sample", "kept", "kept_tokens", "response_tokens", "mask")
    rows = pl.read_parquet(folder / "trace.parquet").select(columns).iter_rows()
    return {
        (epoch, sample): (stays, count, None if count in (0, length) else mask)
        for epoch, sample, stays, count, length, mask in rows
    }


def by_update(folder: Path) -> dict[int, tuple[int, int]]:
    """Update -> samples and tokens that it kept. Every update of the cells here is one batch."""
    counts = pl.read_parquet(folder / "trace.parquet").group_by("update").agg(pl.col("kept", "kept_tokens").sum())
    return {update: (samples, tokens) for update, samples, tokens in counts.iter_rows()}


@pytest.mark.parametrize("of", [ORIGINAL, POOLED], ids=["batches", "pools"])
def test_a_replay_ends_with_the_recorded_weights(results: Path, of: dict[str, Any]) -> None:
    original, replay = trained(results, a_cell("", of)), trained(results, a_cell("replay+replay", of))
    assert kept(replay) == kept(original)
    assert (replay / "weights.sha256").read_bytes() == (original / "weights.sha256").read_bytes()
    cost = json.loads((replay / "train.json").read_text())["cost"]
    assert cost["samples_scored"] == cost["flops_scoring"] == cost["flops_references"] == 0


def test_random_tokens_of_the_recorded_samples(results: Path) -> None:
    original, replay = (
        kept(trained(results, cell)) for cell in (a_cell("", ORIGINAL), a_cell("replay+replay-random", ORIGINAL))
    )
    assert {key: row[:2] for key, row in original.items()} == {key: row[:2] for key, row in replay.items()}
    assert any(row[2] != replay[key][2] for key, row in original.items())


def test_random_samples_in_the_recorded_numbers(results: Path) -> None:
    original, replay = (
        trained(results, a_cell("", ORIGINAL)),
        trained(results, a_cell("replay-random+replay-random", ORIGINAL)),
    )
    before, after = by_update(original), by_update(replay)
    assert before.keys() == after.keys() and all(before[key][0] == after[key][0] for key in before)
    assert [key for key, row in kept(original).items() if row[0]] != [
        key for key, row in kept(replay).items() if row[0]
    ]
    lengths = {sample.number: sample.response_length for sample in load_samples(results / "samples")}
    room: dict[int, int] = defaultdict(int)
    rows = pl.read_parquet(replay / "trace.parquet").filter("kept").select("update", "sample")
    for update, sample in rows.iter_rows():
        room[update] += lengths[sample]
    assert {key: min(before[key][1], room[key]) for key in before} == {
        key: tokens for key, (_, tokens) in after.items()
    }


def test_a_trace_that_cannot_be_replayed(results: Path, tmp_path: Path) -> None:
    original, samples = trained(results, a_cell("", ORIGINAL)), load_samples(results / "samples").samples
    trace = pl.read_parquet(original / "trace.parquet")
    cases = {
        "is not there": None,
        "does not say which tokens": trace.with_columns(mask=pl.lit(None, pl.Binary)),
        "does not tell of every sample": trace.head(30),
        "of other samples": trace.with_columns(pl.col("sample") + 1000),
    }
    for message, changed in cases.items():
        if changed is not None:
            write_json(tmp_path / "train.json", {"status": "done"})
            changed.write_parquet(tmp_path / "trace.parquet")
        with pytest.raises(UserError, match=message):
            load_recording([tmp_path], samples, 2)
    write_json(tmp_path / "train.json", {"status": "diverged"})
    with pytest.raises(UserError, match="diverged"):
        load_recording([tmp_path], samples, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "required: the method whose trace is replayed"),
        ({"of": "random+random"}, "draws its samples before each epoch"),
        ({"of": "no-such+none"}, "options.of: 'no-such': unknown sample pruner"),
        ({"of": {"method": "q-tuning", "options": {"proxy": "m"}}}, "cannot be replayed"),
    ],
)
def test_what_cannot_be_replayed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_pruning(MethodEntry(method="replay+replay", options=options), Ratios(sample_ratio=0.5, token_ratio=0.5))
    with pytest.raises(UserError, match="replays nothing"):
        make_pruning(MethodEntry(method="q-tuning", options={"of": "full"}), Ratios(sample_ratio=0.5, token_ratio=0.5))


def test_the_cell_that_is_replayed_is_the_cell_of_the_method() -> None:
    """Also where an update is one batch, so that the selection batch (A9) is no part of the identity."""
    of = {"method": "q-tuning", "options": {"selection": "global"}}
    (recorded,) = references_of(a_cell("replay+replay", of))
    assert cell_id(recorded) == cell_id(a_cell("q-tuning"))
    assert cell_id(a_cell("replay+replay", of)) == cell_id(a_cell("replay+replay", "q-tuning"))
    assert cell_id(a_cell("replay+replay", ORIGINAL)) != cell_id(a_cell("replay+replay", "q-tuning"))
