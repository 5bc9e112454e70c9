"""Damaged files that commands read by name: one line that says what to delete."""

from pathlib import Path

import pytest

from qtuning.cli.options import read_cell, read_evaluation
from qtuning.data.contamination import _read_report
from qtuning.errors import UserError


@pytest.mark.parametrize("text", ['{"model": {"na', "", "[]", '{"model": 3}'])
def test_a_damaged_configuration_says_what_to_delete(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cell.json"
    path.write_text(text)
    for read in (read_cell, read_evaluation):
        with pytest.raises(UserError, match=r"cell\.json: damaged \(.*\); delete it, and run Snakemake") as found:
            read(path)
        assert "\n" not in str(found.value) and "pydantic" not in str(found.value) and len(str(found.value)) < 250


def test_a_report_of_overlap_that_was_cut_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mini.json"
    path.write_text('{"label": "Mini SFT", "rows": 1')
    with pytest.raises(UserError, match=r"mini\.json: damaged \(.*\); delete it: the overlap is counted again"):
        _read_report(path)
