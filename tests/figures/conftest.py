"""A small store, and its figures drawn once for all tests that read them."""

from pathlib import Path

import polars as pl
import pytest
from figure_frames import cell_rows, grid, write_store

from qtuning.figures.write import Written, write_figures
from qtuning.store.store import Store


def scores() -> pl.DataFrame:
    """Two budgets, two seeds, three methods, one hole."""
    whole = grid(["random+random", "longest+ppl", "q-tuning"], [(0.25, 0.5), (0.5, 0.7)])
    broken = whole.filter(pl.col("cell") != "mini-longest+ppl-50x70-s1")
    hole = cell_rows("longest+ppl", 0.5, 0.7, 1, status="diverged", reason="the loss is not finite")
    return pl.concat([broken, pl.DataFrame(hole, schema=whole.schema, orient="row")])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store."""
    return write_store(tmp_path_factory.mktemp("store"), scores())


@pytest.fixture(scope="session")
def store(folder: Path) -> Store:
    """What the figures read of it."""
    return Store(folder)


@pytest.fixture(scope="session")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """Its figures."""
    return write_figures("demo", Store(folder), tmp_path_factory.mktemp("figures"))
