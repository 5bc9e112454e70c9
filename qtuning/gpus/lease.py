"""GPU leases on one machine: a job holds devices by locks that the kernel frees when the job dies, however it dies.

Snakemake limits how many GPUs are in use but assigns none. Without leases two jobs would both use the first one.
"""

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qtuning.errors import UserError
from qtuning.gpus import nvml, rocm
from qtuning.gpus.device import Device, Memory
from qtuning.owners import check_common, open_plain

POLL_SECONDS = 2.0
PATIENCE = 600.0  # seconds that processes which are none of our jobs may keep all free GPUs full
VARIABLE = "QTUNING_GPU_FREE"  # share of a GPU's memory that must be free
SHARE = 0.8  # a desktop takes a tenth of a small card, and a second training far more than a fifth of any


def current_memory(device: Device) -> Memory | None:
    """Memory of the device now; None where nothing tells."""
    if device.total is None:
        return None
    return nvml.memory_of(device.name) if device.node is None else rocm.memory_of(device.node)


def needed_share() -> float:
    """The share of a GPU's memory that must be free. UserError for a setting that is none."""
    text = os.environ.get(VARIABLE, str(SHARE))
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(f"{VARIABLE} = {text!r}: must be a share between 0 (do not look) and 1; default {SHARE}")
    return share


def lease(
    count: int,
    devices: Sequence[Device],
    folder: Path | None = None,
    memory: Callable[[Device], Memory | None] = current_memory,
) -> list[Device]:
    """Hold `count` of `devices` until this process, and what it becomes by exec, ends; wait while too few are free.

    Free is what no other job holds and what has enough free memory (`needed_share`). UserError where strangers keep the
    memory for PATIENCE seconds. folder: of the locks. memory: how a device is asked for its memory.
    """
    assert count <= len(devices)
    folder, share = folder or lock_folder(), needed_share()
    told, full_since = False, None
    while True:
        held: dict[Device, int] = {}
        leased, full = list[str](), list[str]()
        for device in devices:
            if len(held) == count:
                break
            descriptor = _take(folder, device)
            if descriptor is None:
                leased.append(device.title)
                continue
            found = memory(device)  # asked under the lock, so that what is in use is not ours
            if found is not None and found.free < share * found.total:
                os.close(descriptor)
                full.append(f"{device.title} has {found}")
                continue
            held[device] = descriptor
        if len(held) == count:
            for descriptor in held.values():
                os.set_inheritable(descriptor, True)
            return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        now = time.monotonic()
        full_since = (full_since or now) if len(devices) - len(full) < count else None
        if full_since is not None and now - full_since >= PATIENCE:
            raise UserError(
                f"{count} GPU(s) wanted, and {'; '.join(full)}; end what holds the memory, name other GPUs in "
                f"CUDA_VISIBLE_DEVICES, or set {VARIABLE} (now {share:g}) to the share that must be free"
            )
        if not told:
            reasons = [f"other jobs hold {', '.join(leased)}"] * bool(leased) + full
            print(f"waiting for {count} GPU(s): {'; '.join(reasons)}", file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)


def lock_folder() -> Path:
    """Where the locks lie: in the memory of the machine, in one place whatever TMPDIR says, for all its users.

    UserError if another user has put something else there.
    """
    memory = Path("/dev/shm")
    folder = (memory if memory.is_dir() else Path(tempfile.gettempdir())) / "qtuning-gpus"
    mask = os.umask(0)
    try:
        folder.mkdir(mode=0o1777)  # users of one machine share its GPUs, and so the locks
    except FileExistsError:
        check_common(folder)
    finally:
        os.umask(mask)
    return folder


def is_leased(device: Device, folder: Path | None = None) -> bool:
    """Whether a job holds the device at this moment."""
    descriptor = _take(folder or lock_folder(), device)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _take(folder: Path, device: Device) -> int | None:
    """A descriptor that holds the lock of the device, or None if another job holds it."""
    descriptor = _open(folder / f"{device.key.replace('/', '_')}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _open(path: Path) -> int:
    """A descriptor to lock. flock needs no right to write, so the file of another user will do.

    Where fs.protected_regular is on, Linux refuses O_CREAT for a file of another user in a folder like ours.
    """
    with contextlib.suppress(FileNotFoundError):
        return open_plain(path, os.O_RDONLY)
    mask = os.umask(0)  # others must be able to open it as soon as it is there
    try:
        return open_plain(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644)
    except FileExistsError:
        return open_plain(path, os.O_RDONLY)
    finally:
        os.umask(mask)
