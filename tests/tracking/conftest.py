"""Nobody is logged in."""

from pathlib import Path

import pytest
from no_login import log_out


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no credential of whoever runs the tests."""
    log_out(monkeypatch, tmp_path)
