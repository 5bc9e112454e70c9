"""Outputs whole or not at all; one writer at a time; one text per value."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtuning import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent, "a rename across file systems is no rename"
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole" and names(target.parent) == ["b.txt"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with files.atomic_path(target) as temporary:
        (temporary / "sub").mkdir(parents=True)
        (temporary / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1" and names(tmp_path) == ["folder"]


def test_replacing(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    for text in ("old", "new"):
        with files.atomic_path(file) as temporary:
            temporary.write_text(text)
        with files.atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert file.read_text() == "new"
    assert names(folder) == ["new"], "a folder is replaced, not merged"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(143)])
def test_failure_leaves_the_old_and_no_rest(tmp_path: Path, kind: str, existed: bool, error: BaseException) -> None:
    target = tmp_path / "target"

    def write(path: Path, text: str) -> None:
        if kind == "folder":
            path.mkdir()
        (path / "x" if kind == "folder" else path).write_text(text)

    if existed:
        write(target, "old")

    def fail() -> None:
        with files.atomic_path(target) as temporary:
            write(temporary, "new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == (["target"] if existed else [])
    if existed:
        assert (target / "x" if kind == "folder" else target).read_text() == "old"


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "target"):
        pass
    assert (tmp_path / "target").read_text() == "old"


def test_kill_leaves_the_old(tmp_path: Path) -> None:
    """kill -9 in the middle of a write: the old file stands, and only a hidden temporary is left."""
    target = tmp_path / "target"
    target.write_text("old")
    code = (
        "import sys, os, signal; from pathlib import Path; from qtuning.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t:\n    t.write_text('new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names(tmp_path) if name != "target")


def test_leftovers_of_the_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.0a1b2c3d.tmp").write_text("half")
    (tmp_path / ".y.0a1b2c3d.old").mkdir()
    (tmp_path / ".y.0a1b2c3d.old" / "z").write_text("old")
    for name in ("x", ".hidden", "notes.tmp"):
        (tmp_path / name).write_text("mine")
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "notes.tmp", "x"]


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    """Several jobs write to a cell's folder at once; each removes its own."""
    for name in ("weights", "train.json", "evaluation-01234567"):
        (tmp_path / f".{name}.0a1b2c3d.tmp").mkdir()
    files.remove_leftovers(tmp_path, ("measured.json", "train.json"))
    assert names(tmp_path) == [".evaluation-01234567.0a1b2c3d.tmp", ".weights.0a1b2c3d.tmp"]


def test_json_round_trip_and_what_is_no_json(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    files.write_json(target, {"b": [1, 0.1, None], "a": "Zürich"})
    assert files.read_json(target) == {"b": [1, 0.1, None], "a": "Zürich"}
    assert target.read_text(encoding="utf-8").index('"a"') < target.read_text(encoding="utf-8").index('"b"')
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            files.write_json(target, {"a": value})
        with pytest.raises(ValueError, match="JSON"):
            files.canonical_json([value])
    assert files.read_json(target)["a"] == "Zürich" and names(tmp_path) == ["x.json"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(entry) for entry in value] if isinstance(value, list) else value


@given(JSON)
def test_one_text_per_value(value: Any) -> None:
    text = files.canonical_json(value)
    assert json.loads(text) == value
    assert text == files.canonical_json(reversed_keys(value)) == files.canonical_json(json.loads(text))
    assert files.short_hash(value) == files.short_hash(reversed_keys(value))


def test_canonical_json_and_hashes_by_hand(tmp_path: Path) -> None:
    value = {"b": [1, 2.5], "a": {"ä": None}}
    assert files.canonical_json(value) == '{"a":{"ä":null},"b":[1,2.5]}'
    (tmp_path / "x").write_text(files.canonical_json(value), encoding="utf-8")
    digest = subprocess.run(["sha256sum", tmp_path / "x"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert files.file_digest(tmp_path / "x") == digest
    assert files.short_hash(value) == digest[:8]
