"""The experiments that are shipped: the cells that the paper's tables and figures have, and which of them are one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import cell_id, evaluation_id, pair_id

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = (
    "table1", "table2", "fig4a", "fig4b", "fig4", "table4", "table5", "fig5a", "fig5b", "fig5",
    "extreme", "stability", "localisation", "ambiguity",
)  # fmt: skip
WITHOUT_BENCHMARKS = {"stability", "localisation"}


@pytest.fixture(scope="module")
def grid() -> Callable[[str], Grid]:
    library = ConfigFolder(CONFIGS)
    grids, problems = library.expand_valid(library.names("experiments"))
    assert not problems
    found = {grid.experiment.name: grid for grid in grids}
    return found.__getitem__


def ids(grid: Grid) -> set[str]:
    return {cell_id(cell) for cell in grid.cells}


def trained(grid: Grid) -> list[Cell]:
    return [cell for cell in grid.cells if not cell.zero_shot]


def chosen(grid: Grid, method: str, budget: str) -> set[str]:
    return {cell_id(c) for c in trained(grid) if c.pruning and (c.pruning.method, c.pruning.budget) == (method, budget)}


# by hand: (6 budgets x 17 methods + full) x 2 models; (3 x 17 + 1) x 3 models; 5 methods x 3 and x 2 budgets x 2
# models; nothing at 2 sample ratios, 3 quadrants x 3 budgets; 5 lambdas x 3 budgets; 3 batch sizes x 3 budgets
PAPER_COUNTS = {
    "table1": (206, 2),
    "table2": (156, 3),
    "fig4a": (30, 0),
    "fig4b": (20, 0),
    "fig4": (50, 0),
    "table4": (11, 0),
    "table5": (15, 0),
    "fig5b": (15, 0),
    "fig5a": (9, 0),
    "fig5": (15 + 9 - 3, 0),
    "extreme": (8, 1),
    "stability": (3 * 3 * 2, 0),
    "localisation": (1 + 2 + 2 + 4, 0),
    "ambiguity": (18, 1),
}
# one model, two seeds
MINI_COUNTS = {
    "table1-mini": (206, 1),
    "table2-mini": (104, 1),
    "fig4-mini": (50, 0),
    "table4-mini": (22, 0),
    "table5-mini": (30, 0),
    "fig5a-mini": (18, 0),
    "fig5-mini": (42, 0),
    "extreme-mini": (16, 1),
    "stability-mini": (18, 0),
    "localisation-mini": (18, 0),
    "ambiguity-mini": (18, 1),
}


@pytest.mark.parametrize(("name", "expected"), (PAPER_COUNTS | MINI_COUNTS).items())
def test_counts(grid: Callable[[str], Grid], name: str, expected: tuple[int, int]) -> None:
    cells = grid(name).cells
    zero_shot = sum(cell.zero_shot for cell in cells)
    assert (len(cells) - zero_shot, zero_shot) == expected
    assert len({cell_id(cell) for cell in cells}) == len(cells)


def test_table1_has_every_method_at_every_budget_once_a_model(grid: Callable[[str], Grid]) -> None:
    samples, tokens = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
    methods = {f"{sample}+{token}" for sample in samples for token in tokens} | {"q-tuning"}
    budgets = {f"{sample}x{token}" for sample in ("12.5", "25", "50") for token in ("50", "70")}
    expected = Counter({(m, b, model): 1 for m in methods for b in budgets for model in ("llama2-7b", "mistral-7b")})
    expected |= Counter({("full", "100x100", model): 1 for model in ("llama2-7b", "mistral-7b")})
    found = Counter((c.pruning.method, c.pruning.budget, c.model.name) for c in trained(grid("table1")) if c.pruning)
    assert found == expected


def test_every_experiment_of_the_paper_has_all_editions(grid: Callable[[str], Grid]) -> None:
    for name in PAPER:
        for scale in ("", "-mini", "-smollm2"):
            found = grid(name + scale)
            assert found.experiment.name == name + scale
            assert (found.evaluation is None) == (name in WITHOUT_BENCHMARKS)
    assert grid("table1-mini").experiment.title == "Table 1: sample and token pruning, mini world", "not of WizardLM"
    assert grid("fig4-mini").experiment.title == f"{grid('fig4').experiment.title}, mini world"


def test_published_hyper_parameters(grid: Callable[[str], Grid]) -> None:
    rates = {8: 1e-4, 16: 2e-4, 32: 4e-4}
    for name in PAPER:
        for cell in trained(grid(name)):
            assert cell.training is not None
            assert (cell.training.tuning, cell.training.epochs) == ("lora", 3)
            if name != "extreme":
                assert cell.training.learning_rate == rates[cell.training.batch_size]


@pytest.mark.parametrize("scale", ["", "-mini", "-smollm2"])
def test_shared_cells_are_one(grid: Callable[[str], Grid], scale: str) -> None:
    """Lambda 0.5, batch 8 and Q2 are Q-Tuning as table 1 has it; `nothing` is all tokens of figure 4(a)."""
    table1, table4, table5 = (grid(name + scale) for name in ("table1", "table4", "table5"))
    fig5a, fig5, fig4, fig4a, fig4b = (grid(name + scale) for name in ("fig5a", "fig5", "fig4", "fig4a", "fig4b"))
    budgets = ("25x50", "25x70", "50x70")
    q_tuning = {budget: chosen(table1, "q-tuning", budget) & ids(table5) for budget in budgets}
    each = {"": 1, "-mini": 2, "-smollm2": 4}[scale]
    assert [len(cells) for cells in q_tuning.values()] == [each] * 3
    shared = set().union(*q_tuning.values())
    assert ids(table5) & ids(table1) == shared
    assert ids(fig5a) & ids(table1) == shared
    assert ids(table4) & ids(table1) == shared
    assert ids(fig5a) & ids(table5) == shared
    assert ids(table4) & ids(fig4) == chosen(fig4a, "q-tuning", "25x100") & ids(table4) | (
        chosen(fig4a, "q-tuning", "50x100") & ids(table4)
    )
    assert len(ids(table4) & ids(fig4)) == 2 * each
    assert ids(fig4) == ids(fig4a) | ids(fig4b)
    assert not ids(fig4a) & ids(fig4b)
    assert ids(fig5) == ids(fig5a) | ids(table5)
    assert ids(grid(f"fig5b{scale}")) == ids(table5)
    same = {evaluation_id(g.evaluation) for g in (table1, table4, table5, fig5, fig4) if g.evaluation}
    assert len(same) == 1, "or a shared cell would be evaluated twice"


def test_scales_share_nothing_with_the_paper_nor_table1_with_table2(grid: Callable[[str], Grid]) -> None:
    for name in PAPER:
        editions = [ids(grid(name + scale)) for scale in ("", "-mini", "-smollm2")]
        assert sum(map(len, editions)) == len(set().union(*editions))
    trained_both = {cell_id(c) for c in trained(grid("table1-mini"))} & {
        cell_id(c) for c in trained(grid("table2-mini"))
    }
    assert not trained_both


def test_mini_editions_need_nothing_but_the_mini_world(grid: Callable[[str], Grid]) -> None:
    for name in PAPER:
        mini = grid(f"{name}-mini")
        assert mini.evaluation is None or mini.evaluation.source == "mini-world"
        assert {cell.model.name for cell in mini.cells} == {"mini"}
        assert {cell.train_set.source.kind for cell in trained(mini) if cell.train_set} == {"mini-world"}
        assert {cell.training.tuning for cell in trained(mini) if cell.training} == {"full"}
    table2 = grid("table2-mini")
    assert table2.evaluation is not None
    assert table2.evaluation.benchmarks == ("gsm8k", "math")
    assert {cell.train_set.name for cell in trained(table2) if cell.train_set} == {"mini-sums"}
    assert len({pair_id(cell) for cell in trained(grid("stability-mini"))}) == 3


def test_variants_name_what_differs(grid: Callable[[str], Grid]) -> None:
    for name in ("fig5a", "fig5"):
        found = grid(name)
        sizes = Counter(found.variant(cell)["batch_size"] for cell in found.cells)
        assert sizes == {8: 3 if name == "fig5a" else 15, 16: 3, 32: 3}
        assert all(found.variant(c).keys() == {"batch_size", "learning_rate"} for c in found.cells)
    table1 = grid("table1")
    assert all(table1.variant(cell) == {} for cell in table1.cells)


def test_extreme_budgets_are_budgets(grid: Callable[[str], Grid]) -> None:
    """Each keeps another number of the samples of a selection batch; at batch 8 alone all would keep one of eight."""
    for scale in ("", "-mini", "-smollm2"):
        kept = set()
        for cell in trained(grid(f"extreme{scale}")):
            assert cell.training is not None and cell.pruning is not None
            window = cell.training.update_samples
            if cell.pruning.method == "q-tuning":
                assert cell.pruning.selection == "global"
                kept.add(cell.pruning.sample_ratio * window)
        assert kept == {8, 4, 2, 1}
