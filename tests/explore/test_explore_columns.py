"""Decisions on the page against the trace, and samples against their texts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from explored import arrays_in, cell_of, meta_of
from hypothesis import given
from hypothesis import strategies as st

from qtuning.data.kinds import KINDS
from qtuning.data.samples import SampleList, StoredSamples, load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning
from qtuning.explore.build import explore_trainings
from qtuning.explore.columns import NO_MASKS, NO_SCORES, NO_TOKENS, TRAINED_ONLY, arrays_of, decisions_of
from qtuning.explore.find import Found
from qtuning.explore.samples import choose, cut, shown_samples
from qtuning.model.load import model_path
from qtuning.probes.texts import read_texts
from qtuning.train.decision import pack_mask, unpack_mask
from qtuning.train.journal import TRACE_SCHEMA

PRUNING = Pruning(sample_pruner="q-tuning", token_pruner="q-tuning", sample_ratio=0.5, token_ratio=0.5)


def line(update: int, sample: int, **changes: Any) -> tuple[Any, ...]:
    row = dict.fromkeys(TRACE_SCHEMA) | {"update": update, "epoch": update // 4, "sample": sample, "quadrant": 2}
    row |= {"kept": False, "supplement": False, "response_tokens": 3, "kept_tokens": 0}
    return tuple((row | changes).values())


def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row")


def test_a_sample_that_an_epoch_was_drawn_without_was_dropped() -> None:
    trace = frame(line(1, 7, kept=True), line(5, 9, kept=True), line(4, 8))
    found = decisions_of(trace, [7, 9], label="a", pruning=PRUNING)
    rows = found.table.select("place", "update", "epoch", "kept", "told").rows()
    assert rows == [(0, 1, 0, True, True), (0, 4, 1, False, False), (1, 1, 0, False, False), (1, 5, 1, True, True)]
    assert found.epochs == (1, 4) and found.updates == 6
    unfinished = decisions_of(trace, [7, 9], label="a", pruning=PRUNING, whole=False)
    assert unfinished.table.filter("told").height == 2 and unfinished.table.height == 3, (
        "of the last epoch nobody knows"
    )


def test_the_trace_says_what_it_lacks() -> None:
    scored: dict[str, Any] = {"kept": True, "kept_tokens": 2, "ppl": 2.0, "entropy": 1.0}
    full = scored | {"mask": b"\xa0", "token_nll": b"abc", "token_entropy": b"abc"}

    def notes(trace: pl.DataFrame) -> list[str]:
        return decisions_of(trace, [7], label="a", pruning=PRUNING).notes

    assert notes(frame(line(0, 7, **full))) == []
    old = frame(line(0, 7, **scored)).drop("mask", "token_nll", "token_entropy")
    assert notes(old) == [NO_MASKS, NO_TOKENS]
    unscored = full | {"ppl": None, "token_entropy": None}
    assert notes(frame(line(0, 7, **unscored))) == [NO_SCORES, TRAINED_ONLY]


def test_arrays_of_a_decision() -> None:
    mask = np.array([True, False, False])
    packed = {"mask": pack_mask(torch.from_numpy(mask)), "token_nll": b"abc", "weight": 2.0}
    trace = frame(line(0, 7, kept=True, supplement=True, kept_tokens=1, ppl=3.5, **packed))
    kinds = np.array([5, 0, 3], dtype=np.uint8)
    found = arrays_of(decisions_of(trace, [7], label="a", pruning=PRUNING), {7: kinds})
    assert found["flags"].tolist() == [1 + 2 + 4 + 8] and found["pruned_kinds"].tolist() == [(1 << 0) + (1 << 3)]
    assert found["ppl"].tolist() == [3.5] and math.isnan(found["loss"].tolist()[0])


@pytest.mark.parametrize(
    ("options", "expected"), [({}, (0.5, 0.5)), ({"lambda": 0.3, "neighbours": "mean"}, (0.3, 0.15))]
)
def test_smoothing_is_that_of_the_method(options: dict[str, Any], expected: tuple[float, float]) -> None:
    pruning = PRUNING.model_copy(update={"token_options": options})
    assert decisions_of(frame(line(0, 7)), [7], label="a", pruning=pruning).smoothing == expected


@given(st.text(max_size=12).flatmap(lambda text: st.tuples(st.just(text), st.lists(st.integers(0, len(text))))))
def test_pieces_are_the_response(case: tuple[str, list[int]]) -> None:
    """Whatever the spans: gaps, overlaps, tokens without characters."""
    text, ends = case
    spans = [(max(0, stop - 2), stop) for stop in sorted(ends)]
    pieces, rest = cut(text, spans)
    assert len(pieces) == len(spans) and "".join(pieces) + rest == text


def test_bytes_of_one_character_are_told_once() -> None:
    assert cut("a👍b", [(0, 1), (1, 2), (1, 2), (2, 3), (3, 3)]) == (["a", "👍", "", "b", ""], "")


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    fours = np.full(50, 4)
    samples = SampleList(np.zeros(200, dtype=np.int32), 3 * np.arange(50), 4 * np.arange(50), fours, fours // 2)
    stored = StoredSamples(samples, np.zeros(50, dtype=np.int64), np.zeros(50))
    few, many = choose(stored, 10), choose(stored, 30)
    assert set(few) < set(many) and few == sorted(few)
    assert choose(stored, 999) == [sample.number for sample in samples]


def test_the_page_holds_the_trace(run: tuple[Path, Any, Any]) -> None:
    """Each number of each decision, against the file that training wrote."""
    root, paths, cells = run
    found = Found([(cell, cell.pruning.method) for cell in cells])
    written = explore_trainings("tiny", found, paths, root / "tiny.html", most=1000)
    assert (written.samples, written.of, written.lines) == (40, 40, ["q-tuning", "random+random"])
    arrays, meta = arrays_in(written.path), meta_of(written.path)
    assert meta["beside"] == 1 and meta["kinds"] == ["clean", "redundant", "noise"]
    for index, cell in enumerate(cells):
        trace = pl.read_parquet(paths.cell(cell) / "trace.parquet").sort("sample", "update")
        told = (arrays[f"{index}.flags"] & 4) > 0
        assert told.sum() == len(trace)
        for name in ("update", "epoch", "quadrant", "kept_tokens"):
            assert arrays[f"{index}.{name}"][told].tolist() == trace[name].to_list()
        for name in ("ppl", "entropy", "weight", "loss"):
            wanted = trace[name].cast(pl.Float32).to_numpy()
            assert np.array_equal(arrays[f"{index}.{name}"][told], wanted, equal_nan=True)
        assert ((arrays[f"{index}.flags"] & 1) > 0)[told].tolist() == trace["kept"].to_list()
    assert meta["lines"][0]["notes"] == [] and meta["lines"][1]["notes"] == [NO_SCORES, TRAINED_ONLY]
    assert (arrays["0.flags"] & 4).all() and not (arrays["1.flags"] & 4).all(), "random pruning draws its epochs"


def test_pruned_kinds_by_hand(run: tuple[Path, Any, Any]) -> None:
    """A sum: which kinds of its tokens Q-Tuning pruned, from the mask and the text of each token."""
    _, paths, cells = run
    cell, stored = cells[0], load_samples(paths.samples(cells[0]))
    trace = pl.read_parquet(paths.cell(cell) / "trace.parquet").filter(pl.col("mask").is_not_null())
    numbers = trace["sample"].unique().to_list()
    texts = read_texts(cell, model_path(paths.model(cell)), stored, numbers)
    kinds = {sample.number: sample.kinds for sample in shown_samples(stored, numbers, texts)}
    table = decisions_of(trace, numbers, label="a", pruning=cell.pruning, whole=False)
    found = arrays_of(table, kinds)["pruned_kinds"]
    assert found.any()
    told = table.table.select("sample", "mask", "response_tokens", "told").rows()
    for bits, (sample, mask, count, known) in zip(found.tolist(), told, strict=True):
        mine = zip(kinds[sample], unpack_mask(mask, count), strict=True) if known else ()
        pruned = {int(kind) for kind, kept in mine if not kept}
        assert {k for k in range(len(KINDS)) if bits >> k & 1} == pruned


def test_another_text_is_refused(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    root, paths, cells = run
    (tmp_path / "rows.jsonl").write_text("\n".join((root / "rows.jsonl").read_text().splitlines()[:-1]))
    moved = cell_of(tmp_path / "rows.jsonl", "q-tuning")
    with pytest.raises(UserError, match="row 39, which was trained, is not in its source"):
        read_texts(moved, model_path(paths.model(cells[0])), load_samples(paths.samples(cells[0])), {39})
