"""Space, locks and the hub."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from qtuning.doctor import storage
from qtuning.doctor.storage import file_system, look_at_hub, look_at_results_folder, try_locks


def test_locks_work_here_and_leave_nothing(tmp_path: Path) -> None:
    assert try_locks(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    findings, tell = look_at_results_folder(tmp_path / "not" / "yet")
    assert tell and [finding.level for finding in findings] == ["ok", "ok"]
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """gpu-review 7: Lustre without `-o flock` answers ENOSYS."""

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    findings, tell = look_at_results_folder(tmp_path)
    assert tell and findings[1].level == "problem", "lock files name their holders"
    assert errno.errorcode[number] in findings[1].text and "-o flock" in findings[1].advice


def test_locks_that_two_can_hold_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert try_locks(tmp_path) == "two holders got one lock"


def test_of_a_shared_file_system_it_says_what_it_cannot_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "file_system", lambda folder: "nfs4")
    findings, tell = look_at_results_folder(tmp_path)
    assert tell and findings[1].level == "note" and "between machines one cannot try them" in findings[1].text


def test_type_of_the_file_system(tmp_path: Path) -> None:
    command = ["df", "--output=fstype", str(tmp_path)]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1]
    assert file_system(tmp_path) == expected
    assert file_system(Path("/proc/self")) == "proc"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=10**12, free=4 * 10**9))
    findings, _ = look_at_results_folder(tmp_path)
    assert (findings[0].level, findings[0].text) == ("problem", f"results {tmp_path}: 4.0 of 1000.0 GB free")


@pytest.mark.skipif(os.getuid() != 0, reason="root may write everywhere; another user must try")
def test_a_folder_that_we_may_not_write_to(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from qtuning.doctor.storage import look_at_results_folder\n"
        "os.setuid(65534); findings, tell = look_at_results_folder(Path('/proc')); print(tell, findings[1].text)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False /proc: this user may not write here\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0a1b.incomplete").write_bytes(b"half")
    return tmp_path


def test_offline_nobody_is_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    findings = list(look_at_hub())
    assert findings[0].text.startswith(f"hub cache {cache / 'hub'}: ")
    assert [finding.text[:25] for finding in findings[1:]] == ["1 file(s) half fetched, 0", "HF_HUB_OFFLINE is set: on"]


def test_a_hub_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real connection, refused: nothing listens there."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    findings = list(look_at_hub())
    assert "http://127.0.0.1:9 does not answer" in findings[2].text
    assert findings[2].advice.startswith("set HF_HUB_OFFLINE=1")
    assert findings[3].advice == "hf auth login"
