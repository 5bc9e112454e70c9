"""What may not stand in one table is refused when it is drawn; versions that trained are told at its top."""

import json
from collections.abc import Callable

import polars as pl
import pytest
from cell_folders import Folders

from qtuning.errors import UserError
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store, write_store
from qtuning.tables.html import render_html as html
from qtuning.tables.latex import render_latex as latex
from qtuning.tables.markdown import render_markdown as markdown
from qtuning.tables.scores import score_page, tidy_scores
from qtuning.tables.terminal import print_page

TWO = {"benchmarks": ["gsm8k", "math"], "source": "mini-world", "batch_size": 64, "max_length": 256}


@pytest.fixture
def folders(make_folders: Callable[..., Folders]) -> Folders:
    folders = make_folders(evaluation=TWO, budgets=["25x50"])
    for cell in folders.grid.cells:
        folders.finish(cell)
    write_store([folders.grid], folders.results)
    return folders


def odd(scores: pl.DataFrame, column: str, **changes: object) -> pl.DataFrame:
    """The scores with one cell's JSON column changed, as a store that was put together elsewhere might have it."""
    text = scores.filter(pl.col("method") == "q-tuning")[column][0]
    value = json.dumps(json.loads(text) | changes)
    where = (pl.col("method") == "q-tuning") & (pl.col("seed") == "1")
    return scores.with_columns(pl.when(where).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize(
    ("column", "changes", "said"),
    [
        ("backend", {"name": "vllm"}, "backend name differs"),
        ("backend", {"transformers": "5.24.0"}, "backend transformers differs"),
        ("backend", {"lm_eval": "0.4.14"}, "backend lm_eval differs"),
        ("evaluation_config", {"batch_size": 8}, "evaluation batch_size differs"),
        ("evaluation_config", {"dtype": "bfloat16"}, "evaluation dtype differs"),
    ],
)
def test_mixed_evaluations_are_refused_from_any_store(
    folders: Folders, column: str, changes: dict[str, object], said: str
) -> None:
    scores = odd(Store(folders.results).experiment("mini"), column, **changes)
    scores.write_parquet(folders.results / "scores.parquet")
    (folders.results / ".collected.json").unlink()  # which knows the digest of what was there
    with pytest.raises(UserError, match=said) as refused:
        summarise(Store(folders.results).experiment("mini"))
    assert "q-tuning-25x50-s1" in str(refused.value)


def test_versions_that_trained_are_told_at_the_top_of_every_output(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = odd(Store(folders.results).experiment("mini"), "versions", torch="2.14.0", git="def5678")
    page = score_page(summarise(scores))
    (warning,) = page.warnings
    assert warning.startswith("Cells were trained with different versions of torch,")
    assert "2.14.0 in " in warning and "q-tuning-25x50-s1" in warning
    text = markdown(page)
    assert text.index("> **Warning.** Cells were trained") < text.index("## Reference")
    assert "different versions of torch" in latex(page)
    assert '<p class="warning"' in html(page)
    print_page(page)
    assert "different versions of torch" in " ".join(capsys.readouterr().out.split())
    # the revision of the code is listed, not warned of: it moves with every commit
    assert "git def5678" in text


def test_equal_versions_are_no_warning(folders: Folders) -> None:
    assert score_page(summarise(Store(folders.results).experiment("mini"))).warnings == ()


def test_a_seed_the_store_has_no_row_of_is_a_hole(folders: Folders) -> None:
    """Not a mean over the other seed, which nothing would betray."""
    scores = Store(folders.results).experiment("mini")
    without = scores.filter(~((pl.col("method") == "full") & (pl.col("seed") == "1")))
    rows = tidy_scores(summarise(without)).filter(pl.col("method") == "full").to_dicts()
    assert [row["mean"] for row in rows] == [None, None, None]
    assert {row["reason"] for row in rows} == {
        "seed 1 not run: no row of this cell in the score store; collect the scores again"
    }
    costs = next(table for table in score_page(summarise(without)).tables if table.name == "costs")
    assert next(row for row in costs.rows if row[1] == "Full data")[2:] == ("–",) * 7


def test_a_benchmark_the_store_has_no_row_of_is_a_hole_and_so_is_the_average(folders: Folders) -> None:
    scores = Store(folders.results).experiment("mini")
    without = scores.filter(~((pl.col("method") == "full") & (pl.col("benchmark") == "math")))
    rows = {
        row["benchmark"]: row["mean"]
        for row in tidy_scores(summarise(without)).filter(pl.col("method") == "full").to_dicts()
    }
    assert rows["gsm8k"] is not None
    assert (rows["math"], rows["avg"]) == (None, None)


def test_two_cells_in_one_place_are_refused(folders: Folders) -> None:
    """As for two training batch sizes that the rows do not tell apart: the last would stand for both."""
    scores = Store(folders.results).experiment("mini")
    twin = scores.filter(pl.col("method") == "full").with_columns(cell=pl.lit("another-full"))
    with pytest.raises(UserError, match=r"another-full claim the same place .*seed 0"):
        summarise(pl.concat([scores, twin]))


def test_an_axis_of_training_has_rows_and_differences_of_its_own(folders: Folders) -> None:
    scores = Store(folders.results).experiment("mini").with_columns(training=pl.lit("batch_size=8"))
    large = scores.filter(pl.col("method") != "zero-shot").with_columns(
        cell=pl.col("cell") + "-16", training=pl.lit("batch_size=16"), score=pl.col("score") / 2
    )
    both = pl.concat([scores, large])
    page = score_page(summarise(both))
    labels = [row[0] for row in page.tables[0].rows]
    assert labels == [
        "Zero-shot",
        "Full data (batch_size=8)",
        "Full data (batch_size=16)",
        "random",
        "random",
        "Q-Tuning (batch_size=8)",
        "Q-Tuning (batch_size=16)",
    ]
    rows = (
        tidy_scores(summarise(both))
        .filter((pl.col("method") == "q-tuning") & (pl.col("benchmark") == "avg"))
        .to_dicts()
    )
    assert rows[1]["difference"] == pytest.approx(rows[0]["difference"] / 2, abs=1e-6)
