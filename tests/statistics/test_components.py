"""What scores vary with: by hand, against known truth, and how often noise alone is taken for signal."""

import numpy as np
import pytest
from scipy.stats import f

from qtuning.statistics.components import components
from qtuning.statistics.estimate import Array


def scores(
    rng: np.random.Generator,
    means: Array,
    seeds: int,
    items: int,
    *,
    common: float = 0.0,
    own: float = 0.0,
    line_item: float = 0.0,
    answer: float = 0.0,
) -> Array:
    """[L, S, n]: mean_l + c_s + u_ls + b_i + g_li + e_lsi with these standard deviations, and sd(b) = 30."""
    lines = len(means)
    return np.asarray(
        means[:, None, None]
        + common * rng.standard_normal((1, seeds, 1))
        + own * rng.standard_normal((lines, seeds, 1))
        + 30 * rng.standard_normal((1, 1, items))
        + line_item * rng.standard_normal((lines, 1, items))
        + answer * rng.standard_normal((lines, seeds, items))
    )


def test_without_items_it_is_the_two_way_analysis_of_variance() -> None:
    """Scores that do not differ between items: three lines, two seeds, worked by hand."""
    by_seed = np.array([[10.0, 14.0], [20.0, 20.0], [30.0, 35.0]])  # means 12, 20, 32.5; of seeds 20, 23
    found = components([[np.repeat(by_seed[:, :, None], 5, axis=2)]])
    assert found is not None
    # residuals -0.5, 1.5, -1 at the first seed, their opposites at the second
    rest = 2 * (0.25 + 2.25 + 1) / 2
    between = np.var([12, 20, 32.5], ddof=1)
    assert found.seed == pytest.approx(np.sqrt(rest))
    assert found.of_items == pytest.approx(0, abs=1e-12)
    assert found.signal == pytest.approx(np.sqrt(between - rest / 2))
    # seeds: 3 x ((1.5)^2 + (1.5)^2) / 1 = rest + 3 var(c)
    assert found.common == pytest.approx(np.sqrt((13.5 - rest) / 3))
    assert found.critical == pytest.approx(np.sqrt((f.isf(0.05, 2, 2) - 1) * rest / 2))
    assert found.informative == (between / (rest / 2) > f.isf(0.05, 2, 2))
    assert found.ratio == pytest.approx(found.signal / found.seed)


def test_known_variances_are_found_again() -> None:
    """Two budgets of different sizes, two benchmarks; the average of many draws, against the truth of the average."""
    rng, draws = np.random.default_rng(3), []
    spread = {"common": 5.0, "own": 4.0, "line_item": 12.0, "answer": 20.0}
    for _ in range(300):
        blocks = []
        for lines in (4, 7):
            means = rng.normal(0, 3, lines)
            blocks.append([scores(rng, means, 3, n, **spread) for n in (60, 90)])
        found = components(blocks)
        assert found is not None
        both = [found.spreads[k] for k in (0, 1)]
        draws.append([
            found.signal**2, found.seed**2, found.of_items**2, found.own**2, found.common**2,
            *(value**2 / 2 for one in both for value in (one.item, one.rest)), found.correlation,
        ])  # fmt: skip
    of_items = 20.0**2 * (1 / 60 + 1 / 90) / 4
    own = 4.0**2 / 2  # the seed effects of the two benchmarks are drawn apart
    truth = [9.0, own + of_items, of_items, own, 5.0**2 / 2, 144, 20.0**2, 144, 20.0**2, 900 / (900 + 144 + 20.0**2)]
    assert np.mean(draws, axis=0) == pytest.approx(truth, rel=0.12)


@pytest.mark.parametrize(("lines", "seeds", "items"), [((5,), 2, 60), ((3, 3, 4), 3, 40)])
def test_noise_alone_is_rarely_taken_for_signal(lines: tuple[int, ...], seeds: int, items: int) -> None:
    rng, repeats = np.random.default_rng(0), 500
    found = [
        components([[scores(rng, np.zeros(n), seeds, items, own=2, line_item=10, answer=30)] for n in lines])
        for _ in range(repeats)
    ]
    rate = np.mean([each is not None and each.informative for each in found])
    assert rate < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    apart = components([[scores(rng, np.linspace(0, 6.0 * n, n), seeds, items, own=1, answer=20)] for n in lines])
    assert apart is not None and apart.informative


def test_what_cannot_be_told_apart_from_seeds_is_no_component() -> None:
    rng = np.random.default_rng(0)
    one_line, one_seed = scores(rng, np.zeros(1), 3, 20, answer=1), scores(rng, np.zeros(3), 1, 20, answer=1)
    assert components([[one_line], [one_seed]]) is None
    two = scores(rng, np.zeros(2), 3, 20, answer=1)
    assert components([[one_line], [two]]) == components([[two]])
    equal = components([[np.ones((3, 2, 20))]])
    assert equal is not None and (equal.signal, equal.ratio, equal.informative) == (0, None, False)
