"""A folder of configuration files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from qtuning.errors import UserError
from qtuning.experiment.grid import ConfigFolder, Grid


class Configs:
    """Models m and n, train sets t and u, and whatever a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("m", "n"):
            self.write(f"models/{name}", {"source": {"kind": "hub", "id": f"a/{name}"}, "parameters": 10})
        for name in ("t", "u"):
            source = {"kind": "hub", "id": f"a/{name}"}
            self.write(f"train_sets/{name}", {"source": source, "local": f"{name}/train.jsonl"})

    def write(self, name: str, value: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")
        return path

    def expand(self, name: str, data_dir: Path | None = None) -> Grid:
        return ConfigFolder(self.folder, data_dir).expand([name])[0]

    def complaints(self, *names: str) -> list[str]:
        with pytest.raises(UserError) as caught:
            ConfigFolder(self.folder).expand(names or ["e"])
        return str(caught.value).splitlines()
