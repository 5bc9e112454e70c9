"""`qtuning token-kinds`: what kinds of tokens a cell's training pruned, and what kinds it kept (figure 7 of the paper).

Counted are the response tokens of kept samples that may lose some: Q2, and supplemented samples that count as Q2; with
a baseline all kept samples. Training recorded which of them it kept (`mask` of the trace, experiments with `observe`).
Here their texts are read again and every token gets its kind (data/kinds.py), so a change of the rules trains nothing.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qtuning.data.kinds import KINDS, Codes, token_kinds
from qtuning.data.samples import load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.finished import MARKER, check_outputs
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.manifest import write_sealed
from qtuning.model.load import model_path
from qtuning.probes.texts import read_texts
from qtuning.train.decision import unpack_mask

FILE = "token_kinds.json"


def count_token_kinds(cell: Cell, paths: ResultPaths, data_dir: Path | None = None) -> Path:
    """Write token_kinds.json into a trained cell's folder and return its path.

    Keys: `kinds`, and `counts`, a list of {"epoch", "supplement", "kept": [6], "pruned": [6]}: tokens by kind, over all
    updates of an epoch, of samples that the supplement chose and of the others.

    UserError if the training was not observed, or if the train set is not the one that was prepared.
    """
    folder = paths.cell(cell)
    if cell.train_set is None or not all((folder / name).exists() for name in (MARKER, "trace.parquet")):
        raise UserError(f"{folder}: no trained cell; train it first")
    check_outputs(folder, "trace.parquet")
    trace = pl.read_parquet(folder / "trace.parquet")
    if "mask" not in trace.columns or not (folder / "watch.jsonl").exists():
        raise UserError(f"{folder}: was trained without `observe`; delete its train.json and run the experiment again")
    masked = trace.filter(pl.col("mask").is_not_null())
    kinds = _kinds_of_samples(cell, paths, set(masked["sample"].unique()), data_dir)
    write_sealed(folder / FILE, {"cell": cell_id(cell), "kinds": KINDS, "counts": count(masked, kinds)})
    return folder / FILE


def count(masked: pl.DataFrame, kinds: dict[int, Codes]) -> list[dict[str, Any]]:
    """The `counts` of the file. masked: rows of a trace that have a mask. kinds: of the response tokens of a sample."""
    found: dict[tuple[int, bool], Codes] = defaultdict(lambda: np.zeros((2, len(KINDS)), dtype=np.int64))
    columns = ("epoch", "supplement", "sample", "response_tokens", "mask")
    for epoch, supplement, sample, length, packed in masked.select(columns).iter_rows():
        mask = unpack_mask(packed, length)
        for row, chosen in enumerate((mask, ~mask)):
            found[epoch, supplement][row] += np.bincount(kinds[sample][chosen], minlength=len(KINDS))
    return [
        {"epoch": epoch, "supplement": supplement, "kept": kept.tolist(), "pruned": pruned.tolist()}
        for (epoch, supplement), (kept, pruned) in sorted(found.items())
    ]


def _kinds_of_samples(cell: Cell, paths: ResultPaths, numbers: set[int], data_dir: Path | None) -> dict[int, Codes]:
    """Number of a sample -> the kinds of its response tokens, from the texts of the train set."""
    folder, stored = model_path(paths.model(cell)), load_samples(paths.samples(cell))
    texts = read_texts(cell, folder, stored, numbers, data_dir, paths.hub)
    # by the whole response: the answer may stand after the cutoff
    return {number: token_kinds(text.response, text.spans) for number, text in texts.items()}
