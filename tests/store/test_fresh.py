"""What was collected is not collected again, until something changes; then it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cell_folders import Folders

from qtuning.errors import UserError
from qtuning.store.collect import collect
from qtuning.store.store import Store, write_store


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The experiments of each time that cells were read."""
    found = list[str]()

    def counted(grids: Any, results: Path) -> Any:
        found.append(grids[0].experiment.name)
        return collect(grids, results)

    monkeypatch.setattr("qtuning.store.store.collect", counted)
    return found


@pytest.fixture
def folders(make_folders: Callable[..., Folders]) -> Folders:
    made = make_folders(budgets=["25x50"], seeds=[0])
    for cell in made.grid.cells:
        made.finish(cell)
    return made


def test_only_changes_are_collected(
    folders: Folders, make_folders: Callable[..., Folders], collected: list[str]
) -> None:
    cell, results = folders.grid.cells[1], folders.results
    for _ in range(2):
        write_store([folders.grid], results)
    assert collected == ["mini"]
    folders.evaluate(cell, score=lambda benchmark: 0.125)
    write_store([folders.grid], results)
    assert collected == ["mini", "mini"] and 12.5 in Store(results).scores["score"].to_list()
    other = make_folders(name="other", title="Other", budgets=["25x50"], seeds=[0])
    for folder in (other, folders, other):
        write_store([folder.grid], results)
    assert collected == ["mini", "mini", "other"], "one experiment does not make another old"
    retitled = make_folders(title="Another", budgets=["25x50"], seeds=[0])
    write_store([retitled.grid], results)
    assert collected[3:] == ["mini"] and "Another" in Store(results).scores["title"].to_list()


@pytest.mark.parametrize("damage", ["items", "marker", "nonsense"])
def test_a_store_that_somebody_changed_is_made_again(folders: Folders, collected: list[str], damage: str) -> None:
    write_store([folders.grid], folders.results)
    before = (folders.results / "scores.parquet").read_bytes()
    marker = folders.results / ".collected.json"
    if damage == "marker":
        marker.unlink()
    elif damage == "nonsense":
        marker.write_text(marker.read_text()[:-9])
    else:
        (folders.results / f"{damage}.parquet").unlink()
    write_store([folders.grid], folders.results)
    assert collected == ["mini", "mini"] and (folders.results / "scores.parquet").read_bytes() == before


def test_damaged_answers_leave_the_store_as_it_was(folders: Folders) -> None:
    write_store([folders.grid], folders.results)
    files = {path.name: path.read_bytes() for path in folders.results.iterdir() if path.is_file()}
    scores = folders.evaluate(folders.grid.cells[1], score=lambda benchmark: 0.125)
    (scores.parent / "items.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"items\.parquet: damaged \(.*\); delete .*evaluation-"):
        write_store([folders.grid], folders.results)
    assert {path.name: path.read_bytes() for path in folders.results.iterdir() if path.is_file()} == files
