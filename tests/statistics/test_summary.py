"""An experiment summarised by a metric of which less is better, worked out by hand."""

from typing import Any

import polars as pl
import pytest
from cell_folders import Folders

from qtuning.errors import UserError
from qtuning.statistics.summary import Entry, Hole, Summary, rows_by, summarise
from qtuning.store.store import Store, write_store

TWO = {"benchmarks": ["gsm8k", "math"], "source": "mini-world", "batch_size": 64, "max_length": 256}
NLL = {
    "zero-shot": (4.0, 2.0),
    "full-s0": (0.5, 0.25),
    "random+random-25x50-s0": (1.0, 0.75),
    "q-tuning-25x50-s0": (1.5, 0.5),
}


def measured(folders: Folders, without: str = "") -> pl.DataFrame:
    """The rows of an experiment of four cells with NLLs, but for the cell whose name contains `without`."""
    for text, values in NLL.items():
        cell = folders.find(text)
        if not cell.zero_shot:
            folders.train(cell)

        def add(scores: dict[str, Any], nll: tuple[float, float] = values, lacks: bool = text == without) -> None:
            for name, value in zip(("gsm8k", "math"), nll, strict=True):
                scores["benchmarks"][name]["metrics"] |= {} if lacks else {"nll": value, "p_gold": value / 10}

        folders.evaluate(cell, change=add)
    write_store([folders.grid], folders.results)
    return Store(folders.results).experiment("mini")


@pytest.fixture
def four(make_folders: Any) -> Folders:
    return make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0])


def entries(summary: Summary, method: str) -> dict[str, Entry | Hole]:
    return {benchmark: entry for (line, _, benchmark), entry in summary.entries.items() if line.method == method}


def test_less_of_a_likelihood_is_better(four: Folders) -> None:
    summary = summarise(measured(four), "nll")
    ours = entries(summary, "q-tuning")
    assert [entry.mean for entry in ours.values()] == [1.5, 0.5, 1.0]  # nats, not per cent
    assert [entry.difference for entry in ours.values()] == [0.5, -0.25, 0.125]
    assert {entry.metric for entry in list(ours.values())[:2]} == {"nll"}
    pruned = summary.blocks()[1]
    best = [[line.method for line in summary.best(pruned, "mini", name)] for name in summary.benchmarks]
    assert best == [["random+random"], ["q-tuning"], ["random+random"]]


def test_a_probability_is_shown_in_per_cent(four: Folders) -> None:
    summary = summarise(measured(four), "p_gold")
    assert [entry.mean for entry in entries(summary, "random+random").values()] == pytest.approx([10, 7.5, 8.75])
    assert summary.metric.higher_is_better


def test_a_cell_without_likelihoods_is_a_hole_in_their_edition_alone(four: Folders) -> None:
    rows = measured(four, without="random+random-25x50-s0")
    hole = entries(summarise(rows, "nll"), "random+random")["avg"]
    assert str(hole) == "seed 0 not run: evaluated without likelihoods; evaluate again"
    assert entries(summarise(rows, "nll"), "q-tuning")["avg"].difference is None
    assert isinstance(entries(summarise(rows), "random+random")["avg"], Entry)
    assert rows_by(rows, "nll")["cell"].to_list() == rows_by(rows, "headline")["cell"].to_list()


def test_an_experiment_without_likelihoods_has_one_clear_line(four: Folders) -> None:
    rows = measured(four).filter(~pl.col("metric").is_in(["nll", "p_gold"]))
    with pytest.raises(UserError, match="metric = 'p_gold': experiment mini was evaluated without likelihoods") as one:
        summarise(rows, "p_gold")
    assert "\n" not in str(one.value)
