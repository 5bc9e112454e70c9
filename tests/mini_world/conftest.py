"""One generated world for all tests of this folder."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mini_world import generate

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="session")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    generate(folder)
    return folder


@pytest.fixture(scope="session")
def rows(world_dir: Path) -> Rows:
    """`set/split` -> records."""
    found: Rows = {}
    for path in sorted(world_dir.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            found[str(path.relative_to(world_dir)).removesuffix(".jsonl.gz")] = [json.loads(line) for line in handle]
    return found
