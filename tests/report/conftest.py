"""The report of an experiment of the committed example store, and what it should say, worked out from that store."""

from pathlib import Path

import polars as pl
import pytest

from qtuning.report.build import write_report
from qtuning.store.store import Store

STORE = Path(__file__).parents[2] / "docs/example/store"


@pytest.fixture(scope="package")
def scores() -> pl.DataFrame:
    """The headline scores of `mini`, a row per cell and benchmark."""
    rows = pl.read_parquet(STORE / "scores.parquet")
    return rows.filter((pl.col("experiment") == "mini") & pl.col("headline"))


@pytest.fixture(scope="package")
def averages(scores: pl.DataFrame) -> pl.DataFrame:
    """A row per method and budget: `mean` and `sd` of the average over seeds, `flops`, and its `cells`.

    Retention asks what was known before, and is in no average.
    """
    by_cell = scores.filter(pl.col("benchmark") != "retention").group_by("cell").agg(pl.col("score").mean())
    cells = scores.unique("cell").join(by_cell.rename({"score": "average"}), on="cell").sort("seed")
    return cells.group_by("method", "sample_ratio", "token_ratio").agg(
        pl.col("average").mean().alias("mean"),
        pl.col("average").std().alias("sd"),
        pl.col("average").alias("values"),
        pl.col("flops_total").mean().alias("flops"),
        pl.col("cell").alias("cells"),
    )


@pytest.fixture(scope="package")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html, with its files beside it."""
    return write_report(["mini"], STORE, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="package")
def store() -> Store:
    return Store(STORE)
