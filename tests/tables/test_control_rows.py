"""Oracle and adversary in tables: the first line, their place, and where methods lie between them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import Folders, of_store
from rich.console import Console
from score_tables import TWO, block, scores_of

from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import cell_id, evaluation_id
from qtuning.statistics.compare import compare
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store
from qtuning.tables.controls import NONE
from qtuning.tables.html import render_html
from qtuning.tables.latex import render_latex
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Page
from qtuning.tables.scores import score_page
from qtuning.tables.terminal import print_page

METHODS = ["full", "random+random", "q-tuning", "longest+random", "oracle", "adversary"]
LEVEL = {"oracle": 0.7, "adversary": 0.2, "q-tuning": 0.55, "longest": 0.3, "full": 0.8, "random": 0.4, "zero": 0.1}
ITEMS = 60

Make = Callable[..., Folders]


def level_of(cell: Cell) -> float:
    return next(level for name, level in LEVEL.items() if name in cell_id(cell))


def finish(folders: Folders, level: Callable[[Cell], float] = level_of) -> None:
    """Finish all cells with answers to 60 items: a cell knows as many as its level says, and NLL is 2 - 2 x that."""
    for cell in folders.grid.cells:
        rng = np.random.default_rng(list(cell_id(cell).encode()))
        frames, right = [], {}
        for name in ("gsm8k", "math"):
            right[name] = np.arange(ITEMS) < round(level(cell) * ITEMS)
            right[name][rng.choice(ITEMS, 2, replace=False)] ^= True
            metrics = {"gsm8k": "exact_match,flexible-extract", "math": "exact_match"}
            for metric, scores in ((metrics[name], 1.0 * right[name]), ("nll", 2 - 2.0 * right[name])):
                items = {"item": np.arange(ITEMS), "score": scores}
                frame = pl.DataFrame(items).with_columns(benchmark=pl.lit(name), metric=pl.lit(metric))
                names = pl.format("{}-{}", "benchmark", "item")
                frames.append(frame.with_columns(item_hash=names, cluster=names, response=pl.lit("")))

        def record(scores: dict[str, Any], right: dict[str, Any] = right) -> None:
            for name, benchmark in scores["benchmarks"].items():
                benchmark["items"] = ITEMS
                benchmark["metrics"] = {benchmark["headline"]: right[name].mean(), "nll": 2 - 2 * right[name].mean()}

        if not cell.zero_shot:
            folders.train(cell)
        folders.evaluate(cell, change=record)
        out = folders.folder(cell) / evaluation_id(folders.grid.evaluation) / "items.parquet"
        pl.concat(frames).write_parquet(out)


def page_of(folders: Folders, metric: Any = "headline") -> Page:
    summary = summarise(scores_of(folders), metric)
    return score_page(summary, compare(summary, Store(folders.results).items))


@pytest.fixture
def folders(make_folders: Make) -> Folders:
    made = make_folders(evaluation=TWO, methods=METHODS, budgets=["25x50"], seeds=[0, 1, 2])
    finish(made)
    return made


def test_the_first_line_says_that_controls_are_apart(folders: Folders) -> None:
    page = page_of(folders)
    number = r"\+(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]"
    found = re.fullmatch(
        rf"Controls are apart: at 25x50 oracle - random {number}, random - adversary {number}\.", page.verdict
    )
    assert found, page.verdict
    rows = of_store(compare, Store(folders.results), "mini").filter(
        (pl.col("benchmark") == "avg") & (pl.col("against") == "random+random")
    )
    oracle, adversary = (rows.filter(pl.col("method") == name).to_dicts()[0] for name in ("oracle", "adversary"))
    expected = [oracle["difference"], oracle["low"], oracle["high"]]
    expected += [-adversary["difference"], -adversary["high"], -adversary["low"]]
    assert [float(text) for text in found.groups()] == pytest.approx(expected, abs=0.051)


def test_it_stands_first_in_all_formats(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(folders)
    assert render_markdown(page).splitlines()[2] == f"**{page.verdict}**"
    print_page(page, Console(width=200))
    assert capsys.readouterr().out.splitlines()[1].startswith("Controls are apart: at 25x50")
    html = render_html(page)
    assert html.index("Controls are apart") < html.index('class="lead"')
    latex = render_latex(page)
    assert "Controls are apart" in latex[latex.index(r"\caption") : latex.index(r"\label")]


def test_controls_that_are_not_apart_cannot_rank(make_folders: Make) -> None:
    made = make_folders(evaluation=TWO, methods=METHODS, budgets=["25x50"], seeds=[0, 1, 2])
    finish(made, lambda cell: 0.4)
    verdict = page_of(made).verdict
    assert verdict.startswith("This experiment cannot rank methods: its controls are not apart (at 25x50 oracle - ")


def test_an_adversary_like_random_pruning_still_leaves_the_oracle(make_folders: Make) -> None:
    made = make_folders(evaluation=TWO, methods=METHODS, budgets=["25x50"], seeds=[0, 1, 2])
    finish(made, lambda cell: 0.8 if "oracle" in cell_id(cell) else 0.4)
    verdict = page_of(made).verdict
    assert verdict.startswith(
        "This experiment can see a better selection than a random one, but cannot rank methods below it: its controls "
        "are not apart (at 25x50 oracle - random +"
    )


def test_budgets_are_told_apart(make_folders: Make) -> None:
    made = make_folders(evaluation=TWO, methods=METHODS, budgets=["25x50", "50x70"], seeds=[0, 1, 2])
    finish(made, lambda cell: 0.4 if "50x70" in cell_id(cell) else level_of(cell))
    verdict = page_of(made).verdict
    assert verdict.startswith("This experiment cannot rank methods at every budget: its controls are not apart (at 50x")
    assert ". They are apart at 25x50 oracle - random +" in verdict


def test_a_mini_world_experiment_without_controls_says_so(complete: Folders) -> None:
    summary = summarise(scores_of(complete))
    none = compare(summary, Store(complete.results).items)
    assert score_page(summary, none).verdict == NONE
    elsewhere = summary.scores.with_columns(pl.col("evaluation_config").str.replace("mini-world", "hub"))
    assert score_page(summarise(elsewhere), none).verdict == ""


def test_controls_stand_after_the_methods_and_are_never_best(folders: Folders) -> None:
    text = render_markdown(page_of(folders))
    titles = re.findall(r"^## (.*)$", text, flags=re.M)[:3]
    assert titles == ["Reference", "Samples 25% x Tokens 50%", "Controls: 25% x 50%"]
    assert [row[0] for row in block(text, "Controls: 25% x 50%")[1:]] == ["oracle", "adversary"]
    assert "**" not in text.split("## Controls")[1].split("## ")[0].replace("**Warning.**", "")
    best = block(text, "Samples 25% x Tokens 50%")
    assert all("**" in row[best[0].index("Avg")] for row in best[1:] if row[0] == "Q-Tuning")


def test_positions_lie_between_random_and_oracle(folders: Folders) -> None:
    page = page_of(folders)
    text = render_markdown(page)
    header, *rows = block(text, "Samples 25% x Tokens 50%")
    assert header[-2:] == ["Avg", "Position"]
    shown = {row[0]: row[-1] for row in rows} | {row[0]: row[-1] for row in block(text, "Controls: 25% x 50%")[1:]}
    assert shown["random"] == "0%" and shown["oracle"] == "100%"
    means = {line.method: entry.mean for (line, _, name), entry in summarise(scores_of(folders)).entries.items()
             if name == "avg"}  # fmt: skip
    expected = (means["q-tuning"] - means["random+random"]) / (means["oracle"] - means["random+random"])
    share, low, high = (float(part) for part in re.findall(r"-?\d+(?=%)", shown["Q-Tuning"]))
    assert share == pytest.approx(100 * expected, abs=0.51) and low < share < high
    assert shown["longest"].startswith("-") and shown["adversary"].startswith("-")
    assert any(note.startswith("Position of the average: 0% is random") for note in page.tables[0].notes)


def test_of_an_nll_less_is_better(folders: Folders) -> None:
    page = page_of(folders, "nll")
    assert page.title.endswith(": NLL per token (nats per token, lower is better)")
    assert page.verdict.startswith("Controls are apart: at 25x50 random - oracle +0.")
    rows = {row[0]: row for block in page.tables[0].blocks for row in block.rows}
    average = [column.name for column in page.tables[0].columns].index("Avg")
    ours, longest = rows["Q-Tuning"][average], rows["longest"][average]
    assert not isinstance(ours, str) and not isinstance(longest, str)
    assert ours.best and not longest.best
    assert "↓" in ours.difference and ours.verdict == "better"
    assert "↑" in longest.difference and longest.verdict == "worse"
    assert re.fullmatch(r"0\.\d{3}", ours.mean)
    assert "-" not in str(rows["Q-Tuning"][average + 1])[:1] and str(rows["longest"][average + 1]).startswith("-")
    assert any("↓ is better" in note for note in page.tables[0].notes)
    assert len(page.tables) == 1


def test_retention_stands_beside_the_average(make_folders: Make) -> None:
    asked = TWO | {"benchmarks": ["gsm8k", "retention", "math"]}
    made = make_folders(evaluation=asked, methods=["random+random"], budgets=["25x50"], seeds=[0])
    for cell in made.grid.cells:
        made.finish(cell, {"gsm8k": 0.2, "math": 0.4, "retention": 0.9}.__getitem__)
    text = render_markdown(score_page(summarise(scores_of(made))))
    header, row = block(text, "Samples 25% x Tokens 50%")
    assert header[2:] == ["GSM8K", "MATH", "Avg", "Retention"]
    assert row[2:] == ["20.00", "40.00", "30.00", "90.00"]
