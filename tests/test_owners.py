"""What another user of the machine may have put where our locks and results lie."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from two_users import open_to_all

from qtuning.errors import UserError
from qtuning.locks import exclusive, exclusive_if_free, is_held, remove_lock
from qtuning.owners import check_private, check_results

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="two users need root")


def as_nobody(do: Callable[[], None]) -> str:
    """What `do`, called by another user, is told; "" if nothing is wrong."""
    reader, writer = os.pipe()
    if (process := os.fork()) == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            do()
        except UserError as error:
            os.write(writer, str(error).encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as said:
        text = said.read()
    os.waitpid(process, 0)
    return text


def take(lock: Path) -> None:
    with exclusive(lock, "the test"):
        assert "process" in lock.read_text()


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that all users reach, under the usual umask."""
    open_to_all(tmp_path)
    mask = os.umask(0o022)
    yield tmp_path
    os.umask(mask)


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (lambda path: path.symlink_to(path.with_name("precious")), "a symbolic link"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "a symbolic link"),
        (lambda path: os.link(path.with_name("precious"), path), "a file with 2 names"),
        (os.mkfifo, "a named pipe"),
        (Path.mkdir, "a folder"),
        (put_socket, "no plain file"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [take, is_held, remove_lock, lambda lock: exclusive_if_free(lock).__enter__()],
    ids=["take", "ask", "rm", "try"],
)
def test_what_is_no_plain_file_is_no_lock(
    put: Callable[[Path], None],
    what: str,
    use: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is neither written to nor waited for (a named pipe would never open)."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    (tmp_path / "precious").write_text("a thesis")
    put(Path("x.lock"))
    with pytest.raises(UserError, match=rf"^x\.lock: is {what}, which is in the way of qtuning's locks; remove it$"):
        use(Path("x.lock"))
    assert (tmp_path / "precious").read_text() == "a thesis"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_where_the_folder_of_locks_should_be(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    for lock in (tmp_path / "results/x.lock", tmp_path / "results/locks/x.lock"):
        with pytest.raises(UserError, match="results: is a file, which is in the way of qtuning's locks; remove it"):
            take(lock)


@needs_root
def test_a_lock_of_a_stranger_is_refused_and_one_of_the_folders_owner_is_not(open_path: Path) -> None:
    folder, lock = open_path / "locks", open_path / "locks/x.lock"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    lock.write_text("")
    lock.chmod(0o666)
    os.chown(lock, NOBODY, NOBODY)
    with pytest.raises(
        UserError, match=r"x\.lock: belongs to nobody, whose folder this is not; have nobody remove it, or"
    ):
        take(lock)
    folder.chmod(0o775)
    take(lock)  # a group shares the folder
    folder.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    take(lock)
    folder.chmod(0o757)
    take(lock)
    os.chown(lock, 4321, 4321)
    with pytest.raises(UserError, match="belongs to user 4321"):
        take(lock)


@needs_root
def test_a_second_user_is_told_what_the_folder_needs(open_path: Path) -> None:
    results = open_path / "results"
    take(results / "locks/x.lock")
    denied = (
        "Permission denied: {0} belongs to root, and nobody may not write there; take a results folder of your own "
        "(--config results=FOLDER, --results FOLDER), or have root share it with a group (docs/security.md)"
    )
    told = f"{results}: " + denied.format(results)
    assert as_nobody(lambda: check_results(results)) == told
    assert as_nobody(lambda: check_results(results, to_write=False)) == ""
    assert as_nobody(lambda: check_results(results / "deeper")).endswith(denied.format(results))
    (results / "locks/x.lock").chmod(0o644)
    assert as_nobody(lambda: take(results / "locks/x.lock")) == f"{results}/locks/x.lock: " + denied.format(
        results / "locks/x.lock"
    )
    assert as_nobody(lambda: take(results / "state/y.lock")).endswith(denied.format(results))
    results.chmod(0o777)
    assert as_nobody(lambda: check_results(results)) == f"{results}/locks: " + denied.format(results / "locks")

    # as docs/security.md says
    for path in (results, *results.rglob("*")):
        os.chown(path, 0, NOBODY)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    assert as_nobody(lambda: check_results(results)) == ""
    assert as_nobody(lambda: take(results / "locks/x.lock")) == ""
    assert as_nobody(lambda: take(results / "state/y.lock")) == ""


def test_a_results_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match=r"results is no folder; choose another: --config results=FOLDER"):
        check_results(tmp_path / "results/mine", to_write=False)
    check_results(tmp_path / "new/folder")


def test_a_private_folder_is_ours_alone_and_no_link(tmp_path: Path) -> None:
    """A link to a folder of ours would have us put sockets and logs there."""
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir(mode=0o700)
    check_private(mine)
    link.symlink_to(mine)
    with pytest.raises(PermissionError, match="must be a folder that is ours alone"):
        check_private(link)
    mine.chmod(0o750)
    with pytest.raises(PermissionError, match="must be a folder that is ours alone"):
        check_private(mine)
