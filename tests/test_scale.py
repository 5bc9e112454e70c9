"""The measurements of docs/scale.md run, at sizes at which their figures mean nothing."""

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_step_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    from benchmarks.scale import cells, command

    command.main(["--rows", "300", "--cells", "100", "--work", str(tmp_path), "--out", str(tmp_path / "out")])
    measured = json.loads((tmp_path / "out" / "scale.json").read_text())["tables"]
    tables = {table["title"]: table["rows"] for table in measured}
    assert [row["step"] for row in tables["Train sets"]] == ["prepare", "load and walk", "trace"]
    assert [row["step"] for row in tables["Grids"]] == list(cells.STEPS), "and the last found nothing to do"
    assert all(row["seconds"] > 0 and row["peak MiB"] > 50 for rows in tables.values() for row in rows)
