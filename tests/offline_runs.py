"""Offline W&B runs, read back by wandb's own reader, and which of them a filter finds."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """records: all of the run's file. folder: that of the run."""

    records: list[dict[str, Any]]
    folder: Path

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def _run(self) -> dict[str, Any]:
        (run,) = self._of("run")
        return run

    @property
    def name(self) -> str:
        return str(self._run["run_id"])

    @property
    def group(self) -> str | None:
        return self._run.get("run_group")

    @property
    def tags(self) -> list[str]:
        return list(self._run.get("tags", []))

    @property
    def kind(self) -> str:
        return str(self._run["job_type"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self._run["config"]["update"])

    @property
    def history(self) -> list[dict[str, Any]]:
        return [record["item"] for record in self._of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        """As W&B shows it: later records change earlier ones."""
        found: dict[str, Any] = {}
        for record in self._of("summary"):
            found |= record.get("update", {})
        return found

    @property
    def artifacts(self) -> dict[str, list[Path]]:
        """Type -> files that will be sent, of artifacts that are no tables."""
        found: dict[str, list[Path]] = {}
        for artifact in self._of("artifact"):
            files = [Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]]
            assert all(file.is_file() for file in files), artifact["name"]
            if artifact["type"] != "run_table":
                found.setdefault(artifact["type"], []).extend(files)
        return found

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table of the summary."""
        value = json.loads((self.folder / "files" / self.summary[name]["path"]).read_text())
        return [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]


def offline_runs(results: Path, name: str = "*") -> list[OfflineRun]:
    """The offline runs below `results`, or those of one name."""
    return [_read(file) for file in sorted(results.glob(f"wandb/wandb/offline-run-*/run-{name}.wandb"))]


def matching(filters: dict[str, Any], runs: Iterable[OfflineRun]) -> list[OfflineRun]:
    """The runs that a filter of wandb-workspaces finds, by name; a filter that this does not know fails."""
    found = sorted(runs, key=lambda run: run.name)
    assert filters["filterFormat"] == "filterV2"
    for leaf in filters["filters"]:
        section, name, value = leaf["key"]["section"], leaf["key"]["name"], leaf["value"]
        if (section, name, leaf["op"]) == ("run", "tags", "IN"):
            found = [run for run in found if set(value) & set(run.tags)]
        else:
            assert (section, leaf["op"]) == ("config", "="), leaf
            found = [run for run in found if run.config.get(name.removesuffix(".value")) == value]
    return found


def _read(file: Path) -> OfflineRun:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return OfflineRun([json.loads(line) for line in done.stdout.splitlines()], file.parent)
