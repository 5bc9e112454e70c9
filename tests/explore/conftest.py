"""A tiny run that the tests of the explorer share."""

from pathlib import Path
from typing import Any

import pytest
from explored import trained


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(folder, its paths, two cells): Q-Tuning and random pruning on 40 rows, six of which are nasty."""
    root = tmp_path_factory.mktemp("explore")
    return (root, *trained(root, ("q-tuning", "random+random")))
