"""The smallest detectable difference: what the tables of an experiment could mark, counted from its grid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_folders import of_store
from scipy import stats

from qtuning.cli.look import plan
from qtuning.experiment.grid import ConfigFolder
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.effect import Effect, effects_of, families_of
from qtuning.statistics.compare import compare
from qtuning.statistics.power import Spread, detectable_difference
from qtuning.store.store import Store, write_store

CONFIGS = Path(__file__).parents[2] / "configs"


def effect(configs: Path, results: Path, name: str) -> Effect:
    (found,) = effects_of(ConfigFolder(configs).expand([name]), results, read_assumptions(configs))
    return found


def test_it_is_what_power_says_of_the_families_that_are_compared(
    configs: Path, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    """Two models, 6 budgets of 17 lines: Q-Tuning has random pruning to beat in each, one line alone the full data."""
    experiment("big", seeds=[0, 1, 2])
    found = effect(configs, tmp_path, "big")
    assert [(d.against, d.comparisons, d.lines) for d in found.detects] == [
        ("random+random", 2 * 6, 17),
        ("full", 1, 18),
    ]
    items = {"arc_easy": 2376, "arc_challenge": 1172, "gsm8k": 1319, "squad": 10_570, "triviaqa": 17_944}
    spreads = dict.fromkeys(items, Spread(seed=np.sqrt(2) * 0.7, item=50, rest=0))  # 100 sqrt(2 * 1/4 * (1 - 1/2))
    for detects in found.detects:
        expected = detectable_difference(spreads, items, 3, detects.lines, comparisons=detects.comparisons)
        assert detects.points == pytest.approx(expected)
    assert (found.note, found.seeds, found.items, found.basis) == (
        "",
        3,
        sum(items.values()),
        "assumed (planning.yaml)",
    )
    assert found.item_sd == pytest.approx(50 * np.sqrt(sum(1 / n for n in items.values())) / 5)


@pytest.mark.parametrize(
    "changes", [{}, {"zero_shot": False}, {"budgets": ["25x50", "25x70"], "methods": ["q-tuning"]}]
)
def test_families_are_those_of_compare(
    changes: dict[str, Any], configs: Path, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    """The rows that the statistics make of the grid's store, nothing being run."""
    experiment("big", **changes)
    (grid,) = ConfigFolder(configs).expand(["big"])
    write_store([grid], tmp_path / "results")
    primary = of_store(compare, Store(tmp_path / "results"), "big").filter(pl.col("family") == "primary")
    families = families_of(grid)
    for against, (comparisons, _) in families.items():
        assert comparisons == (len(primary) if against in primary["against"].to_list() else 1)
    assert set(families) >= set(primary["against"]) or not len(primary)


def test_where_nothing_can_be_marked_it_says_why(
    configs: Path, experiment: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert effect(configs, tmp_path, "table5").detects == ()
    experiment("two", seeds=[0, 1], methods=["random+random", "q-tuning"], budgets=["25x50"])
    # without full data, the model without training is a reference
    found = effect(configs, tmp_path, "two")
    assert [(d.against, d.comparisons) for d in found.detects] == [("random+random", 2), ("zero-shot", 1)]
    experiment("tiny", seeds=[0, 1], evaluation={"benchmarks": ["gsm8k"], "limit": 1})
    assert "fewer than 2 items" in effect(configs, tmp_path, "tiny").note
    one = effect(configs, tmp_path, "table1")
    assert (one.note, one.seeds) == ("one seed: nothing can be marked", 1)
    items_alone = stats.norm.ppf(1 - 0.025 / one.detects[0].comparisons) + stats.norm.ppf(0.8)
    assert one.detects[0].points == pytest.approx(items_alone * one.item_sd, rel=1e-3)
    plan(["table5", "table1"], configs=configs, results=tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "table5: no reference in this experiment: nothing can be marked" in printed
    # 0.775 x (2.24 + 0.84) and x (1.96 + 0.84)
    said = "2.4 points from random + random after Holm's correction for 2 comparisons, 2.2 points from full data"
    assert f"table1: one seed: nothing can be marked; {said} by itself" in printed
    assert "over items alone" in printed
