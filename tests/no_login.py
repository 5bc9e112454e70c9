"""W&B as on a machine that has never seen it."""

import os
from pathlib import Path

import pytest
import wandb


def log_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No setting and no credential of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    wandb.teardown()  # wandb reads the environment once
