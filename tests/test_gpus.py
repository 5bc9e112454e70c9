"""Leases of GPUs, with files in place of devices: never shared, freed by any death."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from qtuning.gpus import lease, visible

HOLDER = """
import sys, time
from pathlib import Path
from qtuning.gpus import lease
print(",".join(lease(int(sys.argv[1]), ["0", "1"], Path(sys.argv[2]))), flush=True)
time.sleep(60)
"""


def holder(count: int, folder: Path) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", HOLDER, str(count), str(folder)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_jobs_never_share_a_device_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    with holder(1, tmp_path) as first, holder(1, tmp_path) as second:
        assert first.stdout
        assert second.stdout
        assert sorted([first.stdout.readline().strip(), second.stdout.readline().strip()]) == ["0", "1"]
        with holder(1, tmp_path) as third:
            assert third.stderr
            assert "waiting for 1 of the GPUs 0, 1" in third.stderr.readline()
            first.kill()
            assert third.stdout
            started = time.monotonic()
            assert third.stdout.readline().strip() in ("0", "1")
            assert time.monotonic() - started < 30
            third.kill()
        second.kill()


def test_more_than_there_are_is_all_of_them(tmp_path: Path) -> None:
    assert lease(8, ["0", "1"], tmp_path) == ["0", "1"]


def test_no_device_is_nothing_to_hold(tmp_path: Path) -> None:
    assert lease(1, [], tmp_path) == []


@pytest.mark.parametrize(("setting", "devices"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-abc", ["GPU-abc"])])
def test_the_users_choice_is_respected(monkeypatch: pytest.MonkeyPatch, setting: str, devices: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible() == devices
