"""The table of an experiment, against numbers worked out by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from cell_folders import Folders
from rich.console import Console

from qtuning.errors import UserError
from qtuning.experiment.names import cell_id
from qtuning.paper.beside import paper_editions
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store, write_store
from qtuning.tables.by_cost import cost_edition
from qtuning.tables.costs import SELECTED
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import superscript
from qtuning.tables.scores import score_edition, score_page, tidy_scores
from qtuning.tables.terminal import print_page
from qtuning.tables.write import write_tables

Make = Callable[..., Folders]
TWO = {"benchmarks": ["gsm8k", "math"], "source": "mini-world", "batch_size": 64, "max_length": 256}


def scores_of(folders: Folders) -> pl.DataFrame:
    write_store([folders.grid], folders.results)
    return Store(folders.results).experiment(folders.grid.experiment.name)


def markdown(scores: pl.DataFrame) -> str:
    return render_markdown(score_page(summarise(scores)))


def write(folders: Folders) -> tuple[Path, ...]:
    """Collect, and write what the report does."""
    summary = summarise(scores_of(folders))
    return write_tables(summary, [score_edition(summary), cost_edition(summary)], folders.results / "tables")


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


@pytest.fixture
def complete(make_folders: Make) -> Folders:
    """Two benchmarks, one budget, two seeds, everything done."""
    folders = make_folders(evaluation=TWO, budgets=["25x50"])
    fill(
        folders,
        {
            "zero-shot": (0.10, 0.02),
            "mini-full-s0": (0.50, 0.10),
            "mini-full-s1": (0.54, 0.14),
            "random+random-25x50-s0": (0.30, 0.05),
            "random+random-25x50-s1": (0.32, 0.09),
            "q-tuning-25x50-s0": (0.33, 0.06),
            "q-tuning-25x50-s1": (0.37, 0.06),
        },
    )
    return folders


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


def test_costs(complete: Folders) -> None:
    page = markdown(scores_of(complete))
    assert block(page, "What it cost") == [
        [
            "Samples x Tokens",
            "Method",
            "Updates",
            "Samples kept",
            "Tokens kept",
            "Tokens forwarded",
            "FLOPs",
            "Seconds",
        ],
        ["100% x 100%", "Full data", "150", "100.0%", "100.0%", "120,000", "100.0%", "18.0"],
        ["25% x 50%", "random + random", "38", "25.0%", "12.5%", "30,000", "25.0%", "4.5"],
        # scoring: 1200 samples of 100 tokens, 1.2e13 of 3.6e13 FLOPs, 6 seconds
        ["25% x 50%", "Q-Tuning", "150", "25.0%", "12.5%", "150,000", "58.3%", "10.5"],
    ]


def test_costs_never_average_over_fewer(complete: Folders) -> None:
    complete.diverge(complete.find("random+random-25x50-s1"), "nan")
    (complete.folder(complete.find("mini-full-s1")) / "train.json").unlink()
    rows = block(markdown(scores_of(complete)), "What it cost")
    assert rows[1] == ["100% x 100%", "Full data", *"––––––"]
    assert rows[2] == ["25% x 50%", "random + random", *"––––––"]
    assert rows[3] == ["25% x 50%", "Q-Tuning", "150", "–", "–", "150,000", "–", "10.5"]


def test_costs_without_full_data(complete: Folders) -> None:
    """Shares of the 1200 samples and 32,000 tokens that there were to choose from, FLOPs as such, and a note of it."""
    page = markdown(scores_of(complete).filter(pl.col("method") != "full"))
    rows = block(page, "What it cost")
    assert rows[1] == ["25% x 50%", "random + random", "38", "25.0%", "15.6%", "30,000", "9.00e12", "4.5"]
    assert rows[2] == ["25% x 50%", "Q-Tuning", "150", "25.0%", "15.6%", "150,000", "2.10e13", "10.5"]
    note = page.partition("What it cost")[2].partition("## ")[0]
    assert "no training on the full data to compare with" in note and "with the same seed" not in note
    assert "full-data cell" not in note


def test_what_was_selected(complete: Folders) -> None:
    rows = block(markdown(scores_of(complete)), "What was selected")
    assert rows[0] == ["Samples x Tokens", "Method", *SELECTED]
    assert rows[1] == ["25% x 50%", "random + random", "100.0%", "125.0%", *"–––––––"]
    triage = ["62.5%", "30.0%", "5.0%", "25.0%", "10.0%", "75.0%", "25.0%"]
    assert rows[2] == ["25% x 50%", "Q-Tuning", "100.0%", "125.0%", *triage]
    assert len(rows) == 3, "what prunes nothing is not there"


def test_csv(complete: Folders) -> None:
    table = pl.read_csv(next(path for path in write(complete) if path.name == "mini.csv"))
    assert len(table) == 4 * 3
    (row,) = table.filter((pl.col("method") == "q-tuning") & (pl.col("benchmark") == "math")).to_dicts()
    assert row == {
        "experiment": "mini",
        "train_set": "mini",
        "sample_ratio": 0.25,
        "token_ratio": 0.5,
        "method": "q-tuning",
        "sample_pruner": "q-tuning",
        "token_pruner": "q-tuning",
        "variant": "",
        "model": "mini",
        "benchmark": "math",
        "metric": "exact_match",
        "mean": 6.0,
        "sd": 0.0,
        "n_seeds": 2,
        "seeds": "0 1",
        "difference": -1.0,
        "difference_sd": pytest.approx(8**0.5),
        "items": 90,
        "status": "done",
        "reason": None,
    }


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
    from qtuning.statistics.summary import summarise
    from qtuning.store.lines import random_at_budget

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


def test_tables_are_reproducible_and_undated(complete: Folders) -> None:
    paths = write(complete)
    assert [path.name for path in paths] == [
        f"mini.{kind}" for kind in ("md", "tex", "html", "csv", "cost.md", "cost.csv")
    ]
    first = [path.read_bytes() for path in paths]
    (complete.results / "tables" / "mini.md").unlink()
    assert [path.read_bytes() for path in write(complete)] == first
    assert not re.search(rb"20\d\d-\d\d", b"".join(first))


def test_an_edition_of_a_table_of_the_paper_has_it_beside_ours(make_folders: Make, tmp_path: Path) -> None:
    folders = make_folders(name="table2-mini", evaluation=TWO, budgets=["25x50"], seeds=[0])
    for cell in folders.grid.cells:
        folders.finish(cell)
    summary = summarise(scores_of(folders))
    editions = [score_edition(summary, notes=["Overlap: none."]), *paper_editions(summary)]
    paths = write_tables(summary, editions, tmp_path / "out")
    kinds = ("md", "tex", "html", "csv", "paper.md", "paper.html", "paper.csv", "signs.csv")
    assert paths == tuple(tmp_path / "out" / f"table2-mini.{kind}" for kind in kinds)
    assert "\n- Overlap: none.\n" in paths[0].read_text()
    # the one published budget that we have, against each of the other rows of ours
    table = pl.read_csv(paths[-1])
    decided = table.filter(pl.col("difference").is_not_null())
    assert set(decided["method"]) == {"zero-shot", "full", "random+random"}
    assert set(table["token_ratio"]) == {0.5}


def test_all_outputs_show_the_same_fields(complete: Folders) -> None:
    """Row by row: Markdown, HTML and LaTeX read back, each by what its markup means."""
    complete.diverge(complete.find("random+random-25x50-s1"), "nan & <inf> | 50%_x")
    by_kind = {path.suffix: path.read_text() for path in write(complete)[:4]}
    lines = [line for line in by_kind[".md"].splitlines() if line.startswith("|") and not set(line) <= set("|:-")]
    in_markdown = [[re.sub(r"[* ]", "", cell) for cell in line.strip("|").split("|")] for line in lines]
    in_html = [
        [re.sub(r"<[^>]*>| ", "", cell) for cell in re.findall(r"<td.*?</td>|<th scope=.col.*?</th>", row)]
        for row in re.findall(r"<tr>.*?</tr>", by_kind[".html"])
    ]
    signs = {r"\%": "%", "--": "–", r"$\pm$": "±", r"$\uparrow$": "↑", r"$\downarrow$": "↓", "{-}": "-"}
    in_latex = []
    for line in by_kind[".tex"].splitlines():
        if line.endswith(r" \\") and not line.startswith(r"\multicolumn"):
            for sign, meaning in signs.items():
                line = line.replace(sign, meaning)
            line = re.sub(r"\\textsuperscript\{(\d+)\}", lambda match: superscript(int(match[1])), line)
            line = re.sub(r"\\textbf|\\tiny|[{} ]", "", line[: -len(r" \\")])
            in_latex.append(line.split("&"))
    headers = in_markdown[0]
    assert [row for row in in_markdown if row != headers] == [row for row in in_html if row != headers]
    assert [row for row in in_html if row != headers] == [row for row in in_latex if row != headers]
    assert any("–¹" in row for row in in_latex)
    for kind, text in (
        (".md", r"nan & \<inf> \| 50%_x"),
        (".html", "nan &amp; &lt;inf&gt; | 50%_x"),
        (".tex", r"nan \& \textless{}inf\textgreater{} \textbar{} 50\%\_x"),
    ):
        assert text in by_kind[kind]


def test_nothing_run_yet_is_a_table_of_holes(folders: Folders) -> None:
    page = markdown(scores_of(folders))
    assert {cell for row in block(page, "Reference")[1:] for cell in row[2:]} == {"–¹", "–²"}
    assert "- ² seeds 0, 1 not run: not trained yet\n" in page
    assert "not evaluated" in page


def test_unknown_experiment(complete: Folders) -> None:
    scores_of(complete)
    with pytest.raises(UserError, match="no rows"):
        Store(complete.results).experiment("table1")


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (200, "Q-Tuning 35.00 ± 2.83 ↑4.0 6.00 ± 0.00 ↓1.0 20.50 ± 1.41 ↑1.5"),
        (75, "Q-Tuning 35.00 ↑4.0 6.00 ↓1.0 20.50 ↑1.5"),
        (55, "Q-Tuning 35.00 6.00 20.50 ↑1.5"),
        (50, "Q-Tuning 35.00 6.00 20.50"),
    ],
)
def test_terminal_shows_as_much_as_fits(width: int, row: str, complete: Folders) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_page(score_page(summarise(scores_of(complete))), console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert row in lines
    assert "Samples 25% x Tokens 50%" in lines


def test_terminal_emphasises(complete: Folders) -> None:
    console = Console(width=200, record=True, force_terminal=True, color_system="standard")
    print_page(score_page(summarise(scores_of(complete))), console)
    text = console.export_text(styles=True)
    assert "\x1b[1m35.00\x1b[0m" in text
    assert "\x1b[32m ↑4.0\x1b[0m" in text
    assert "\x1b[31m ↓1.0\x1b[0m" in text


def test_a_table_with_cells_still_to_run_does_not_pass_for_the_finished_one(make_folders: Make) -> None:
    folders = make_folders(evaluation=TWO, budgets=["25x50"], seeds=[0], methods=["random+random"])
    zero_shot, cell = folders.grid.cells
    folders.finish(zero_shot, {"gsm8k": 0.1, "math": 0.1}.__getitem__)
    partial, *_ = write(folders)
    assert partial.name == f"{folders.grid.experiment.name}.partial.md"
    assert "not run" in partial.read_text()
    folders.finish(cell, {"gsm8k": 0.2, "math": 0.2}.__getitem__)
    whole, *_ = write(folders)
    assert whole.name == f"{folders.grid.experiment.name}.md"
    assert not list(folders.results.glob("tables/*.partial.*")), "the table with holes is no longer true"
