"""The files of an experiment: equal bytes for equal scores, equal fields in every format, holes by name."""

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from cell_folders import Folders
from score_tables import TWO, scores_of, write

from qtuning.paper.beside import paper_files
from qtuning.statistics.summary import summarise
from qtuning.tables.page import superscript
from qtuning.tables.scores import score_files
from qtuning.tables.write import write_tables

Make = Callable[..., Folders]


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
    editions = [score_files(summary, notes=["Overlap: none."]), *paper_files(summary)]
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
