"""What an experiment can tell apart: decision accuracy by hand, rows of a store, the verdict of its page."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import Folders, config_folder, of_store
from test_compare import N, answer, collected, evaluation

from qtuning.cli.draw import instrument as command
from qtuning.statistics.answers import answer_sets
from qtuning.statistics.compare import compare
from qtuning.statistics.components import components
from qtuning.statistics.instrument import (
    CONTROL_SCHEMA,
    INSTRUMENT_SCHEMA,
    answers_by_metric,
    budgets_of,
    control_distances,
    decision_accuracy,
    instrument,
)
from qtuning.statistics.power import detectable_difference
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store
from qtuning.tables.instrument import instrument_files, verdict
from qtuning.tables.markdown import render_markdown

METHODS = ["full", "random+random", "q-tuning", "ppl-high+random", "random+ppl"]
ABILITY = {"q-tuning": 0.9, "ppl-high+random": 0.65, "random+ppl": 0.4, "random+random": 0.15, "full": 0.95}
FLIPS = 3
NO_CONTROLS = pl.DataFrame(schema=CONTROL_SCHEMA)


def measured(store: Store) -> tuple[Any, Summary]:
    scores = store.experiment("mini")
    return instrument(answers_by_metric(scores, store.items)), summarise(scores)


def finished(make_folders: Callable[..., Folders], ability: dict[str, float], **changes: Any) -> Store:
    """Lines at two budgets, each of which knows its own share of the items, but for some that the seed decides."""
    given = {"budgets": ["25x50", "50x50"], "seeds": [0, 1, 2], "evaluation": evaluation(), "methods": METHODS}
    folders = make_folders(**given | changes)
    for cell in folders.grid.cells:
        method = "" if cell.pruning is None else cell.pruning.method
        answer(folders, cell, ability.get(method, 0.1), flip=FLIPS)
    return collected(folders)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of methods that differ, for all to read."""
    folder = tmp_path_factory.mktemp("instrument")

    def make(**changes: Any) -> Folders:
        (grid,) = config_folder(folder / "configs", **changes).expand(["mini"])
        return Folders(folder / "results", grid)

    return finished(make, ABILITY)


def test_decision_accuracy_counts_pairs_by_hand() -> None:
    # seeds 0, 1, 2 of three methods; the last pair is a tie of the others at seed 2
    predicted = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 0.0], [2.0, 1.0, 1.0]])
    right, count = 0.0, 0
    for a, b in combinations(range(3), 2):
        for seed in range(3):
            others = [s for s in range(3) if s != seed]
            mine = predicted[a, seed] - predicted[b, seed]
            theirs = sum(predicted[a, s] - predicted[b, s] for s in others)
            right += 0.5 if mine * theirs == 0 else float(mine * theirs > 0)
            count += 1
    assert decision_accuracy([predicted], [predicted]) == pytest.approx(right / count)
    steady = np.array([[1.0, 1.1], [2.0, 2.1], [3.0, 3.2]])
    assert decision_accuracy([steady], [steady]) == 1
    assert decision_accuracy([-steady], [steady]) == 0
    assert decision_accuracy([np.ones((4, 3))], [np.ones((4, 3))]) == 0.5
    assert decision_accuracy([np.ones((3, 1))], [np.ones((3, 1))]) is None


def test_rows_are_what_the_store_says(store: Store) -> None:
    frame, summary = measured(store)
    assert dict(frame.schema) == INSTRUMENT_SCHEMA
    assert frame["benchmark"].to_list() == ["gsm8k", "squad", "avg"]
    average = frame.row(-1, named=True)
    # two budgets of four methods; full data is not a method at a budget
    assert (average["budgets"], average["methods"], average["pairs"]) == (2, 8, 12)
    assert (average["n_seeds"], average["n_items"]) == (3, sum(N.values()))
    assert average["informative"] and average["decision"] == 1 and average["decision_headline"] is None
    flipped = np.mean([1 - 2 * FLIPS / n for n in N.values()])  # how far random flips pull all shares together
    assert average["signal"] == pytest.approx(100 * flipped * np.std([0.9, 0.65, 0.4, 0.15], ddof=1), rel=0.1)
    assert average["ratio"] == pytest.approx(average["signal"] / average["seed_sd"])
    assert average["of_items"] <= average["seed_sd"]
    known = [average[name] for name in ("detects", "detects_5_seeds", "detects_10_seeds", "detects_4x_items")]
    assert known[0] == average["detects_3_seeds"] > known[1] > known[2] and known[0] > known[3]
    (headline,) = answer_sets(summary, store.items)
    both = instrument([{"choice": headline, "headline": headline}])
    assert both["decision_headline"].to_list() == [*frame["decision"], None, None, None]


def test_lower_is_better_for_likelihoods(make_folders: Callable[..., Folders]) -> None:
    """The same scores, read as a metric whose direction is the other: they predict the opposite order."""
    store = finished(make_folders, ABILITY)
    summary = summarise(store.experiment("mini"))
    (known,) = answer_sets(summary, store.items)
    frame = instrument([{"headline": known, "nll": known}])
    (row,) = frame.filter(metric="nll", benchmark="avg").to_dicts()
    assert (row["decision"], row["decision_headline"], row["unit"]) == (1, 0, "nats per token")


def test_equal_methods_cannot_be_told_apart(make_folders: Callable[..., Folders]) -> None:
    frame, summary = measured(finished(make_folders, dict.fromkeys(ABILITY, 0.5), budgets=["25x50"]))
    assert not any(frame["informative"])
    told = verdict(frame, summary)
    assert told[0].startswith("This experiment CANNOT tell methods apart. On Avg they differ by")
    assert told[1] == "No information about these methods: GSM8K, SQuAD."
    page = instrument_files(frame, NO_CONTROLS, summary).page
    assert page.lead[0] == told[0] and [str(row[-1])[:2] for row in page.tables[0].rows] == ["no"] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seeds": [0]}, "one seed: how scores move from seed to seed is unknown"),
        ({"methods": ["q-tuning"]}, "no budget has two methods"),
    ],
)
def test_where_nothing_can_be_said_it_says_why(
    changes: dict[str, Any], reason: str, make_folders: Callable[..., Folders]
) -> None:
    frame, summary = measured(finished(make_folders, ABILITY, budgets=["25x50"], **changes))
    assert frame["note"].to_list() == [reason] * 3 and frame["ratio"].null_count() == 3
    told = verdict(frame, summary)
    assert told == [f"It cannot be said whether methods can be told apart: {reason}."]
    page = instrument_files(frame, NO_CONTROLS, summary).page
    assert not page.tables, "a table of dashes says no more than the verdict"
    assert reason in render_markdown(page)


def test_a_method_with_a_hole_is_left_out(make_folders: Callable[..., Folders]) -> None:
    folders = make_folders(budgets=["25x50"], seeds=[0, 1], evaluation=evaluation(), methods=METHODS)
    for cell in folders.grid.cells:
        if "q-tuning" not in folders.folder(cell).name:
            answer(folders, cell, 0.5, flip=3)
    frame, _ = measured(collected(folders))
    assert frame["methods"].to_list() == [3, 3, 3] and frame["ratio"].null_count() == 0


def test_controls_are_told_by_their_distance(make_folders: Callable[..., Folders]) -> None:
    methods = ["random+random", "q-tuning", "oracle", "adversary"]
    ability = {"oracle": 0.8, "adversary": 0.2, "random+random": 0.5, "q-tuning": 0.55}
    store = finished(make_folders, ability, methods=methods, budgets=["25x50"])
    answers = answers_by_metric(store.experiment("mini"), store.items)
    frame, controls = instrument(answers), control_distances(answers)
    assert dict(controls.schema) == CONTROL_SCHEMA and frame["methods"].to_list() == [2, 2, 2], "controls are apart"
    compared = of_store(compare, store, "mini").filter(against="random+random", benchmark="avg")
    for row in controls.filter(benchmark="avg").iter_rows(named=True):
        (known,) = compared.filter(method=row["control"]).to_dicts()
        error = np.sqrt(known["seed_sd"] ** 2 / 3 + known["item_se"] ** 2)
        assert row["distance"] == pytest.approx(known["difference"] / error)
        assert (row["control"], row["distance"] > 0) in {("oracle", True), ("adversary", False)}
    page = instrument_files(frame, controls, summarise(store.experiment("mini"))).page
    assert [column.group for column in page.tables[1].columns] == ["", "oracle", "adversary"]
    assert "oracle at 25% x 50%: " in page.lead[2] and "below random pruning" in page.lead[2]


def test_the_command_prints_and_writes(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(["mini"], store=store.folder, out=tmp_path)
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("This experiment can tell methods apart.")
    assert printed.splitlines()[-1] == str(tmp_path / "mini.instrument.csv")
    table = (tmp_path / "mini.instrument.md").read_text()
    assert "| Avg" in table and "| Ratio found" in table


def test_it_detects_what_power_says(store: Store) -> None:
    (row,) = measured(store)[0].filter(benchmark="squad").to_dicts()
    (known,) = answer_sets(summarise(store.experiment("mini")), store.items)
    found = components([known.arrays(block, "squad") for block in budgets_of(known, "squad")])
    assert found is not None
    items = {"squad": 2 * N["squad"]}
    expected = detectable_difference({"squad": found.spreads[0]}, items, 3, 8)  # lines of both budgets lend
    assert row["detects_2x_items"] == pytest.approx(expected)
