"""Leases of GPUs, with files in place of devices: never shared, freed by any death, and not of a GPU that is full."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nvml_stand_in import Card, NvmlStandIn
from two_users import open_to_all

from qtuning.errors import UserError
from qtuning.gpus import lease as leases
from qtuning.gpus.device import Device, Memory
from qtuning.gpus.find import look
from qtuning.gpus.lease import current_memory, is_leased, lease, lock_folder

GIB = 2**30
HOLDER = """
import sys, time
from pathlib import Path
from qtuning.gpus.device import Device
from qtuning.gpus.lease import lease
devices = [Device(name, name, f"GPU {name}") for name in "01"]
print(",".join(device.name for device in lease(int(sys.argv[1]), devices, Path(sys.argv[2]))), flush=True)
time.sleep(600)
"""


def numbered(*names: str) -> list[Device]:
    return [Device(name, f"key-{name}", f"GPU {name}", total=80 * GIB) for name in names]


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
            assert "waiting for 1 GPU(s): other jobs hold GPU 0, GPU 1" in third.stderr.readline()
            first.kill()
            assert third.stdout
            started = time.monotonic()
            assert third.stdout.readline().strip() in ("0", "1")
            assert time.monotonic() - started < 120
            third.kill()
        second.kill()


def test_the_lease_outlives_exec_and_ends_with_the_process(tmp_path: Path) -> None:
    """The launcher of several processes takes the place of the command that holds the lease."""
    (device,) = numbered("0")
    code = f"""
import os, sys
from pathlib import Path
from qtuning.gpus.device import Device
from qtuning.gpus.lease import lease
lease(1, [{device!r}], Path(sys.argv[1]), memory=lambda device: None)
os.execv(sys.executable, [sys.executable, "-c", "import sys; print('other', flush=True); sys.stdin.readline()"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "other\n"
        assert is_leased(device, tmp_path)
        process.communicate("\n")
    assert not is_leased(device, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(leases, "PATIENCE", 0.03)


def test_a_gpu_that_strangers_fill_is_passed_over(tmp_path: Path) -> None:
    memory = {"0": Memory(80 * GIB, 63 * GIB), "1": Memory(80 * GIB, 65 * GIB)}
    held = lease(1, numbered("0", "1"), tmp_path, memory=lambda device: memory[device.name])
    assert [device.name for device in held] == ["1"]
    assert not is_leased(numbered("0")[0], tmp_path), "what was passed over is nobody's"


def test_strangers_who_stay_are_named(
    tmp_path: Path, impatient: None, machine: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    card = Card("GPU-a", free=3 * GIB, processes={4321: 70 * GIB, 77: None})
    stand_in = NvmlStandIn(card)
    stand_in.names[4321] = "/opt/conda/bin/python3.11"
    devices = look(machine(stand_in, "dev/nvidiactl")).devices
    with pytest.raises(UserError) as caught:
        lease(1, devices, tmp_path)
    expected = (
        "GPU 0 (NVIDIA H100 80GB HBM3) has 3.0 of 80.0 GiB free; process 4321 (python3.11) holds 70.0 GiB; process 77"
    )
    assert expected in str(caught.value)
    assert "QTUNING_GPU_FREE (now 0.8)" in str(caught.value)
    assert capfd.readouterr().err == f"waiting for 1 GPU(s): {expected}\n", "told once"


def test_memory_that_becomes_free_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.01)
    free = iter([0, 0, 80])
    held = lease(1, numbered("0"), tmp_path, memory=lambda device: Memory(80 * GIB, next(free) * GIB))
    assert len(held) == 1


def test_jobs_of_ours_are_waited_for_however_long(tmp_path: Path, impatient: None) -> None:
    """One of two GPUs is full, the other is leased: that one will be free again."""
    asked = 0

    def memory(device: Device) -> Memory:
        nonlocal asked
        asked += 1
        if asked == 30:
            os.close(descriptor)
        return Memory(80 * GIB, 0 if device.name == "1" else 80 * GIB)

    descriptor = leases._take(tmp_path, numbered("0")[0])
    assert [device.name for device in lease(1, numbered("0", "1"), tmp_path, memory=memory)] == ["0"]
    assert asked >= 30


@pytest.mark.parametrize("share", ["0", "0.03"])
def test_the_share_that_must_be_free_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("QTUNING_GPU_FREE", share)
    assert len(lease(1, numbered("0"), tmp_path, memory=lambda device: Memory(80 * GIB, 3 * GIB))) == 1


@pytest.mark.parametrize("share", ["half", "1.5", "-1"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("QTUNING_GPU_FREE", share)
    with pytest.raises(UserError, match=f"QTUNING_GPU_FREE = '{share}': must be a share between 0"):
        lease(1, numbered("0"), tmp_path)


def test_a_mig_instance_is_asked_for_its_own_memory(machine: Callable[..., Path]) -> None:
    small = Card("MIG-1", total=5 * GIB, free=4 * GIB)
    devices = look(machine(NvmlStandIn(Card("GPU-a", instances={3: small})), "dev/nvidiactl")).devices
    assert str(current_memory(devices[0])) == "4.0 of 5.0 GiB free"


def test_the_locks_are_in_one_place_whatever_tmpdir_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm and some shells set TMPDIR: two jobs of one machine would not see each other's locks."""
    usual = lock_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lock_folder() == usual
    assert usual.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.skipif(os.getuid() != 0, reason="two users need root")
def test_two_users_share_the_locks(tmp_path: Path) -> None:
    """The first has the strictest umask; the second may read the lock and nothing else."""
    (device,) = numbered("0")
    open_to_all(tmp_path)
    tmp_path.chmod(0o1777)
    mask = os.umask(0o077)
    try:
        descriptor = leases._take(tmp_path, device)
    finally:
        os.umask(mask)
    assert descriptor is not None
    process = os.fork()
    if process == 0:
        os.setuid(65534)
        os._exit(0 if is_leased(device, tmp_path) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(descriptor)


def test_a_lock_file_that_is_there_is_not_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fs.protected_regular Linux refuses O_CREAT for the file of another user in such a folder."""
    (device,) = numbered("0")
    assert not is_leased(device, tmp_path)
    flags: list[int] = []
    usual = os.open

    def note(path: Path, flag: int, mode: int = 0o777) -> int:
        flags.append(flag)
        return usual(path, flag, mode)

    monkeypatch.setattr(os, "open", note)
    assert not is_leased(device, tmp_path)
    assert len(flags) == 1 and not flags[0] & os.O_CREAT


@pytest.mark.skipif(os.getuid() != 0, reason="two users need root")
def test_what_another_user_put_in_the_place_of_the_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link would have root's job lock any file; in a folder without sticky bit locks can be renamed."""
    (device,) = numbered("0")
    (tmp_path / "other").write_text("")
    (tmp_path / "key-0.lock").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"key-0\.lock: is a symbolic link, which is in the way of qtuning's locks"):
        is_leased(device, tmp_path)
    (tmp_path / "key-0.lock").unlink()
    os.link(tmp_path / "other", tmp_path / "key-0.lock")
    with pytest.raises(UserError, match=r"key-0\.lock: is a file with 2 names"):
        is_leased(device, tmp_path)

    monkeypatch.setattr(leases, "Path", lambda _: tmp_path)
    folder = tmp_path / "qtuning-gpus"
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="qtuning-gpus: is a symbolic link"):
        lock_folder()
    folder.unlink()
    assert lock_folder() == folder and folder.stat().st_mode & 0o7777 == 0o1777, "made at once with the sticky bit"
    os.chown(folder, 65534, 65534)
    assert lock_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(UserError, match="qtuning-gpus: nobody could take others' locks away there; have nobody remove"):
        lock_folder()
