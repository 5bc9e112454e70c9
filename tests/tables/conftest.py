"""Folders of cells whose table is worked out by hand."""

from collections.abc import Callable

import pytest
from cell_folders import Folders
from score_tables import TWO, fill


@pytest.fixture
def complete(make_folders: Callable[..., Folders]) -> Folders:
    """Two benchmarks, one budget, two seeds, everything done."""
    folders = make_folders(evaluation=TWO, budgets=["25x50"])
    fill(
        folders,
        {
            "zero-shot": (0.10, 0.02),
            "mini-full-s0": (0.50, 0.10),
            "mini-full-s1": (0.54, 0.14),
            "random+random-25x50-s0": (0.30, 0.05),
            "random+random-25x50-s1": (0.32, 0.09),
            "q-tuning-25x50-s0": (0.33, 0.06),
            "q-tuning-25x50-s1": (0.37, 0.06),
        },
    )
    return folders
