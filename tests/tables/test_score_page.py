"""The table of an experiment against numbers worked out by hand, and the marks of significance beside its scores."""

import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from cell_folders import Folders
from score_tables import TWO, block, markdown, scores_of

from qtuning.errors import UserError
from qtuning.experiment.ids import cell_id
from qtuning.statistics.compare import MARKS
from qtuning.statistics.summary import summarise
from qtuning.store.lines import random_at_budget
from qtuning.store.store import Store
from qtuning.tables.page import Parts
from qtuning.tables.scores import score_page, tidy_scores

Make = Callable[..., Folders]


def test_complete_table(complete: Folders) -> None:
    page = markdown(scores_of(complete))
    # sd of (50, 54) = 4 / sqrt(2) = 2.83; Avg by seed: (30, 34), mean 32
    assert block(page, "Reference") == [
        ["Sample pruner", "Token pruner", "GSM8K", "MATH", "Avg"],
        ["Zero-shot", "", "10.00", "2.00", "6.00"],
        ["Full data", "", "52.00 ± 2.83", "12.00 ± 2.83", "32.00 ± 2.83"],
    ]
    # differences by seed: GSM8K 3, 5; MATH 1, -3; Avg 2, 1
    assert block(page, "Samples 25% x Tokens 50%")[1:] == [
        ["random", "random", "31.00 ± 1.41", "**7.00** ± 2.83", "19.00 ± 2.12"],
        ["Q-Tuning", "", "**35.00** ± 2.83 ↑4.0", "6.00 ± 0.00 ↓1.0", "**20.50** ± 1.41 ↑1.5"],
    ]
    for text in (
        "# Mini world, full fine-tuning",
        "over 2 seeds (0, 1)",
        "GSM8K 150 (exact_match,flexible-extract); MATH 90 (exact_match)",
        "backend hf (device cpu, lm_eval 0.4.13, torch 2.13.0, transformers 5.23.0), float32, batch size 64",
        "id evaluation-",
        "Trained with (6 cells): git abc1234, qtuning 0.1.0, torch 2.13.0",
    ):
        assert text in page, text
    assert "–" not in page.split("## What it cost")[0]


def test_a_table_says_whose_definitions_its_baselines_are(make_folders: Make) -> None:
    folders = make_folders(evaluation=TWO, methods=["random+random", "longest+ppl", "random+fastv-original"], seeds=[0])
    note = "longest, PPL: as the Q-Tuning paper describes them; -original is a baseline's own paper"
    page = markdown(scores_of(folders))
    assert note in page and "| FastV-original" in page
    plain = make_folders(evaluation=TWO, methods=["random+random", "random+fastv-original"], seeds=[0])
    assert "as the Q-Tuning paper describes" not in markdown(scores_of(plain))


def test_a_missing_seed_is_a_hole_and_not_a_mean_over_fewer(make_folders: Make) -> None:
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0, 1, 2])
    for cell in folders.grid.cells:
        if "random+random-25x50-s1" in cell_id(cell):
            folders.diverge(cell, "loss is nan at update 12")
        elif "q-tuning-25x50-s2" in cell_id(cell):
            folders.fail(cell, "failed", "OutOfMemoryError:\n  CUDA out of memory")
        elif "q-tuning-25x50-s1" in cell_id(cell):
            folders.train(cell)
        else:
            folders.finish(cell)
    scores = scores_of(folders)
    page = markdown(scores)
    assert block(page, "Samples 25% x Tokens 50%")[1:] == [
        ["random", "random", "–¹", "–¹", "–¹"],
        ["Q-Tuning", "", "–²", "–²", "–²"],
    ]
    assert "- ¹ seed 1 diverged: loss is nan at update 12\n" in page
    assert (
        "- ² seed 1 not run: trained, not evaluated yet; seed 2 failed: OutOfMemoryError: CUDA out of memory\n" in page
    )
    row = tidy_scores(summarise(scores)).filter(pl.col("method") == "random+random").to_dicts()[0]
    assert (row["mean"], row["n_seeds"], row["status"]) == (None, 0, "diverged")
    assert row["reason"] == "seed 1 diverged: loss is nan at update 12"


def test_a_hole_of_the_random_row_only_hides_the_differences(complete: Folders) -> None:
    cell = complete.find("random+random-25x50-s1")
    for path in complete.folder(cell).rglob("*.json"):
        path.unlink()
    rows = block(markdown(scores_of(complete)), "Samples 25% x Tokens 50%")
    assert rows[1:] == [
        ["random", "random", "–¹", "–¹", "–¹"],
        ["Q-Tuning", "", "35.00 ± 2.83", "6.00 ± 0.00", "20.50 ± 1.41"],
    ]


def test_no_average_without_every_benchmark(complete: Folders) -> None:
    cell = complete.find("q-tuning-25x50-s1")
    complete.evaluate(cell, lambda _: 0.37, change=lambda scores: scores["benchmarks"].pop("math"))
    page = markdown(scores_of(complete))
    assert block(page, "Samples 25% x Tokens 50%")[2] == ["Q-Tuning", "", "**35.00** ± 2.83 ↑4.0", "–¹", "–²"]
    assert "- ¹ seed 1 not run: the evaluation has no score of this benchmark\n" in page
    assert "- ² seed 1 not run: no average without math: the evaluation has no score of this benchmark\n" in page


def test_option_variants_are_rows_of_their_own(make_folders: Make) -> None:
    methods = [{"method": "q-tuning", "options": {"lambda": 0.3}}, "random+random", "q-tuning"]
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0], methods=methods)
    for cell in folders.grid.cells:
        assert cell.zero_shot or cell.pruning is not None
        chosen = cell.pruning.token_options.get("lambda", 0) if cell.pruning else 0
        folders.finish(cell, {"gsm8k": float(chosen), "math": float(chosen)}.__getitem__)
    rows = block(markdown(scores_of(folders)), "Samples 25% x Tokens 50%")
    assert [(row[0], row[2]) for row in rows[1:]] == [
        ("random", "0.00"),
        ("Q-Tuning (lambda=0.3)", "30.00 ↑30.0"),
        ("Q-Tuning (lambda=0.5)", "**50.00** ↑50.0"),
    ]


def test_blocks_and_columns_of_several_models_and_train_sets(make_folders: Make) -> None:
    folders = make_folders(
        evaluation=TWO, models=["llama3-8b", "mistral-7b"], train_sets=["gsm8k", "alpaca"], seeds=[0]
    )
    for cell in folders.grid.cells:
        folders.finish(cell)
    page = markdown(scores_of(folders))
    headings = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    titles = ["Reference", "Samples 25% x Tokens 50%", "Samples 50% x Tokens 70%"]
    labels = list(dict.fromkeys(cell.train_set.label for cell in folders.grid.cells if cell.train_set))
    assert headings == [f"{label}: {title}" for label in labels for title in titles] + [
        "What it cost",
        "What was selected",
    ]
    header, zero_shot, full = block(page, f"{labels[1]}: Reference")
    assert header[2:] == [
        f"{model} {name}" for model in ("LLaMA3-8B", "Mistral-7B") for name in ("GSM8K", "MATH", "Avg")
    ]
    assert zero_shot == ["Zero-shot", *block(page, f"{labels[0]}: Reference")[1][1:]]
    assert full != ["Full data", *block(page, f"{labels[0]}: Reference")[2][1:]]


def test_one_sided_budgets_are_compared_with_one_sided_random(make_folders: Make) -> None:
    """All tokens: random samples with no token pruner are the reference."""
    folders = make_folders(
        evaluation=TWO,
        budgets=["25x100", "100x50"],
        methods=["full", "random+none", "full+random", "q-tuning"],
        seeds=[0],
    )
    summary = summarise(scores_of(folders))
    found = {}
    for line in summary.lines:
        rival = random_at_budget(line, summary.lines)
        found[line.method, line.sample_ratio, line.token_ratio] = rival.method if rival else None
    assert found["q-tuning", 0.25, 1.0] == "random+none"
    assert found["q-tuning", 1.0, 0.5] == "full+random"
    assert found["full", 1.0, 1.0] is None


def test_one_benchmark_has_no_average(make_folders: Make) -> None:
    folders = make_folders(evaluation=TWO | {"benchmarks": ["gsm8k"]}, budgets=["25x50"], seeds=[0])
    for cell in folders.grid.cells:
        folders.finish(cell)
    assert block(markdown(scores_of(folders)), "Reference")[0][2:] == ["GSM8K"]


def test_raw_text_is_aligned(folders: Folders) -> None:
    for cell in folders.grid.cells[:-1]:
        folders.finish(cell)
    page = markdown(scores_of(folders))
    for table in page.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) <= 1
        assert len({tuple(i for i, char in enumerate(line) if char == "|") for line in lines}) <= 1


def test_nothing_run_yet_is_a_table_of_holes(folders: Folders) -> None:
    page = markdown(scores_of(folders))
    assert {cell for row in block(page, "Reference")[1:] for cell in row[2:]} == {"–¹", "–²"}
    assert "- ² seeds 0, 1 not run: not trained yet\n" in page
    assert "not evaluated" in page


def test_unknown_experiment(complete: Folders) -> None:
    scores_of(complete)
    with pytest.raises(UserError, match="no rows"):
        Store(complete.results).experiment("table1")


@pytest.fixture
def scores(make_folders: Make) -> pl.DataFrame:
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0])
    for cell in folders.grid.cells:
        folders.finish(cell)
    return scores_of(folders)


def comparison(
    scores: pl.DataFrame, benchmark: str, against: str, significant: bool | None, **more: Any
) -> dict[str, Any]:
    row = scores.filter(pl.col("method") == "q-tuning").to_dicts()[0]
    names = ("experiment", "model", "train_set", "method", "options", "training", "sample_ratio", "token_ratio")
    place = {name: row[name] for name in names}
    return (
        place
        | {"benchmark": benchmark, "against": against, "family": "exploratory", "p_adjusted": 0.01, "note": ""}
        | {"mark": MARKS[against] if significant else None}
        | more
    )


def test_marks_stand_beside_the_scores_they_belong_to(scores: pl.DataFrame) -> None:
    comparisons = pl.DataFrame(
        [
            comparison(scores, "gsm8k", "random+random", True),
            comparison(scores, "gsm8k", "full", True),
            comparison(scores, "math", "random+random", False),
            comparison(scores, "math", "full", None, p_adjusted=None, note="no such row"),
            comparison(scores, "avg", "full", True, note="two seeds"),
            comparison(scores, "math", "full", True, experiment="another"),
        ]
    )
    table = score_page(summarise(scores), comparisons).tables[0]
    found = {row[0]: [field.marks for field in row if isinstance(field, Parts)] for row in table.rows}
    assert found == {
        "Zero-shot": ["", "", ""],
        "Full data": ["", "", ""],
        "random": ["", "", ""],
        "Q-Tuning": [" †‡", "", " ‡"],
    }
    (legend,) = [note for note in table.notes if note.startswith("†")]
    assert "Holm's correction (0 comparisons); in brackets, an exploratory one, after Benjamini" in legend
    assert legend.endswith("Hochberg's (4 comparisons). No mark is no proof of equality.")
    assert [note for note in table.notes if note.startswith("Significance")] == ["Significance: two seeds."]


def test_no_comparisons_no_legend(scores: pl.DataFrame) -> None:
    assert not any("†" in note for note in score_page(summarise(scores)).tables[0].notes)


def test_marks_know_how_a_cell_was_trained(scores: pl.DataFrame) -> None:
    both = pl.concat(
        [
            scores.with_columns(training=pl.lit("")),
            scores.filter(pl.col("method") == "q-tuning").with_columns(
                cell=pl.col("cell") + "-16", training=pl.lit("batch_size=16")
            ),
        ]
    )
    comparisons = pl.DataFrame([comparison(scores, "gsm8k", "full", True, training="batch_size=16")])
    rows = [
        row for row in score_page(summarise(both), comparisons).tables[0].rows if str(row[0]).startswith("Q-Tuning")
    ]
    assert [(row[0], getattr(row[2], "marks", None)) for row in rows] == [
        ("Q-Tuning", ""),
        ("Q-Tuning (batch_size=16)", " ‡"),
    ]
