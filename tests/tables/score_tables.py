"""Folders of finished cells as tables, and pages read back."""

from pathlib import Path

import polars as pl
from cell_folders import Folders

from qtuning.statistics.summary import summarise
from qtuning.store.store import Store, write_store
from qtuning.tables.by_cost import cost_files
from qtuning.tables.markdown import render_markdown
from qtuning.tables.scores import score_files, score_page
from qtuning.tables.write import write_tables

TWO = {"benchmarks": ["gsm8k", "math"], "source": "mini-world", "batch_size": 64, "max_length": 256}


def scores_of(folders: Folders) -> pl.DataFrame:
    write_store([folders.grid], folders.results)
    return Store(folders.results).experiment(folders.grid.experiment.name)


def markdown(scores: pl.DataFrame) -> str:
    return render_markdown(score_page(summarise(scores)))


def write(folders: Folders) -> tuple[Path, ...]:
    """Collect, and write what the report does."""
    summary = summarise(scores_of(folders))
    return write_tables(summary, [score_files(summary), cost_files(summary)], folders.results / "tables")


def block(page: str, title: str) -> list[list[str]]:
    """The rows of the table below a heading, header first, as stripped cells."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and not set(line) <= set("|:-")]
    return [[" ".join(cell.split()) for cell in line.strip("|").split("|")] for line in lines]


def fill(folders: Folders, scores: dict[str, tuple[float, float]]) -> None:
    """Finish the cells whose id contains a key, with these fractions on GSM8K and MATH."""
    for text, (gsm8k, math) in scores.items():
        values = {"gsm8k": gsm8k, "math": math}
        folders.finish(folders.find(text), values.__getitem__)
