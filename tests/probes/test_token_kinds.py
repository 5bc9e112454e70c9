"""Counting kinds of tokens, from a trace with masks to the store: against brute force over single tokens."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cell_folders import mark_trained

from qtuning.data.kinds import KINDS, character_kinds
from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import read_json, write_text
from qtuning.model.load import make_ready, model_path
from qtuning.probes.token_kinds import count_token_kinds
from qtuning.store.observed import collect_token_kinds
from qtuning.train.decision import pack_mask
from qtuning.train.journal import TRACE_SCHEMA

CUTOFF = 38
ROWS = [
    {"instruction": f"What is {n} + 2?", "output": f"We add {n} and 2.\n{n} + 2 = {n + 2}\nThe answer is {n + 2}."}
    for n in range(10, 26)
]


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    """Sums, prepared for the shipped model; the cutoff takes a part of each."""
    write_text(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, ROWS)))
    cell = Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(name="sums", source=FileSource(kind="path", file=str(tmp_path / "rows.jsonl"))),
        pruning=make_pruning(MethodEntry(method="q-tuning"), Ratios(sample_ratio=0.5, token_ratio=0.5)),
        training=Training(tuning="full", cutoff=CUTOFF),
        seeds=Seeds(data=0, pruner=0, init=0),
    )
    paths = ResultPaths(tmp_path)
    make_ready(cell.model, paths.model(cell))
    prepare(cell, model_path(paths.model(cell)), paths.samples(cell))
    return cell


def test_counts(cell: Cell, tmp_path: Path) -> None:
    paths, rng = ResultPaths(tmp_path), np.random.default_rng(0)
    folder, stored = paths.cell(cell), load_samples(paths.samples(cell)).samples
    tokenizer = load_tokenizer(model_path(paths.model(cell)))
    assert any(len(sample.tokens) == CUTOFF for sample in stored), "the cutoff does something"
    import torch

    expected: Counter[tuple[int, bool, str, str]] = Counter()
    rows = []
    for update in range(12):
        for sample in stored[update % 3 :: 3]:
            mask = torch.from_numpy(rng.random(sample.response_length) < 0.4)
            epoch, supplement, prunable = update // 6, bool(rng.random() < 0.5), bool(rng.random() < 0.7)
            # sample, ppl, entropy, quadrant, kept, supplement, lengths, weight, loss, mask
            scores = (sample.number, 2.0, 1.0, 2, True, supplement, sample.response_length, int(mask.sum()))
            rows.append((update, epoch, *scores, 1.0, 0.5, pack_mask(mask) if prunable else None, None, None))
            if not prunable:
                continue
            response = f" {ROWS[sample.number]['output']}"
            kinds, text = character_kinds(f"{response}{tokenizer.eos_token}"), ""
            ids = sample.tokens[sample.prompt :].tolist()
            for token, kept in zip(ids, mask.tolist(), strict=True):
                # slow: where the token stands follows from decoding what precedes it
                before, text = text, text + str(tokenizer.decode([token]))
                places = range(len(before), min(len(text), len(response)))
                votes = [int(kinds[place]) for place in places if not response[place].isspace()]
                if token == tokenizer.eos_token_id:
                    kind = KINDS.index("boilerplate-templates")
                else:
                    kind = max(sorted(set(votes)), key=votes.count) if votes else KINDS.index("markdown-formatting")
                expected[epoch, supplement, KINDS[kind], "kept" if kept else "pruned"] += 1
    folder.mkdir(parents=True)
    pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row").write_parquet(folder / "trace.parquet")
    with pytest.raises(UserError, match="no trained cell"):  # a training that was killed before its marker
        count_token_kinds(cell, paths)
    mark_trained(folder)
    with pytest.raises(UserError, match="was trained without `observe`"):
        count_token_kinds(cell, paths)
    (folder / "watch.jsonl").touch()
    mark_trained(folder)
    assert count_token_kinds(cell, paths) == folder / "token_kinds.json"
    assert read_json(folder / "token_kinds.json")["kinds"] == list(KINDS)

    table = collect_token_kinds([cell_id(cell), "another"], tmp_path)
    found = {
        (row["epoch"], row["supplement"], row["kind"], side): row[side]
        for row in table.iter_rows(named=True)
        for side in ("kept", "pruned")
        if row[side]
    }
    assert found == dict(expected)
    assert len({kind for _, _, kind, _ in found}) == 6, "every kind occurs"


def test_other_texts_are_refused(cell: Cell, tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    folder = paths.cell(cell)
    with pytest.raises(UserError, match="no trained cell"):
        count_token_kinds(cell, paths)
    folder.mkdir(parents=True)
    sample = load_samples(paths.samples(cell)).samples[0]
    row = (0, 0, sample.number, 2.0, 1.0, 2, True, False, sample.response_length, 0, 1.0, 0.5, b"\0" * 9, None, None)
    pl.DataFrame([row], schema=TRACE_SCHEMA, orient="row").write_parquet(folder / "trace.parquet")
    (folder / "watch.jsonl").touch()
    mark_trained(folder)
    write_text(tmp_path / "rows.jsonl", "\n".join(json.dumps(row | {"output": "no"}) for row in ROWS))
    with pytest.raises(UserError, match="row 0 is not the one that was prepared"):
        count_token_kinds(cell, paths)
