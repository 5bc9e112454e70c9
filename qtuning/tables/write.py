"""The files of an experiment's pages: their renderings, and their numbers as CSV."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from qtuning.files import atomic_path, write_text
from qtuning.statistics.summary import Summary
from qtuning.tables.page import Page


@dataclass(frozen=True)
class PageFiles:
    """A page with the files it is written to, by what follows the experiment's name: `md`, `cost.csv`, ..."""

    page: Page
    texts: Mapping[str, Callable[[Page], str]]
    frames: Mapping[str, pl.DataFrame] = field(default_factory=dict)


def write_tables(summary: Summary, editions: Iterable[PageFiles], folder: Path) -> tuple[Path, ...]:
    """Write the files of an experiment's editions to `folder` and return their paths; equal scores give equal bytes.

    While cells are still to be run, each name starts with `EXPERIMENT.partial`: a table with such holes must not pass
    for the finished one, or the workflow would have nothing left to do. Files under the other name are removed.
    """
    finished = summary.scores["status"].is_in(["done", "diverged"]).all()
    name, other = summary.experiment, f"{summary.experiment}.partial"
    if not finished:
        name, other = other, name
    paths: list[Path] = []
    for edition in editions:
        paths += write_page(edition, folder, name)
        for kind in (*edition.texts, *edition.frames):
            (folder / f"{other}.{kind}").unlink(missing_ok=True)  # of an earlier store, and no longer true
    return tuple(paths)


def write_page(edition: PageFiles, folder: Path, name: str) -> tuple[Path, ...]:
    """Write `folder`/`name`.KIND for every kind of the edition, and return the paths."""
    for kind, render in edition.texts.items():
        write_text(folder / f"{name}.{kind}", render(edition.page))
    for kind, frame in edition.frames.items():
        with atomic_path(folder / f"{name}.{kind}") as temporary:
            frame.write_csv(temporary)
    return tuple(folder / f"{name}.{kind}" for kind in (*edition.texts, *edition.frames))
