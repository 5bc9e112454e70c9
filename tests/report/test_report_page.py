"""What the page says, without a browser: the verdict and the tips against the store, and texts that stay texts."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtuning.embed import ASSETS, json_block
from qtuning.report.verdict import standing, verdict_of
from qtuning.report.views import Tips, score_views
from qtuning.statistics.compare import compare
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store
from qtuning.tables.scores import score_page


@pytest.fixture(scope="module")
def compared(store: Store) -> tuple[Summary, pl.DataFrame]:
    summary = summarise(store.experiment("mini"))
    return summary, compare(summary, store.items)


def at(averages: pl.DataFrame, method: str, samples: float, tokens: float) -> dict[str, Any]:
    return averages.filter(method=method, sample_ratio=samples, token_ratio=tokens).row(0, named=True)


def test_the_verdict_names_difference_and_cost_of_every_primary_comparison(
    compared: tuple[Summary, pl.DataFrame], store: Store, averages: pl.DataFrame
) -> None:
    summary, frame = compared
    found = verdict_of(summary, frame, store.items)
    told = dict(found.found)
    for samples, tokens, budget, head in (
        (0.25, 0.5, "25% x 50%", "Behind random + random"),
        (0.5, 0.7, "50% x 70%", "Not told apart from random + random"),
    ):
        ours, theirs = (at(averages, name, samples, tokens) for name in ("q-tuning", "random+random"))
        text = told[head]
        assert text.startswith(f"Q-Tuning at {budget} ({ours['mean'] - theirs['mean']:+.2f} points [")
        assert f"for {ours['flops'] / theirs['flops']:.2f} times the FLOPs" in text
    best = averages.filter(pl.col("method").is_in(["q-tuning", "random+random"])).sort("mean").row(-1, named=True)
    assert f"{best['mean']:.2f}, at" in told["Highest Avg of the pruned methods"]
    assert "4 behind" in told["Other comparisons with Full data"]
    assert any("CANNOT tell methods apart" in text for text in found.sight)
    assert any(text.startswith("Controls are apart") for text in found.sight)
    assert [row[2] for row in found.table.rows] == ["behind", "not told apart"]


def test_each_model_has_a_table_of_its_own(compared: tuple[Summary, pl.DataFrame], store: Store) -> None:
    twice = pl.concat(
        [
            store.experiment("mini"),
            store.experiment("mini").with_columns(
                model=pl.lit("other"),
                model_label=pl.lit("Other"),
                cell=pl.col("cell") + "-other",
                score=pl.when(pl.col("metric") == "f1").then(pl.col("score") / 2).otherwise("score"),
            ),
        ]
    )
    items = pl.concat(
        [
            store.items,
            store.items.with_columns(
                cell=pl.col("cell") + "-other",
                score=pl.when(pl.col("metric") == "f1").then(pl.col("score") / 2).otherwise("score"),
            ),
        ]
    )
    summary, tips = summarise(twice), Tips()
    frame = compare(summary, items)
    views = score_views(summary, score_page(summary, frame), frame, items, tips)
    assert [view.title for view in views] == ["Mini", "Other"]
    assert views[0].columns == views[1].columns
    squad = [column.name for column in views[0].columns].index("SQuAD")
    for first, second in zip(views[0].rows, views[1].rows, strict=True):
        halves = [float(row.cells[squad].sort or "nan") for row in (first, second)]
        assert halves[1] == pytest.approx(halves[0] / 2, abs=0.006)
        assert first.cells[squad].tip is not None and second.cells[squad].tip is not None
        told = [tips.scores[row.cells[squad].tip][1][0] for row in (first, second)]  # type: ignore[index]
        assert [float(text.split()[1]) for text in told] == halves
    found = verdict_of(summary, frame, items)
    assert "Mini: Q-Tuning at 25% x 50%" in found.found[0][1]


def test_standings() -> None:
    row = {"difference": 1.0, "significant": True, "better": True}
    assert standing(row) == "ahead" and standing(row | {"better": False}) == "behind"
    assert standing(row | {"significant": None}) == "not told apart", "one seed"
    assert standing(row | {"difference": None}) == "not compared"


def test_tips_say_interval_seeds_cost_and_cells(
    compared: tuple[Summary, pl.DataFrame], store: Store, averages: pl.DataFrame
) -> None:
    summary, frame = compared
    tips = Tips()
    (view,) = score_views(summary, score_page(summary, frame), frame, store.items, tips)
    place = [column.name for column in view.columns].index("Avg")
    row = next(r for r in view.rows if (r.cells[0].field, r.cells[1].field) == ("Q-Tuning", "25% x 50%"))
    tip = row.cells[place].tip
    assert tip is not None and row.cells[1].sort == "1250"
    line, texts = tips.scores[tip]
    expected = at(averages, "q-tuning", 0.25, 0.5)
    assert texts[0].startswith(f"Avg {expected['mean']:.2f} [") and "95% over seeds and items" in texts[0]
    assert texts[1] == f"seeds: {', '.join(f'{n}: {value:.2f}' for n, value in enumerate(expected['values']))}"
    (pair,) = frame.filter(method="q-tuning", sample_ratio=0.25, benchmark="avg", against="random+random").to_dicts()
    assert f"[{pair['low']:+.2f}, {pair['high']:+.2f}] against random+random, p = {pair['p_adjusted']:.4f}" in texts[2]
    name, cost, cells = tips.lines[line]
    assert name == "Q-Tuning at 25% x 50%" and "FLOPs" in cost
    assert cells.removeprefix("cells: ").split(", ") == expected["cells"]
    assert {r.facets[0] for r in view.rows} == {"reference", "method", "control"}


def test_provenance_is_said_once_and_the_page_is_light(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert page.count("Trained with") == 1 and page.count("Items (metric):") == 1
    assert "Published claims" not in page, "the paper is not the subject"
    assert page.index("What is ahead") < page.index("<table")


def test_figures_that_stay_pictures_are_pictures(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    drawn = set(re.findall(r'data-chart="mini-([\w-]+)"', page))
    pictures = set(re.findall(r'<img alt="([\w-]+):', page))
    assert drawn >= {"controls", "budgets", "pareto", "plane", "shares", "convergence"}
    assert drawn | pictures == set(json.loads((report.parent / "figures/mini/captions.json").read_text()))


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_text_ends_the_block(value: object) -> None:
    block = str(json_block(value))
    assert "<" not in block and json.loads(block) == value


def test_the_sorting_library_is_the_published_one() -> None:
    said = re.search(r"sha256\s+([0-9a-f]{64})", (ASSETS / "sortable" / "README.md").read_text(encoding="utf-8"))
    found = hashlib.sha256((ASSETS / "sortable" / "sortable.min.js").read_bytes()).hexdigest()
    assert said is not None and said[1] == found
