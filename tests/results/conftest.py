"""Fixtures of the score table and what is drawn from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cell_folders import CONFIGS, Folders, library

from qtuning.grid import Library


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The mini experiment as it is shipped, nothing run yet."""
    (grid,) = Library(CONFIGS).experiments(["mini"])
    return Folders(tmp_path / "results", grid)


@pytest.fixture
def make_folders(tmp_path: Path) -> Callable[..., Folders]:
    """The mini experiment with changed keys, nothing run yet."""

    def make(**changes: Any) -> Folders:
        name = changes.get("name", "mini")
        (grid,) = library(tmp_path / "configs", **changes).experiments([name])
        return Folders(tmp_path / "results", grid)

    return make
