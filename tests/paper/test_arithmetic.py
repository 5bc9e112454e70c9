"""The mistakes of the printed numbers: those that are known, and any that is put in."""

from pathlib import Path

import pytest
from claim_oracle import ITEMS, Line, lines, on_grid, write, wrong_deltas
from hypothesis import given
from hypothesis import strategies as st

from qtuning.paper.arithmetic import (
    chance_of_means,
    check_averages,
    check_deltas,
    copied_rows,
    derived_share,
    item_counts,
    repeated_cells,
    selection_shares,
    token_pairs,
)
from qtuning.paper.published import Published, possible, read_published

PUBLISHED = read_published()


def with_change(folder: Path, change: dict[str, str], **place: str) -> Published:
    """The published numbers with one line changed, the first at a place."""
    rows = lines()
    line = next(row for row in rows if place.items() <= row.items())
    line.update(change)
    return read_published(write(folder, scores=rows))


MISTRAL: Line = {"table": "1", "model": "mistral-7b", "sample_pruner": "longest", "token_pruner": "ppl"}


def test_deltas_are_the_oracles() -> None:
    found = [each.mistake for each in check_deltas(PUBLISHED)]
    counts = {kind: found.count(kind) for kind in ("exact", "rounding", "sign", "size")}
    assert counts == {"exact": 2462, "rounding": 7, "sign": 6, "size": 9}
    assert counts == wrong_deltas(lines())


@pytest.mark.parametrize(("delta", "mistake"), [("-9.00", "size"), ("{minus}", "sign"), ("{off}", "rounding")])
def test_a_changed_delta_is_noticed(delta: str, mistake: str, tmp_path: Path) -> None:
    true = float(next(row for row in lines() if MISTRAL.items() <= row.items())["printed_delta"])
    text = delta.format(minus=-true, off=f"{true + 0.01:.2f}")
    published = with_change(tmp_path, {"printed_delta": text}, **MISTRAL)
    (new,) = [
        each
        for each in check_deltas(published)
        if each.mistake != "exact" and each.row.line.method == "longest+ppl" and each.row.table == 1
    ]
    assert new.mistake == mistake and str(new.row) == "table 1, Mistral-7B, 12.5x50, longest + PPL"


def test_the_wrong_averages_and_what_explains_them() -> None:
    found = check_averages(PUBLISHED)
    assert [[each.mistake for each in found].count(kind) for kind in ("exact", "rounding", "size")] == [534, 46, 4]
    wrong = {
        str(each.row): (str(each.printed), f"{each.exact:.3f}", each.note) for each in found if each.mistake == "size"
    }
    assert wrong == {
        "table 8, Mistral-7B, 12.5x70, random + SparseVLM": ("38.58", "38.556", ""),
        "table 12, Mistral-7B, 25x70, Q-Tuning": (
            "24.56",
            "24.035",
            "MATH is exchanged with 50x70: both averages are then right",
        ),
        "table 12, Mistral-7B, 50x70, Q-Tuning": (
            "26.57",
            "27.105",
            "MATH is exchanged with 25x70: both averages are then right",
        ),
        f"table 13, Mistral-7B, 25x50, {PUBLISHED.row(13, 'mistral-7b', 0.25, 0.5, 'alpagasus', 'random').method}": (
            "42.78",
            "42.854",
            wrong_note(),
        ),
    }


def wrong_note() -> str:
    method = PUBLISHED.row(13, "mistral-7b", 0.25, 1.0, "alpagasus", "none").method
    return f"SQuAD 22.38 is also that of 25x100, {method}; the average needs 22.01"


@pytest.mark.parametrize("benchmark", ["avg", "squad"])
def test_a_changed_average_or_score_makes_an_average_wrong(benchmark: str, tmp_path: Path) -> None:
    published = with_change(tmp_path, {"score": "31.00"}, benchmark=benchmark, **MISTRAL)
    assert [each.mistake for each in check_averages(published)].count("size") == 5
    # its difference from random pruning is wrong as well
    assert [each.mistake for each in check_deltas(published)].count("size") == 10


def test_copied_rows() -> None:
    groups = copied_rows(PUBLISHED)
    assert len(groups) == 25
    (own,) = [rows for rows in groups if rows[0].q_tuning]
    assert [(row.table, row.budget) for row in own] == [
        (3, "12.5x70"), (5, "25x50"), (8, "25x50"), (13, "25x50"), (14, "25x50"), (15, "25x50"),
    ]  # fmt: skip
    assert all(row.token_pruner == "sparsevlm" for rows in groups if rows is not own for row in rows)
    assert token_pairs(PUBLISHED, "sparsevlm") == {
        "wizardlm": (0, 24),
        "mathinstruct": (12, 12),
        "openhermes": (12, 12),
    }


def test_a_changed_score_ends_a_copy_and_splits_a_repeated_cell(tmp_path: Path) -> None:
    place = {"table": "2", "model": "llama3-8b", "token_pruner": "sparsevlm"}
    assert len(copied_rows(with_change(tmp_path, {"score": "9.99"}, **place))) == 24
    differ = [name for name, cells in repeated_cells(PUBLISHED) if len({score for _, score in cells}) > 1]
    assert (len(repeated_cells(PUBLISHED)), differ) == (
        120,
        ["arc_challenge", "gsm8k", "squad", "triviaqa", "avg"],
    )
    changed = with_change(tmp_path, {"score": "50.00"}, table="14", setting="full", benchmark="squad")
    assert sum(len({score for _, score in cells}) > 1 for _, cells in repeated_cells(changed)) == 6


def test_every_score_is_possible_for_its_number_of_questions(tmp_path: Path) -> None:
    for each in item_counts(PUBLISHED):
        assert each.items == ITEMS[each.benchmark]
        assert each.possible == each.cells > 100
    of_random = item_counts(PUBLISHED, random_only=True)
    assert [each.cells for each in of_random] == [18, 18, 27, 9]
    changed = with_change(tmp_path, {"score": "60.00"}, benchmark="arc_easy", **MISTRAL)  # 340 of 567 are 59.96
    assert sum(each.cells - each.possible for each in item_counts(changed)) == 1


@given(st.integers(1, 400), st.data())
def test_possible_scores_are_those_of_some_count(items: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, items))
    assert possible(round(100 * count / items, 2), items)
    assert possible(10_000 * count // items / 100, items)
    score = data.draw(st.integers(0, 10_000))
    assert possible(score / 100, items) == on_grid(score, items)


def test_a_mean_of_five_runs_is_seldom_the_score_of_one() -> None:
    assert chance_of_means(567, 5) == pytest.approx(1 / 5, abs=0.01)
    assert chance_of_means(5000, 5) == pytest.approx(3 / 5, abs=0.01)
    assert chance_of_means(295, 1) == 1.0


def test_the_selection_times_of_table_6_are_one_share_of_the_total(tmp_path: Path) -> None:
    assert [f"{share.both:.3f}" for share in selection_shares(PUBLISHED)] == ["0.659", "0.659", "0.659"]
    assert str(derived_share(PUBLISHED, "sample_selection")) == "0.552"
    assert str(derived_share(PUBLISHED, "token_selection")) == "0.107"
    rows = lines("efficiency")
    rows[1]["sample_selection_minutes"] = "37.10"
    assert derived_share(read_published(write(tmp_path, efficiency=rows)), "sample_selection") is None
