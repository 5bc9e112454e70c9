"""From finished trainings, or from data and a model, to the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from transformers.utils import logging

from qtuning.data.samples import StoredSamples, load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Model, Seeds, Training, TrainSet
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.registry import REFERENCE
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.explore.columns import Decisions, decisions_of
from qtuning.explore.find import Found, label_of
from qtuning.explore.page import write_page
from qtuning.explore.samples import choose, shown_samples
from qtuning.files import read_json
from qtuning.model.load import model_path
from qtuning.probes.score_file import prepare_apart
from qtuning.probes.texts import read_texts
from qtuning.pruners.method import method_of
from qtuning.train.accelerator import make_accelerator
from qtuning.train.candidates import CellSamples, load_for_scoring, raise_first
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.step import TrainingLoop

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Explored:
    """The page that was written. samples: how many it shows, `of` all that there are. lines: labels of its methods."""

    path: Path
    samples: int
    of: int
    lines: list[str]


def explore_trainings(
    title: str, found: Found, paths: ResultPaths, out: Path, *, most: int, data_dir: Path | None = None
) -> Explored:
    """Write the page of trainings on one train set. most: samples that it shows.

    UserError where the tokenised train set is gone, or its source.
    """
    first = found.cells[0][0]
    stored = load_samples(paths.samples(first))
    lines = []
    numbers = choose(stored, most)
    for cell, label in found.cells:
        folder = paths.cell(cell)
        assert cell.pruning is not None
        lines.append(
            decisions_of(
                pl.read_parquet(folder / "trace.parquet"),
                numbers,
                label=label,
                cell=cell_id(cell),
                pruning=cell.pruning,
                whole=read_json(folder / "train.json")["status"] == "done",
            )
        )
    notes = []
    if found.left_out:
        more = (
            "1 more training of this experiment is"
            if found.left_out == 1
            else f"{found.left_out} more trainings of this experiment are"
        )
        notes.append(f"{more} not shown; choose with --method and --budget.")
    return _write(out, title, first, model_path(paths.model(first)), stored, numbers, lines, notes, paths, data_dir)


def explore_data(
    model: Model,
    train_set: TrainSet,
    paths: ResultPaths,
    out: Path,
    *,
    methods: Sequence[str],
    budget: Ratios,
    most: int,
    cutoff: int,
    data_dir: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Explored:
    """Write the page of what methods would decide on a train set in a first epoch under `model`. Nothing is trained.

    most: samples that are drawn, scored and shown. Raises UserError for a method that needs more than the model.
    """
    prunings = [make_pruning(MethodEntry(method=method), budget) for method in methods]
    cell = Cell(
        model=model,
        train_set=train_set,
        limit_train=most,
        pruning=prunings[0],
        training=Training(cutoff=cutoff),
        seeds=Seeds(data=0, pruner=0, init=0),
    )
    folder, report, _, stored = prepare_apart(cell, paths, data_dir)
    numbers = choose(stored, most)
    lines = []
    for done, pruning in enumerate(prunings):
        chosen = cell.model_copy(update={"pruning": pruning})
        count = len(numbers)

        def told(samples: int, done: int = done, count: int = count) -> None:
            progress(done * count + samples, len(prunings) * count)

        trace = _first_epoch(chosen, stored, folder, told)
        lines.append(decisions_of(trace, numbers, label=label_of(chosen), pruning=pruning))
    notes = ["Nothing was trained: these are the decisions of a first epoch under the model as it is."]
    if report["usable"] > report["used"]:
        notes.append(f"A draw of {report['used']:,} of {report['usable']:,} samples.")
    return _write(out, train_set.name, cell, folder, stored, numbers, lines, notes, paths, data_dir)


def _first_epoch(cell: Cell, stored: StoredSamples, folder: Path, told: Callable[[int], None]) -> pl.DataFrame:
    """The trace of a first epoch under weights that do not change, with masks and scores of tokens of all samples."""
    assert cell.pruning is not None
    method, accelerator = method_of(cell.pruning), make_accelerator()
    missing = (REFERENCE | {"influence", "trace"}) & method.needs.all
    missing |= {"ratings"} & method.needs.all if not stored.ratings else set()
    missing |= {"truth"} & method.needs.all if stored.kinds is None else set()
    for need in sorted(missing):
        raise UserError(f"--method = {cell.pruning.method!r}: needs {need}, which a model and its data do not give")
    logging.disable_progress_bar()  # of transformers' loading of weights; ours counts samples
    packed = load_for_scoring(folder, cell.dtype, stored.samples, accelerator)
    loop = TrainingLoop(cell, method, CellSamples.of(stored), accelerator, packed, optimizer=None)
    everyone = {sample.number for sample in stored}
    rows, seen = [], 0
    windows = loop.windows_of_epoch()
    rows += loop.progress.left_out(loop.samples)
    for window in windows:
        decisions, failures = loop.decide(window)
        raise_first(failures)
        for decision in decisions:
            rows += decision.trace(window, True, everyone)
        seen += sum(map(len, window.batches))
        told(seen)
    return pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row")


def _write(
    out: Path,
    title: str,
    cell: Cell,
    folder: Path,
    stored: StoredSamples,
    numbers: Sequence[int],
    lines: Sequence[Decisions],
    notes: Sequence[str],
    paths: ResultPaths,
    data_dir: Path | None,
) -> Explored:
    assert cell.train_set is not None and cell.seeds is not None
    texts = read_texts(cell, folder, stored, set(numbers), data_dir, paths.hub)
    samples = shown_samples(stored, numbers, texts)
    subject = f"Model: {cell.model.label}. Train set: {cell.train_set.label}"
    subject += f", {len(numbers):,} of its {len(stored):,} samples (a draw). " if len(numbers) < len(stored) else ". "
    subject += f"Seed {cell.seeds.data}."
    write_page(out, title, subject, samples, lines, notes)
    return Explored(out, len(numbers), len(stored), [line.label for line in lines])
