"""Several workflows collect into one store, and draw from it, at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cell_folders import Folders

from qtuning.errors import UserError
from qtuning.files import write_text
from qtuning.locks import exclusive
from qtuning.store.fresh import MARKER, states_of
from qtuning.store.store import LOCK, Store, write_store


@pytest.fixture
def folders(make_folders: Callable[..., Folders]) -> Folders:
    made = make_folders(budgets=["25x50"], seeds=[0])
    for cell in made.grid.cells:
        made.answer(cell)
    write_store([made.grid], made.results)
    return made


@pytest.fixture
def other(make_folders: Callable[..., Folders], folders: Folders) -> Folders:
    """An experiment with the same results folder, and other cells."""
    return make_folders(name="other", title="Other", budgets=["50x50"], seeds=[1])


def test_a_store_is_read_while_another_experiment_is_collected(folders: Folders, other: Folders) -> None:
    """Each read finds whole files, with the rows of its own experiment as they were."""
    expected, ended = Store(folders.results).experiment("mini"), threading.Event()

    def reads() -> Iterator[int]:
        while not ended.is_set():
            store = Store(folders.results)
            answers = store.answers
            assert store.experiment("mini").equals(expected)
            yield answers.join(expected.lazy(), on="cell", how="semi").collect().height

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(lambda: list(reads())) for _ in range(2)]
        try:
            for number in range(12):
                other.answer(other.grid.cells[number % len(other.grid.cells)], number)
                write_store([other.grid], other.results)
        finally:
            ended.set()
        found = [height for reader in readers for height in reader.result()]
    assert len(set(found)) == 1 and found[0] > 0


def test_answers_that_were_opened_stay_as_they_were(folders: Folders, other: Folders) -> None:
    opened = Store(folders.results).answers
    before = opened.collect()
    other.answer(other.grid.cells[-1])
    write_store([other.grid], other.results)
    assert opened.collect().equals(before)
    assert Store(folders.results).answers.collect().height > before.height


def test_who_finds_a_file_that_is_newer_than_its_digest_waits_for_its_writer(folders: Folders, other: Folders) -> None:
    results = folders.results
    old = (results / MARKER).read_text()
    other.answer(other.grid.cells[-1])
    write_store([other.grid], results)
    new = (results / MARKER).read_text()
    with ThreadPoolExecutor() as pool, exclusive(results / LOCK, "collecting scores"):
        write_text(results / MARKER, old)  # as when the files are written, and their digests are not
        reader = pool.submit(lambda: Store(results).experiment("other"))
        with pytest.raises(TimeoutError):
            reader.result(timeout=0.5)
        write_text(results / MARKER, new)
    assert reader.result().height > 0


@pytest.mark.parametrize("lock", [True, False])
def test_a_file_that_nobody_is_writing_is_damaged(folders: Folders, lock: bool) -> None:
    """lock: whether there is a lock to wait for. A store that was copied has none."""
    if not lock:
        (folders.results / LOCK).unlink()
    path = folders.results / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"scores\.parquet: damaged \(its digest differs\)"):
        Store(folders.results).experiment("mini")
    assert (folders.results / LOCK).exists() == lock


def test_temporary_files_come_and_go_while_a_folder_is_looked_at(folders: Folders) -> None:
    ended, writing = threading.Event(), folders.folder(folders.grid.cells[1]) / ".train.json.1.tmp"

    def writes() -> None:
        while not ended.is_set():
            writing.touch()
            writing.unlink()

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(writes)
        try:
            for _ in range(300):
                states_of([folders.grid], folders.results)
        finally:
            ended.set()
        writer.result()
