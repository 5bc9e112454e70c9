"""What a run is a measurement of: command, date, versions, machine."""

import datetime
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from qtuning.provenance import provenance


def about(device: torch.device) -> dict[str, Any]:
    """Facts of a run, in the order in which they are shown. Names of the host and of users are left out."""
    origin = provenance()
    return {
        "device": _gpu(device) or f"CPU, {torch.get_num_threads()} thread",
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "git": origin["git"],
        "processor": f"{_processor()}, {os.cpu_count()} cores; {_load()}",
        "system": f"{origin['system']}, Python {origin['python']}",
        "packages": ", ".join(f"{name} {version}" for name, version in origin["packages"].items()),
    }


def file_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU: `nvidia-h200`."""
    name = _gpu(device) or "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _gpu(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _processor() -> str:
    """The processor's model and its widest vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if re.search(rf"\b{flag}\b", text)]
    return f"{model[1] if model else platform.machine()} ({', '.join(flags)})"


def _load() -> str:
    return "load of the last 1, 5, 15 minutes " + ", ".join(f"{value:.1f}" for value in os.getloadavg())
