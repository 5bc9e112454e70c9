"""Cell folders as training and evaluation leave them, for real cells of a real grid."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from qtuning.experiment.cell import Cell
from qtuning.experiment.finished import DIGESTS, MARKER, WEIGHTS
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import cell_id, cell_json, evaluation_id
from qtuning.files import file_digest, write_json, write_text
from qtuning.manifest import FILES, digests_of, write_sealed
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store

CONFIGS = Path(__file__).parents[1] / "configs"
ITEMS = {
    "arc_easy": 200,
    "arc_challenge": 120,
    "gsm8k": 150,
    "squad": 180,
    "triviaqa": 160,
    "math": 90,
    "retention": 80,
}
METRICS = {
    "arc_easy": ("acc", "acc_norm"),
    "arc_challenge": ("acc", "acc_norm"),
    "gsm8k": ("exact_match,flexible-extract", "exact_match,strict-match"),
    "squad": ("f1", "exact_match"),
    "triviaqa": ("exact_match",),
    "math": ("exact_match", "math_verify"),
    "retention": ("acc", "acc_norm"),
}
BACKEND = {
    "name": "hf",
    "device": "cpu",
    "batch_size": 64,
    "dtype": "float32",
    "max_length": 256,
    "lm_eval": "0.4.13",
    "transformers": "5.23.0",
    "torch": "2.13.0",
}


def fraction(*what: str) -> float:
    """A number between 0 and 1 that depends on nothing but `what`."""
    return int(hashlib.sha256("/".join(what).encode()).hexdigest()[:6], 16) / 16**6


@dataclass
class Folders:
    """Writes what a cell leaves behind."""

    results: Path
    grid: Grid

    def folder(self, cell: Cell) -> Path:
        return self.results / "cells" / cell_id(cell)

    def train(self, cell: Cell, **cost: Any) -> None:
        """As after training: cell.json and train.json with all cost keys."""
        assert cell.pruning is not None
        write_text(self.folder(cell) / "cell.json", cell_json(cell))
        samples, tokens = cell.pruning.sample_ratio, cell.pruning.sample_ratio * cell.pruning.token_ratio
        scored = 1200 if cell.pruning.method == "q-tuning" else 0
        measured = {
            "updates": 150 if scored or samples == 1 else round(150 * samples),
            "updates_skipped": 0,
            "samples_scored": scored,
            "tokens_scored": 100 * scored,
            "samples_kept": round(1200 * samples),
            "response_tokens": 40_000,
            "tokens_kept": round(40_000 * tokens),
            "tokens_forwarded": round(120_000 * samples),
            "flops_scoring": 1e10 * scored,
            "flops_training": 3.6e13 * samples,
            "flops_references": 0.0,
            "flops_total": 1e10 * scored + 3.6e13 * samples,
            "seconds_scoring": scored / 200,
            "seconds_training": 18 * samples,
            "seconds_references": 0.0,
            "seconds_total": scored / 200 + 18 * samples,
            "cpu_seconds": 0.9 * (scored / 200 + 18 * samples),
            "peak_memory_bytes": 700_000_000,
        }
        selection: dict[str, float] = {"samples_available": 1200, "tokens_available": 32_000}
        if scored:
            shares = {"q1_share": 0.3, "q2_share": 0.05, "q3_share": 0.25, "q4_share": 0.1, "converged": 0.625}
            selection |= {"level": 0.4, "from_thresholds": 1.5, "supplemented": 0.5, "trimmed": 0.0, "supp_ties": 0.125}
            selection |= shares
        packages = {"torch": "2.13.0", "transformers": "5.23.0"}
        train = {"cell": cell_id(cell), "status": "done", "updates": measured["updates"], "loss": 1.25}
        write_json(
            self.folder(cell) / "train.json",
            train
            | {
                "cost": measured | cost,
                "selection": selection,
                "provenance": {"qtuning": "0.1.0", "git": "abc1234", "packages": packages, "host": "node1"},
            },
        )

    def diverge(self, cell: Cell, reason: str) -> None:
        """As after a training that diverged and the evaluation that skipped it."""
        self.train(cell)
        marker = self.folder(cell) / "train.json"
        write_json(marker, json.loads(marker.read_text()) | {"status": "diverged", "reason": reason, "loss": None})
        skipped = {"status": "skipped", "reason": f"training diverged: {reason}", "benchmarks": {}}

        def skip(scores: dict[str, Any]) -> None:
            del scores["backend"]
            scores.update(skipped)

        self.evaluate(cell, change=skip)

    def fail(self, cell: Cell, status: str, reason: str) -> None:
        """As after a training that raised."""
        write_text(self.folder(cell) / "cell.json", cell_json(cell))
        write_json(self.folder(cell) / "failed.json", {"status": status, "reason": reason})

    def evaluate(
        self,
        cell: Cell,
        score: Callable[[str], float] | None = None,
        change: Callable[[dict[str, Any]], None] = lambda scores: None,
    ) -> Path:
        """As after evaluation: scores.json. `score` maps a benchmark to its headline score; `change` edits the file."""
        evaluation = self.grid.evaluation
        write_text(self.folder(cell) / "cell.json", cell_json(cell))
        benchmarks = {}
        for name in evaluation.benchmarks:
            headline, *others = METRICS[name]
            value = score(name) if score else 0.2 + 0.5 * fraction(cell_id(cell), name)
            benchmarks[name] = {
                "items": ITEMS[name],
                "headline": headline,
                "metrics": {headline: value} | dict.fromkeys(others, value / 2),
                "digest": hashlib.sha256(name.encode()).hexdigest(),
            }
        scores = {
            "cell": cell_id(cell),
            "evaluation": evaluation.model_dump(mode="json"),
            "evaluation_id": evaluation_id(evaluation),
            "backend": dict(BACKEND),
            "seconds": 12.5,
            "benchmarks": benchmarks,
        }
        change(scores)
        path = self.folder(cell) / evaluation_id(evaluation) / "scores.json"
        write_json(path, scores)
        return path

    def finish(self, cell: Cell, score: Callable[[str], float] | None = None) -> None:
        """Train, unless it is the zero-shot model, and evaluate."""
        if not cell.zero_shot:
            self.train(cell)
        self.evaluate(cell, score)

    def answer(self, cell: Cell, shift: int = 0) -> None:
        """Finish a cell and leave its items, every metric, as the evaluation writes them. shift: which are right."""
        self.finish(cell)
        rows = []
        for name in self.grid.evaluation.benchmarks:
            for item in range(ITEMS[name]):
                place = name, item, f"{item:02d}{name}".encode().hex().ljust(64, "0"), f"{item // 2:016d}"
                rows += [
                    (*place, metric, float((item + number + shift) % 3 == 0))
                    for number, metric in enumerate(METRICS[name])
                ]
                rows.append((*place, "nll", item / 7))
        columns = ["benchmark", "item", "item_hash", "cluster", "metric", "score"]
        frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(response=pl.lit("a"))
        frame.write_parquet(self.folder(cell) / evaluation_id(self.grid.evaluation) / "items.parquet")

    def find(self, text: str) -> Cell:
        """The one cell whose id contains `text`."""
        (cell,) = [cell for cell in self.grid.cells if text in cell_id(cell)]
        return cell


def mark_trained(folder: Path, status: str = "done") -> None:
    """What training writes last: digests of the weights, if there are any, and of the records beside them."""
    weights = sorted(path for path in (folder / WEIGHTS).rglob("*") if path.is_file())
    tensors = [path for path in weights if path.suffix == ".safetensors"]
    write_text(folder / DIGESTS, "".join(f"{file_digest(path)}  {path.name}\n" for path in tensors))
    beside = (folder / name for name in ("trace.parquet", "watch.jsonl", DIGESTS))
    files = digests_of(folder, [*weights, *(path for path in beside if path.exists())])
    write_sealed(folder / MARKER, {"cell": folder.name, "status": status, FILES: files})


def config_folder(folder: Path, **changes: Any) -> ConfigFolder:
    """The project's configurations with `mini`, without controls and changed, saved as JSON (which is YAML)."""
    import yaml

    (folder / "experiments").mkdir(parents=True, exist_ok=True)
    for section in ("models", "train_sets"):
        if not (folder / section).exists():
            (folder / section).symlink_to(CONFIGS / section)
    experiment = yaml.safe_load((CONFIGS / "experiments" / "mini.yaml").read_text())
    experiment["methods"] = ["full", "random+random", "q-tuning"]  # few, whatever the shipped one compares
    experiment |= changes
    name = changes.get("name", "mini")
    (folder / "experiments" / f"{name}.yaml").write_text(json.dumps(experiment))
    return ConfigFolder(folder)


def of_store(make: Callable[[Summary, pl.DataFrame], pl.DataFrame], store: Store, experiment: str) -> pl.DataFrame:
    """`compare` or `score_intervals` of an experiment."""
    return make(summarise(store.experiment(experiment)), store.items)
