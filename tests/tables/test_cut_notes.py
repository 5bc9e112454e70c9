"""Cut prompts and cut answers stand below the scores: in every edition, on the terminal, in the report."""

from typing import Any

import polars
from cell_folders import Folders
from rich.console import Console
from score_tables import scores_of, write

from qtuning.experiment.ids import ResultPaths
from qtuning.files import write_json
from qtuning.report.build import write_report
from qtuning.statistics.summary import summarise
from qtuning.tables.cut import cut_notes
from qtuning.tables.scores import score_page
from qtuning.tables.terminal import print_page

PROMPTS = "Cut: GSM8K: 150 of 150 prompts did not fit evaluation.max_length = 256, and lost their beginning (in every"
ANSWERS = "Cut: MATH: 2 to 12 of 90 answers had no end where the longest generation ends, and were cut (in 2 of"

RESPONSES = "30% of the training responses did not fit training.cutoff, and lost their end."

CUT = {"cut_prompts", "cut_answers", "cut_responses"}


def test_what_was_cut_is_said_everywhere(complete: Folders) -> None:
    assert cut_notes(scores_of(complete)) == [], "an evaluation of before, which did not count answers"
    assert not CUT & set(scores_of_file(complete)), "whose store is as it was"
    assert not any(b"cut_" in path.read_bytes() for path in write(complete) if path.suffix == ".csv")
    for number, cell in enumerate(complete.grid.cells):

        def change(scores: dict[str, Any], number: int = number) -> None:
            scores["benchmarks"]["gsm8k"] |= {"truncated_prompts": 150, "cut_answers": 0}
            scores["benchmarks"]["math"] |= {"truncated_prompts": 0, "cut_answers": {0: 12, 1: 2}.get(number, 0)}

        complete.evaluate(cell, change=change)
        if not cell.zero_shot:
            report = {"used": 40, "truncated_responses": 12}
            write_json(ResultPaths(complete.results).samples(cell) / "report.json", report)
    scores = scores_of(complete)
    assert set(scores_of_file(complete)) >= CUT
    notes = cut_notes(scores)
    assert notes[0].startswith("Cut: Mini SFT: 30%") and notes[0].endswith(RESPONSES)
    assert notes[1].startswith(PROMPTS) and notes[2].startswith(ANSWERS) and len(notes) == 3
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_page(score_page(summarise(scores)), console)
    page = write_report([complete.grid.experiment.name], complete.results, complete.results / "report")
    texts = {"terminal": console.export_text(), "report": page.read_text(encoding="utf-8")}
    texts |= {path.name: path.read_text() for path in write(complete) if path.suffix in (".md", ".html")}
    assert len(texts) >= 5
    for name, text in texts.items():
        assert PROMPTS in text and ANSWERS in text and RESPONSES in text, name
    csv = polars.read_csv(next(path for path in write(complete) if path.name.count(".") == 1 and path.suffix == ".csv"))
    counts = csv.group_by("benchmark").agg(polars.col("cut_prompts", "cut_answers").max())
    assert {"gsm8k": (150, 0), "math": (0, 12)}.items() <= {row[0]: row[1:] for row in counts.rows()}.items()
    tex = " ".join(next(path.read_text() for path in write(complete) if path.suffix == ".tex").split())
    assert "150 of 150 prompts did not fit" in tex


def scores_of_file(folders: Folders) -> list[str]:
    return polars.read_parquet(folders.results / "scores.parquet").columns
