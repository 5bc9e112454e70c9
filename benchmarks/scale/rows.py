"""Train sets: prepare one, load it and walk through an epoch, write the trace of an epoch."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mini import REPOSITORY
from benchmarks.report import Table, Value
from benchmarks.scale.spent import MIB, Spent
from benchmarks.scale.spent import run as spend
from qtuning.experiment.cell import Cell, FileSource, TrainSet
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json
from qtuning.files import read_json, write_text

WORDS = ("answer", "because", "data", "energy", "large", "light", "model", "number", "of", "people", "river", "the")


def run(sizes: Sequence[int], threads: int, work: Path) -> Table:
    """A row for each size and step."""
    rows = [row for size in sizes for row in _measure(size, threads, work)]
    note = (
        f"Each step in a process of its own, tokenising on {threads} threads. Rows of 66 words on the average, cut at "
        "512 tokens of the mini model's tokenizer. Peak: resident size of the whole process; with nothing done, "
        "importing torch alone takes some 300 MiB."
    )
    return Table("Train sets", rows, (note,))


def _measure(size: int, threads: int, work: Path) -> list[dict[str, Value]]:
    folder = work / f"rows-{size}"
    source = folder / "rows.jsonl"
    write_rows(source, size)
    cell = _cell(source)
    paths = ResultPaths(folder / "results")
    configuration = paths.configuration(cell_id(cell))
    write_text(configuration, cell_json(cell) + "\n")
    common = ["--results", str(paths.root)]
    spend(["qtuning", "base-model", str(configuration), *common], REPOSITORY, folder / "base.log")
    steps: dict[str, Spent] = {}
    steps["prepare"] = spend(
        ["qtuning", "prepare", str(configuration), *common, "--threads", str(threads)],
        REPOSITORY,
        folder / "prepare.log",
    )
    samples = paths.samples(cell)
    for step in ("load and walk", "trace"):
        arguments = ["benchmarks.scale.steps", step.split()[0], str(samples)]
        steps[step] = spend(arguments, REPOSITORY, folder / f"{step}.log")
    tokens = sum(read_json(samples / "report.json")[part]["total"] for part in ("prompt_tokens", "response_tokens"))
    stored = sum(path.stat().st_size for path in samples.iterdir()) / MIB
    shutil.rmtree(folder)
    return [
        {"step": step, "rows": size, "tokens": int(tokens), "disk MiB": stored, **spent.columns()}
        for step, spent in steps.items()
    ]


def write_rows(path: Path, size: int) -> None:
    """`size` rows of the alpaca form, the same every time."""
    rng = random.Random(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        for number in range(size):
            question, answer = (" ".join(rng.choices(WORDS, k=rng.randint(*ends))) for ends in ((5, 25), (10, 90)))
            handle.write(
                json.dumps({"instruction": f"{question} {number}?", "input": "", "output": f"{answer}."}) + "\n"
            )


def _cell(source: Path) -> Cell:
    """The Q-Tuning cell of experiment `mini`, on those rows."""
    (grid,) = ConfigFolder(REPOSITORY / "configs").expand(["mini"])
    cell = next(c for c in grid.cells if c.pruning is not None and c.pruning.method == "q-tuning")
    assert cell.training is not None
    train_set = TrainSet(name="generated", label="Generated", source=FileSource(kind="path", file=str(source)))
    return cell.model_copy(
        update={"train_set": train_set, "training": cell.training.model_copy(update={"cutoff": 512})}
    )
