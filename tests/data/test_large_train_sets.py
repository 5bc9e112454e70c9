"""Train sets that pass through in batches and stay on the disk: as small ones that lie in memory, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
import torch
from test_prepare import ROWS, cell_for, train_set, without_digests

from qtuning.data import prepare as preparing
from qtuning.data import write_samples
from qtuning.data.containers import read_file
from qtuning.data.prepare import prepare
from qtuning.data.samples import SAMPLES, TOKENS, load_samples
from qtuning.errors import UserError

MIXED = [
    {"instruction": "a"} if n % 9 == 2 else row | ({"output": "b " * 300} if n == 5 else {})
    for n, row in enumerate(ROWS)
]
MIXED = [row | {"instruction": "c " * 300} if n % 13 == 4 and "output" in row else row for n, row in enumerate(MIXED)]
"""Some rows are no examples, of some the cutoff leaves no response, and one is cut."""


@pytest.mark.parametrize("limit", [None, 31])
@pytest.mark.parametrize("planted", [None, {"noise": 0.25, "slips": 0.25}])
def test_batches_change_nothing(
    bpe_folder: Path, tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch, limit: int | None, planted: Any
) -> None:
    cell = cell_for(train_set(write("a.jsonl", MIXED), bad_rows=0.5, planted=planted), cutoff=200, limit=limit)
    whole = prepare(cell, bpe_folder, tmp_path / "whole")
    monkeypatch.setattr(preparing, "BATCH", 7)
    monkeypatch.setattr(write_samples, "GROUP", 10)
    assert prepare(cell, bpe_folder, tmp_path / "parts") == whole
    found = pl.read_parquet(tmp_path / "parts" / SAMPLES)
    assert found.equals(pl.read_parquet(tmp_path / "whole" / SAMPLES))
    assert pyarrow.parquet.ParquetFile(tmp_path / "parts" / SAMPLES).num_row_groups > 1
    assert (tmp_path / "parts" / TOKENS).read_bytes() == (tmp_path / "whole" / TOKENS).read_bytes()
    bad = [row["sample"] for row in whole["bad_rows"]]
    assert whole["bad_by_reason"] == {"missing key": 11, "response cut away": 7} and bad == sorted(bad)


def test_samples_are_made_of_a_mapped_file(bpe_folder: Path, tmp_path: Path, write: Any) -> None:
    prepare(cell_for(train_set(write("a.jsonl", ROWS))), bpe_folder, tmp_path)
    samples, ids = load_samples(tmp_path).samples, pl.read_parquet(tmp_path / SAMPLES)["input_ids"]
    assert isinstance(samples.tokens, np.memmap)
    places = np.array([40, 3, 99])
    for part, rows in (
        (samples[90:], range(90, 100)),
        (samples.at(places), places.tolist()),
        (samples[::-7], range(99, -1, -7)),
    ):
        assert [sample.number for sample in part] == list(rows)
        assert [sample.tokens.tolist() for sample in part] == [ids[row].to_list() for row in rows]
    assert torch.equal(samples[-1].tokens, samples[99].tokens)
    samples[0].tokens[:] = 0
    assert samples[0].tokens.tolist() == ids[0].to_list(), "the file is not written to"
    with pytest.raises(IndexError):
        samples[100]


def test_the_mapped_file_belongs_to_the_samples(bpe_folder: Path, tmp_path: Path, write: Any) -> None:
    prepare(cell_for(train_set(write("a.jsonl", ROWS))), bpe_folder, tmp_path)
    before = (tmp_path / TOKENS).read_bytes()
    (tmp_path / TOKENS).unlink()  # an older version wrote none
    assert len(load_samples(tmp_path)) == 100 and (tmp_path / TOKENS).read_bytes() == before
    (tmp_path / TOKENS).write_bytes(before[:-4])
    with pytest.raises(UserError, match=r"tokens\.int32: damaged \(its digest differs\); delete it:"):
        load_samples(tmp_path)
    without_digests(tmp_path)
    with pytest.raises(
        UserError, match=r"tokens\.int32 has \d+ tokens, but samples\.parquet says \d+; prepare the train set again"
    ):
        load_samples(tmp_path)
    prepare(cell_for(train_set(write("b.jsonl", ROWS[:50]))), bpe_folder, tmp_path)
    assert len(load_samples(tmp_path)) == 50


def test_a_failed_preparation_leaves_no_samples(bpe_folder: Path, tmp_path: Path, write: Any) -> None:
    too_long = [row | {"instruction": "c " * 300} for row in ROWS]
    with pytest.raises(UserError, match="none of its 100 rows is usable: 100 response cut away"):
        prepare(cell_for(train_set(write("a.jsonl", too_long)), cutoff=200), bpe_folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_ratings_of_rows_that_are_not_drawn_are_checked(bpe_folder: Path, tmp_path: Path, write: Any) -> None:
    rated = [{"rating": n} for n in range(100)]
    ratings = {"kind": "path", "file": str(write("r.jsonl", rated))}
    cell = cell_for(train_set(write("a.jsonl", ROWS), ratings=ratings), limit=10)
    prepare(cell, bpe_folder, tmp_path / "out")
    drawn = [sample.number for sample in load_samples(tmp_path / "out")]
    spared = next(n for n in range(100) if n not in drawn)
    write("r.jsonl", [*rated[:spared], {"rating": None}, *rated[spared + 1 :]])
    with pytest.raises(UserError, match=rf"column 'rating' \(row {spared + 1} of the data\) holds nothing"):
        prepare(cell, bpe_folder, tmp_path / "out")


def test_parquet_files_of_several_row_groups(tmp_path: Path) -> None:
    rows = [{"instruction": str(n), "output": {"text": "b", "n": n}} for n in range(2500)]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet", row_group_size=700)
    found = list(read_file(tmp_path / "a.parquet"))
    assert [row.line for row in found] == list(range(1, 2501)) and [row.value for row in found] == rows
