"""A tiny training run and its page, and what the page holds, read back without a browser."""

import base64
import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qtuning.data.prepare import prepare
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import write_text
from qtuning.model.load import make_ready, model_path
from qtuning.train.accelerator import make_accelerator
from qtuning.train.cell import CellFolders, train

NASTY = [
    "</script><script>window.pwned = 1</script>",
    '<img src="x" onerror="window.pwned = 1">',
    "&lt;b&gt; & <!-- <b>bold</b>",
    "مرحبا بالعالم 123 ‮abc",
    "👩‍🚀 and 🇧🇷, \U0001d4d0",
    "tab\tand\nline",
]
"""Texts that a page must show and never run."""


def row(n: int) -> dict[str, Any]:
    if n < len(NASTY):
        return {"instruction": f"Say {NASTY[n]}", "output": NASTY[n], "kind": "noise", "errors": [[0, 2]]}
    kind = ("clean", "redundant")[n % 2]
    return {
        "instruction": f"What is {n} + 2?",
        "output": f"{n} + 2 = {n + 2}. It is {n + 2}.",
        "kind": kind,
        "errors": [],
    }


def cell_of(rows: Path, method: str, budget: tuple[float, float] = (0.5, 0.5), seed: int = 0) -> Cell:
    ratios = Ratios(sample_ratio=budget[0], token_ratio=budget[1])
    source = FileSource(kind="path", file=str(rows))
    return Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped", asset="mini"), template="plain"),
        train_set=TrainSet(name="rows", source=source, columns={"kind": "kind", "errors": "errors"}),
        pruning=make_pruning(MethodEntry(method=method), ratios),
        training=Training(tuning="full", epochs=2, batch_size=8, update_samples=8, cutoff=64),
        seeds=Seeds(data=seed, pruner=seed, init=seed),
    )


def trained(root: Path, methods: tuple[str, ...], count: int = 40) -> tuple[ResultPaths, list[Cell]]:
    """These methods, trained on `count` rows for two epochs; results lie in `root`."""
    rows = root / "rows.jsonl"
    write_text(rows, "\n".join(json.dumps(row(n)) for n in range(count)))
    paths, cells = ResultPaths(root), [cell_of(rows, method) for method in methods]
    make_ready(cells[0].model, paths.model(cells[0]))
    prepare(cells[0], model_path(paths.model(cells[0])), paths.samples(cells[0]))
    for cell in cells:
        folders = CellFolders(paths.model(cell), paths.samples(cell), paths.cell(cell), paths.state(cell))
        train(cell, make_accelerator("no", False), folders, "disabled", (), 600)
    return paths, cells


def blocks_of(page: Path) -> Mapping[str, bytes]:
    """The data of a page by name, unpacked."""
    found = re.findall(r'<script type="text/plain" id="block-([\w-]+)">([A-Za-z0-9+/=]*)</script>', page.read_text())
    return {name: gzip.decompress(base64.b64decode(block)) for name, block in found}


def meta_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blocks_of(page)["meta"])
    return found


def arrays_in(page: Path) -> dict[str, Any]:
    """The arrays of a page, by name."""
    raw = blocks_of(page)["columns"]
    size = int.from_bytes(raw[:4], "little")
    return {
        name: np.frombuffer(raw, np.dtype(kind).newbyteorder("<"), length, 4 + size + start)
        for name, kind, start, length in json.loads(raw[4 : 4 + size])
    }
