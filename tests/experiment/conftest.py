"""A folder of configuration files."""

from pathlib import Path

import pytest
from config_files import Configs


@pytest.fixture
def configs(tmp_path: Path) -> Configs:
    return Configs(tmp_path)
