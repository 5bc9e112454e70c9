"""Where a number comes from: versions, revision, machine. Names of the host's users and secrets are left out."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import qtuning

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "lm_eval", "safetensors", "tokenizers")


def provenance() -> dict[str, Any]:
    """Versions of what computes, git revision of this code (and whether it was modified), Python, system, threads."""
    return {
        "git": _git_revision(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {"qtuning": qtuning.__version__}
        | {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """`<commit>` or `<commit>-dirty` of the checkout this package lies in; None for an installed package."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
