"""What finds planted kinds: rules on batches made by hand, measures against their definition, and a collected store."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import Folders
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.experiment.ids import ResultPaths
from qtuning.store.planted_kinds import blocks_of, count_kinds, find_kinds, found_by, rules_of
from qtuning.store.store import Store, write_store
from qtuning.tables.planted_kinds import found_by_lines, planted_kinds_files, shares_of_lines

sample = st.tuples(st.booleans(), st.integers(0, 4), st.booleans())  # flagged, score, of the kind


@settings(deadline=None)
@given(st.lists(st.lists(sample, min_size=1, max_size=8), min_size=1, max_size=5))
def test_kinds_are_found_as_defined(batches: list[list[tuple[bool, int, bool]]]) -> None:
    """AUC over all pairs of a batch that differ in kind; precision and recall by counting."""
    judged = [(np.array([f for f, _, _ in b]), np.array([s for _, s, _ in b], dtype=float)) for b in batches]
    found = found_by(judged, [np.array([t for _, _, t in b]) for b in batches])
    rows = [row for batch in batches for row in batch]
    hits, flagged, wanted = (
        sum(map(bool, column)) for column in zip(*((f and t, f, t) for f, _, t in rows), strict=True)
    )
    assert (found["hits"], found["flagged"], found["of_kind"], found["samples"]) == (hits, flagged, wanted, len(rows))
    assert found["precision"] == (hits / flagged if flagged else None)
    assert found["recall"] == (hits / wanted if wanted else None)
    pairs = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for batch in batches
        for _, mine, of_kind in batch
        for _, other, of_another in batch
        if of_kind and not of_another
    ]
    assert found["auc"] == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


# sample 3 is high in error and uncertainty, 0 low in both; 2 is high in error alone, 1 in uncertainty alone
BATCH = pl.DataFrame({
    "update": 0, "epoch": 0, "sample": [0, 1, 2, 3], "ppl": [1.5, 2.0, 9.0, 10.0], "entropy": [0.1, 3.0, 0.2, 4.0],
    "quadrant": [3, 0, 2, 1], "kept": [False, True, True, False],
    "kind": ["redundant", "clean", "misconception", "noise"],
}, schema_overrides={"quadrant": pl.Int8, "update": pl.Int32, "epoch": pl.Int32})  # fmt: skip


@pytest.mark.parametrize(
    ("quadrant", "rule", "flagged"),
    [
        (1, "quadrant", [3]),
        (1, "median split", [3]),
        (1, "loss", [3]),
        (1, "entropy", [3]),
        (2, "quadrant", [2]),
        (2, "median split", [2]),
        (2, "loss", [3]),
        (2, "entropy", [0]),
        (3, "quadrant", [0]),
        (3, "loss", [0]),
        (3, "entropy", [0]),
        (3, "InfoBatch", [0, 1]),  # mean loss ln(1.5 x 2 x 9 x 10) / 4 = ln 4.05
    ],
)
def test_rules_flag_what_they_say(quadrant: int, rule: str, flagged: list[int]) -> None:
    flags, _ = rules_of(quadrant, "figure")[rule](*blocks_of(BATCH))
    assert np.flatnonzero(flags).tolist() == flagged


def test_the_reading_of_the_text_swaps_the_quadrants_of_high_error() -> None:
    flags, score = rules_of(1, "text")["median split"](*blocks_of(BATCH))
    assert np.flatnonzero(flags).tolist() == [2]
    _, score = rules_of(1, "text")["entropy"](*blocks_of(BATCH))
    assert int(np.argmax(score)) == 0, "noise is certain there"


def test_epochs_are_told_apart_and_together() -> None:
    second = BATCH.with_columns(epoch=pl.lit(1, pl.Int32), update=pl.lit(1, pl.Int32), kind=pl.Series(["clean"] * 4))
    rows = [row for row in find_kinds(pl.concat([BATCH, second]), "figure") if row["rule"] == "quadrant"]
    noise = {row["epoch"]: (row["samples"], row["precision"], row["recall"]) for row in rows if row["kind"] == "noise"}
    assert noise == {None: (8, 0.5, 1.0), 0: (4, 1.0, 1.0), 1: (4, 0.0, None)}
    unknown = BATCH.with_columns(quadrant=pl.lit(0, pl.Int8))
    assert list(find_kinds(unknown, "figure")) == [], "a method without quadrants"


def test_counts_are_of_kinds_in_quadrants() -> None:
    both = pl.concat([BATCH, BATCH.with_columns(kept=True)])
    found = {(kind, quadrant): (n, kept) for _, kind, quadrant, n, kept in count_kinds(both).iter_rows()}
    assert found == {("redundant", 3): (2, 1), ("clean", 0): (2, 2), ("misconception", 2): (2, 2), ("noise", 1): (2, 1)}


@pytest.fixture
def trained(make_folders: Callable[..., Folders]) -> Folders:
    """Q-Tuning, which decides the hand-made batch, and random pruning, which knows no scores; two seeds, two epochs."""
    given: dict[str, Any] = {"budgets": ["50x50"], "seeds": [0, 1], "methods": ["random+random", "q-tuning"]}
    folders = make_folders(**given)
    for cell in folders.grid.cells:
        folders.finish(cell)
        if cell.zero_shot:
            continue
        assert cell.pruning is not None and cell.seeds is not None
        trace = BATCH.drop("kind")
        if cell.pruning.method != "q-tuning":
            unknown = {"ppl": pl.lit(None, pl.Float64), "entropy": pl.lit(None, pl.Float64)}
            trace = trace.filter("kept").with_columns(**unknown, quadrant=pl.lit(0, pl.Int8))
        if cell.seeds.data == 1:  # the other half stays
            trace = trace.with_columns(kept=~pl.col("kept") if cell.pruning.method == "q-tuning" else "kept")
        later = trace.with_columns(epoch=pl.lit(1, pl.Int32), update=pl.lit(1, pl.Int32))
        traced = pl.concat([trace, later]).with_columns(supplement=pl.lit(False))
        traced.write_parquet(folders.folder(cell) / "trace.parquet")
        samples = ResultPaths(folders.results).samples(cell)
        samples.mkdir(parents=True, exist_ok=True)
        BATCH.select("sample", "kind").write_parquet(samples / "samples.parquet")
    return folders


def test_a_store_has_them_where_the_train_set_says_the_kinds(trained: Folders) -> None:
    write_store([trained.grid], trained.results)
    store = Store(trained.results)
    assert store.quadrant_kinds["cell"].n_unique() == 4 and store.found_kinds["cell"].n_unique() == 2
    order = ("cell", "epoch", "kind", "quadrant")
    assert store.quadrant_kinds.equals(store.quadrant_kinds.sort(order)), "the same cells give the same bytes"
    cells = store.cells_of("mini")
    shares = shares_of_lines(store.quadrant_kinds, cells)
    ours = shares.filter((pl.col("method") == "q-tuning") & pl.col("epoch").is_null())
    kept = {row["kind"]: row["share"] for row in ours.filter(pl.col("quadrant").is_null()).to_dicts()}
    assert kept == dict.fromkeys(("clean", "misconception", "redundant", "noise"), 50), "one seed all, one nothing"
    inside = ours.filter(pl.col("share") == 100).select("kind", "quadrant").rows()
    assert set(inside) == {("clean", 0), ("redundant", 3), ("misconception", 2), ("noise", 1)}
    random = shares.filter(
        (pl.col("method") == "random+random") & pl.col("quadrant").is_null() & (pl.col("epoch") == 0)
    )
    assert dict(random.select("kind", "share").iter_rows()) == {"clean": 100, "misconception": 100}
    found = found_by_lines(store.found_kinds, cells).filter(pl.col("epoch").is_null())
    assert found.filter(rule="quadrant")["precision"].to_list() == [1, 1, 1]
    page = planted_kinds_files(store.quadrant_kinds, store.found_kinds, cells)
    assert page is not None and [table.name for table in page.page.tables] == ["kept", "quadrants", "found"]
    text = page.texts["kinds.md"](page.page)
    assert "| Q1       |" in text and "| InfoBatch    |" in text and "50.0 ± 635.3" in text


def test_a_seed_without_a_trace_is_a_hole(trained: Folders) -> None:
    cell = trained.find("q-tuning-50x50-s1")
    (trained.folder(cell) / "trace.parquet").unlink()
    write_store([trained.grid], trained.results)
    store = Store(trained.results)
    shares = shares_of_lines(store.quadrant_kinds, store.cells_of("mini")).filter(method="q-tuning")
    assert len(shares) and shares["share"].null_count() == len(shares), "never a mean over fewer seeds"


def test_without_kinds_there_is_nothing(trained: Folders) -> None:
    for path in (trained.results / "train_sets").glob("*/samples.parquet"):
        pl.read_parquet(path).with_columns(kind=pl.lit(None, pl.String)).write_parquet(path)
    write_store([trained.grid], trained.results)
    store = Store(trained.results)
    assert not (trained.results / "found_kinds.parquet").exists() and store.quadrant_kinds.is_empty()
    assert planted_kinds_files(store.quadrant_kinds, store.found_kinds, store.cells_of("mini")) is None
