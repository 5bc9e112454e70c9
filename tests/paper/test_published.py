"""The published numbers as they are read, and which numbers of items can have given them."""

from decimal import Decimal
from pathlib import Path

import pytest
from claim_oracle import lines, write

from qtuning.paper.published import possible, read_efficiency, read_figure7, read_published, table_number

PUBLISHED = read_published()


def test_every_line_is_read() -> None:
    counts = {table: sum(len(PUBLISHED.scores[row]) for row in rows) for table, rows in PUBLISHED.tables.items()}
    assert counts == {
        1: 228, 2: 171, 3: 36, 4: 42, 5: 24, 8: 432, 9: 636, 10: 318, 11: 318, 12: 324, 13: 264, 14: 144, 15: 72,
    }  # fmt: skip
    names = ("table", "train_set", "setting", "model", "sample_pruner", "token_pruner", "variant")
    flat = [
        (*(str(getattr(row, name)) for name in names), name, score, PUBLISHED.deltas.get(row, {}).get(name))
        for row, scores in PUBLISHED.scores.items()
        for name, score in scores.items()
    ]
    assert flat == [
        (
            *(line[name] for name in (*names, "benchmark")),
            Decimal(line["score"]),
            Decimal(line["printed_delta"]) if line["printed_delta"] else None,
        )
        for line in lines()
    ]


def test_rows_are_found_by_what_they_are() -> None:
    row = PUBLISHED.row(1, "llama2-7b", 0.125, 0.5, "q-tuning", "q-tuning")
    baselines = PUBLISHED.baselines(row)
    assert len(baselines) == 16 and row not in baselines
    assert {other.budget for other in baselines} == {"12.5x50"}
    assert PUBLISHED.row(1, "llama2-7b", "full").method == "Full data"
    assert PUBLISHED.benchmarks(1) == ["arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa"]
    with pytest.raises(KeyError):
        PUBLISHED.row(1, "llama3-8b", "full")  # it is in tables 2 and 12 only
    best = PUBLISHED.q_tuning(12, "mistral-7b", 0.5, 0.7)
    assert PUBLISHED.scores[best] == {"gsm8k": Decimal("48.07"), "math": Decimal("6.14"), "avg": Decimal("26.57")}
    assert str(best) == "table 12, Mistral-7B, 50x70, Q-Tuning"


def test_rows_that_change_q_tuning_are_told_apart() -> None:
    rows = [row for row in PUBLISHED.rows(4) if row.budget == "12.5x50"]
    assert [(row.labels[1], row.q_tuning, row.place[1:], row.line.variant) for row in rows] == [
        ("samples lost in Q3 only (inferred)", False, (0.5, "q-tuning", "q-tuning"), "drop_in=Q3"),
        ("tokens lost in Q2 and Q4", False, (0.5, "q-tuning", "q-tuning"), "prune_in=Q2+Q4"),
        ("no tokens lost (inferred)", False, (1.0, "q-tuning", "none"), ""),  # our run of it keeps all tokens
        ("samples lost in Q1 and Q3, tokens in Q2", True, (0.5, "q-tuning", "q-tuning"), ""),
    ]
    assert PUBLISHED.q_tuning(4, "qwen3-8b", 0.125, 0.5) == rows[-1]
    assert [row.block for row in rows] == ["Samples 12.5% x Tokens 50%"] * 4
    assert {row.method for row in PUBLISHED.rows(5)} == {
        "Q-Tuning + Rho-1", "Q-Tuning (lambda=0)", "Q-Tuning (reversed)", "Q-Tuning (lambda=0.5)",
    }  # fmt: skip


def test_two_scores_in_one_place_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, scores=[lines()[0], lines()[0]])
    with pytest.raises(ValueError, match="table 1, LLaMA2-7B, Zero-shot: two scores on arc_easy"):
        read_published(folder)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((f"table{number}", number) for number in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15)),
        *(("table2-mini", 2), ("table12-smollm2", 12)),
        # table 6 has times, table 7 hyper-parameters
        *((name, None) for name in ("table6", "table7-mini", "table16", "table", "mini", "fig4")),
    ],
)
def test_table_number(name: str, number: int | None) -> None:
    assert table_number(name) == number


def test_what_the_published_scores_say_of_their_items() -> None:
    """ARC was measured on the 567 and 295 validation questions with four choices, not on the test splits."""

    def impossible(benchmark: str, *items: int) -> list[int]:
        printed = [float(scores[benchmark]) for scores in PUBLISHED.scores.values() if benchmark in scores]
        return [sum(not possible(score, count) for score in printed) for count in items]

    # the questions with four choices; all of the validation split; the test split
    assert impossible("arc_easy", 567, 570, 2376) == [0, 402, 268]
    assert impossible("arc_challenge", 295, 299, 1172) == [0, 407, 376]
    assert impossible("math", 5000, 500) == [0, 145]
    assert impossible("gsm8k", 1319) == [0]
    assert impossible("triviaqa", 8837, 17_944) == [0, 0]


def test_table_6_and_figure_7() -> None:
    rows = {row.budget: row for row in read_efficiency()}
    assert [(name, float(row.selection), float(row.total), float(row.peak_memory)) for name, row in rows.items()] == [
        ("12.5x50", 42.84, 65, 27),
        ("25x50", 46.13, 70, 35),
        ("50x50", 52.72, 80, 50),
        ("100x100", 0, 90, 78),
    ]
    shares = read_figure7()
    assert len(shares) == 6
    # each run of six is a whole, but for its rounding
    assert [float(sum(of[part] for of in shares.values())) for part in ("pruned", "kept")] == [100.1, 100.0]
    assert float(shares["gold-answer-spans"]["kept"]) == 3.5
