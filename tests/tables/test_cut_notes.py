"""Cut prompts and cut answers stand below the scores: in every edition, on the terminal, in the report."""

from typing import Any

from cell_folders import Folders
from rich.console import Console
from score_tables import scores_of, write

from qtuning.report.build import write_report
from qtuning.statistics.summary import summarise
from qtuning.tables.cut import cut_notes
from qtuning.tables.scores import score_page
from qtuning.tables.terminal import print_page

PROMPTS = "Cut: GSM8K: 150 of 150 prompts did not fit evaluation.max_length = 256, and lost their beginning (in every"
ANSWERS = "Cut: MATH: 2 to 12 of 90 answers had no end where the longest generation ends, and were cut (in 2 of"

CUT = {"cut_prompts", "cut_answers"}


def test_what_was_cut_is_said_everywhere(complete: Folders) -> None:
    assert cut_notes(scores_of(complete)) == [], "an evaluation of before, which did not count answers"
    assert not CUT & set(scores_of_file(complete)), "whose store is as it was"
    for number, cell in enumerate(complete.grid.cells):

        def change(scores: dict[str, Any], number: int = number) -> None:
            scores["benchmarks"]["gsm8k"] |= {"truncated_prompts": 150, "cut_answers": 0}
            scores["benchmarks"]["math"] |= {"truncated_prompts": 0, "cut_answers": {0: 12, 1: 2}.get(number, 0)}

        complete.evaluate(cell, change=change)
    scores = scores_of(complete)
    assert set(scores_of_file(complete)) >= CUT
    notes = cut_notes(scores)
    assert notes[0].startswith(PROMPTS) and notes[1].startswith(ANSWERS) and len(notes) == 2
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_page(score_page(summarise(scores)), console)
    page = write_report([complete.grid.experiment.name], complete.results, complete.results / "report")
    texts = {"terminal": console.export_text(), "report": page.read_text(encoding="utf-8")}
    texts |= {path.name: path.read_text() for path in write(complete) if path.suffix in (".md", ".html")}
    assert len(texts) >= 5
    for name, text in texts.items():
        assert PROMPTS in text and ANSWERS in text, name
    tex = " ".join(next(path.read_text() for path in write(complete) if path.suffix == ".tex").split())
    assert "150 of 150 prompts did not fit" in tex


def scores_of_file(folders: Folders) -> list[str]:
    import polars

    return polars.read_parquet(folders.results / "scores.parquet").columns
