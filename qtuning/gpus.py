"""GPU leases on one machine: a job holds devices by locks that the kernel frees when the job dies, however it dies.

Snakemake limits how many GPUs are in use but assigns none. Without leases two jobs would both use device 0.
"""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path

POLL_SECONDS = 2.0


def visible() -> list[str]:
    """Devices this machine lets us use: those of CUDA_VISIBLE_DEVICES if it is set, else all NVIDIA devices."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def lease(count: int, devices: list[str] | None = None, folder: Path | None = None) -> list[str]:
    """Hold `count` free devices until this process, and what it becomes by exec, ends; wait while none are free.

    Fewer devices than `count` on the whole machine: all of them. No device at all: nothing to hold.
    """
    devices = visible() if devices is None else devices
    folder = Path(tempfile.gettempdir()) / "qtuning-gpus" if folder is None else folder
    wanted = min(count, len(devices))
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)  # users of one machine share its GPUs, and so the locks
    told = False
    while True:
        held: dict[str, int] = {}
        for device in devices:
            if len(held) == wanted:
                break
            # flock needs no right to write, so a lock file of another user will do
            descriptor = os.open(folder / f"{device.replace('/', '_')}.lock", os.O_CREAT | os.O_RDONLY, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            os.set_inheritable(descriptor, True)
            held[device] = descriptor
        if len(held) == wanted:
            return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        if not told:
            print(f"waiting for {wanted} of the GPUs {', '.join(devices)}", file=sys.stderr)
            told = True
        time.sleep(POLL_SECONDS)
