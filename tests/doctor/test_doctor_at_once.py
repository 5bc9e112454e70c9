"""The doctor looks at results while jobs write them: what comes and goes is no damage."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cell_folders import Folders

from qtuning.doctor.results import look_at_results
from qtuning.experiment.ids import ResultPaths
from qtuning.files import atomic_path


@pytest.fixture
def paths(folders: Folders) -> ResultPaths:
    folders.finish(folders.grid.cells[1])
    return ResultPaths(folders.results)


def test_folders_that_come_and_go(folders: Folders, paths: ResultPaths) -> None:
    ended, target = threading.Event(), folders.folder(folders.grid.cells[1]) / "evaluation-01234567"

    def writes() -> None:
        while not ended.is_set():
            with atomic_path(target) as temporary:
                for name in ("a", "b", "c"):
                    (temporary / name / "deep").mkdir(parents=True)
            shutil.rmtree(target)

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(writes)
        try:
            for _ in range(40):
                assert not [finding for finding in look_at_results(paths, thorough=True) if finding.level == "problem"]
        finally:
            ended.set()
        writer.result()


def test_what_is_half_written_is_no_damage(folders: Folders, paths: ResultPaths) -> None:
    with atomic_path(folders.folder(folders.grid.cells[1]) / "evaluation-01234567") as temporary:
        temporary.mkdir()
        Path(temporary, "items.parquet").write_bytes(b"PAR1 half")
        Path(temporary, "scores.json").write_text('{"half')
        assert not [finding for finding in look_at_results(paths) if finding.level == "problem"]
        shutil.rmtree(temporary)
        temporary.mkdir()
