"""What an experiment cost and what it selected, against numbers worked out by hand."""

import polars as pl
from cell_folders import Folders
from score_tables import block, markdown, scores_of

from qtuning.tables.costs import SELECTED


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
            "CPU seconds",
        ],
        ["100% x 100%", "Full data", "150", "100.0%", "100.0%", "120,000", "100.0%", "18.0", "16.2"],
        ["25% x 50%", "random + random", "38", "25.0%", "12.5%", "30,000", "25.0%", "4.5", "4.0"],
        # scoring: 1200 samples of 100 tokens, 1.2e13 of 3.6e13 FLOPs, 6 seconds
        ["25% x 50%", "Q-Tuning", "150", "25.0%", "12.5%", "150,000", "58.3%", "10.5", "9.5"],
    ]


def test_costs_never_average_over_fewer(complete: Folders) -> None:
    complete.diverge(complete.find("random+random-25x50-s1"), "nan")
    (complete.folder(complete.find("mini-full-s1")) / "train.json").unlink()
    rows = block(markdown(scores_of(complete)), "What it cost")
    assert rows[1] == ["100% x 100%", "Full data", *"–––––––"]
    assert rows[2] == ["25% x 50%", "random + random", *"–––––––"]
    assert rows[3] == ["25% x 50%", "Q-Tuning", "150", "–", "–", "150,000", "–", "10.5", "9.5"]


def test_costs_without_full_data(complete: Folders) -> None:
    """Shares of the 1200 samples and 32,000 tokens that there were to choose from, FLOPs as such, and a note of it."""
    page = markdown(scores_of(complete).filter(pl.col("method") != "full"))
    rows = block(page, "What it cost")
    assert rows[1] == ["25% x 50%", "random + random", "38", "25.0%", "15.6%", "30,000", "9.00e12", "4.5", "4.0"]
    assert rows[2] == ["25% x 50%", "Q-Tuning", "150", "25.0%", "15.6%", "150,000", "2.10e13", "10.5", "9.5"]
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
