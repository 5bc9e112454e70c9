"""A cell is trained again while its results are collected: its files are new before its marker is."""

import threading

import pytest
from cell_folders import Folders

from qtuning.errors import UserError
from qtuning.experiment.ids import ResultPaths
from qtuning.files import read_json
from qtuning.locks import exclusive, settled
from qtuning.manifest import FILES, digests_of, write_sealed
from qtuning.store.collect import collect


def test_a_cell_that_is_being_trained_again_is_not_damaged(folders: Folders) -> None:
    cell = folders.find("q-tuning-25x50-s0")
    folders.finish(cell)
    folder, lock = folders.folder(cell), ResultPaths(folders.results).training_lock(cell)
    metrics, marker = folder / "metrics.jsonl", folder / "train.json"
    found = read_json(marker)
    locked, ended = threading.Event(), threading.Event()

    def trains() -> None:
        with exclusive(lock, "training"):
            metrics.write_text('{"update": 0, "loss": 2.0}\n')
            locked.set()
            ended.wait(0.3)
            write_sealed(marker, found | {FILES: digests_of(folder, [metrics])})

    metrics.write_text('{"update": 0, "loss": 1.0}\n')
    write_sealed(marker, found | {FILES: digests_of(folder, [metrics])})
    training = threading.Thread(target=trains)
    training.start()
    locked.wait()
    _, cells = collect([folders.grid], folders.results)
    training.join()
    assert "done" in cells["status"].to_list()
    metrics.write_text("?")
    with pytest.raises(UserError, match=r"metrics\.jsonl: damaged"):
        collect([folders.grid], folders.results)


def test_what_nobody_locked_is_checked_once(folders: Folders) -> None:
    checked = []

    def fails() -> None:
        checked.append(1)
        raise UserError("damaged")

    with pytest.raises(UserError, match="damaged"):
        settled(fails, folders.results / "none.lock", "training")
    assert len(checked) == 1 and not (folders.results / "none.lock").exists()
