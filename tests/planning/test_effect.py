"""The smallest detectable difference against results/statistics.py and against simulated experiments."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qtuning.files import write_json
from qtuning.grid import Library
from qtuning.identity import cell_id, evaluation_id
from qtuning.planning.effect import detectable, seed_spread
from qtuning.results.statistics import minimum_detectable_effect

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("differences", [[1.0, 3.0], [0.0, 1.0, 5.0], [1.0, 2.0, 4.0, 1.5, 0.0]])
def test_without_items_it_is_the_paired_t_test(differences: list[float]) -> None:
    spread = float(np.std(differences, ddof=1))
    expected = minimum_detectable_effect(differences)
    assert detectable(spread / np.sqrt(2), 0.0, len(differences)) == pytest.approx(expected, rel=1e-6)


def test_one_seed_is_a_normal_test() -> None:
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(2 * 0.5**2 + 0.3**2)
    assert detectable(0.5, 0.3, 1) == pytest.approx(expected)


@pytest.mark.parametrize(("seed_sd", "item_sd", "seeds"), [(1.0, 0.5, 3), (0.5, 1.0, 5)])
def test_a_simulated_experiment_finds_it_four_times_of_five(seed_sd: float, item_sd: float, seeds: int) -> None:
    """Differences over seeds share one error of the items, whose spread the test knows; that of seeds it estimates."""
    rng, runs, effect = np.random.default_rng(0), 20_000, detectable(seed_sd, item_sd, seeds)
    seen = effect + item_sd * rng.normal(size=(runs, 1)) + np.sqrt(2) * seed_sd * rng.normal(size=(runs, seeds))
    of_seeds = seen.var(axis=1, ddof=1) / seeds
    total = of_seeds + item_sd**2
    freedom = (seeds - 1) * (total / of_seeds) ** 2
    found = seen.mean(axis=1) / np.sqrt(total) > stats.t.ppf(0.975, freedom)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)  # Welch's degrees of freedom are themselves an approximation


@settings(max_examples=30)
@given(st.floats(0.1, 5.0), st.floats(0.0, 5.0), st.integers(2, 8))
def test_more_seeds_see_more_and_more_noise_less(seed_sd: float, item_sd: float, seeds: int) -> None:
    here = detectable(seed_sd, item_sd, seeds)
    assert detectable(seed_sd, item_sd, seeds + 1) < here
    assert detectable(1.1 * seed_sd, item_sd, seeds) > here


def test_the_spread_of_finished_seeds_is_pooled(tmp_path: Path) -> None:
    (grid,) = Library(CONFIGS).experiments(["mini"])
    assert grid.evaluation is not None and seed_spread(grid, tmp_path) is None
    averages = {"full": (50.0, 52.0), "random+random-25x50": (40.0, 44.0), "q-tuning-25x50": (30.0,)}
    for method, values in averages.items():
        cells = [cell for cell in grid.cells if f"mini-mini-{method}-" in cell_id(cell)]
        for cell, value in zip(cells, values, strict=False):
            metrics = {"headline": "acc", "metrics": {"acc": value / 100}}
            path = tmp_path / "cells" / cell_id(cell) / evaluation_id(grid.evaluation) / "scores.json"
            write_json(path, {"benchmarks": dict.fromkeys(grid.evaluation.benchmarks, metrics)})
    # variances 2 and 8, one degree of freedom each
    assert seed_spread(grid, tmp_path) == (pytest.approx(np.sqrt(5.0)), 2)
