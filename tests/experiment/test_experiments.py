"""The experiments that are shipped: the cells that the paper's tables and figures have, and which of them are one."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import cell_id, evaluation_id, pair_id
from qtuning.experiment.references import references_of

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = (
    "table1", "table2", "table3", "table4", "table5", "table8", "table9", "table10", "table11", "table12",
    "table13", "table14", "table15",
    "fig3", "fig4", "fig5a", "fig5b", "fig5", "fig6a", "fig6b", "fig6",
    "table6", "fig7", "fig8", "extreme", "stability", "localisation", "ambiguity",
)  # fmt: skip
WITHOUT_BENCHMARKS = {"stability", "localisation", "table6", "fig7", "fig8"}


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


def tuned(grid: Grid) -> set[str]:
    """Cells of Q-Tuning in any form."""
    return {cell_id(c) for c in trained(grid) if c.pruning and c.pruning.sample_pruner == "q-tuning"}


def chosen(grid: Grid, method: str, budget: str) -> set[str]:
    return {cell_id(c) for c in trained(grid) if c.pruning and (c.pruning.method, c.pruning.budget) == (method, budget)}


# (trainings, models without training), by hand from method.md's table of experiments: of b budgets and m models
# (17 b + 1) m; 5 methods x 3 and x 2 budgets x 2 models; 5 lambdas x 3 budgets; 3 batch sizes x 3 budgets
PAPER_COUNTS = {
    "table1": (36, 2),
    "table8": (70, 2),
    "table9": (104, 2),
    "table2": (54, 3),
    "table12": (105, 3),
    "table10": (52, 1),
    "table11": (52, 1),
    "table3": (4, 0),
    "table4": (4 + 3, 0),
    "table15": (3 * 2 * 2, 0),
    "v1-table4": (12, 0),
    "table5": (4, 0),
    "table13": (2 * (1 + 2 + 2 + 4 * 2 * 2), 2),
    "fig3": (42 + 22 - 2 * (1 + 2 + 2), 2),  # full data, random + random and Q-Tuning in both
    "table14": (2 * (1 + 2 * 2 + 2 * 3), 2),  # references not counted
    "fig4": (3 * 3, 3),
    "fig5a": (9, 0),
    "fig5b": (15, 0),
    "fig5": (15 + 9 - 3, 0),
    "fig6a": (30, 0),
    "fig6b": (20, 0),
    "fig6": (50, 0),
    "extreme": (8, 1),
    "table6": (3 + 1, 0),
    "fig7": (1, 0),
    "fig8": (5, 0),
    "stability": (3 * 3 * 2, 0),
    "localisation": (1 + 2 + 2 + 4, 0),
    "v1-table1": (36 + 70 + 104 - 2 - 2, 2),
    "v1-table2": (54 + 105 - 3, 3),
    "v1-fig4": (50, 0),
    "v1-table5": (15, 0),
    "ambiguity": (27, 1),
}
# one model, three seeds; and at each budget oracle and adversary, and random pruning where there is none
MINI_COUNTS = {
    "table1-mini": (3 * (1 + 17 + 2), 1),
    "table8-mini": (3 * (1 + 2 * (17 + 2)), 1),
    "table9-mini": (3 * (1 + 3 * (17 + 2)), 1),
    "table2-mini": (3 * (1 + 17 + 2), 1),
    "table12-mini": (3 * (1 + 2 * (17 + 2)), 1),
    "table10-mini": (3 * (1 + 3 * (17 + 2)), 1),
    "table11-mini": (3 * (1 + 3 * (17 + 2)), 1),
    "table3-mini": (3 * 4 * (1 + 3), 0),
    "table4-mini": (3 * (7 + 2 * 3), 0),
    "table15-mini": (3 * (6 + 2 * 3), 0),
    "table5-mini": (3 * (4 + 3), 0),
    "table13-mini": (3 * (21 + 4 * 2 + 2), 1),  # random pruning is there at two of four budgets
    "table14-mini": (3 * (11 + 2 * 2 + 3), 1),  # the three: random, oracle and adversary of tokens
    "fig3-mini": (3 * (31 + 18 - 1 - 2 * 4), 1),
    "fig4-mini": (3 * (3 + 2 * 3), 1),
    "fig6-mini": (3 * (5 + 2) * (3 + 2), 0),
    "fig5a-mini": (3 * 9 * (1 + 3), 0),
    "fig5-mini": (3 * (9 * (1 + 3) + 3 * 4), 0),
    "extreme-mini": (3 * 4 * (2 + 2), 1),
    "table6-mini": (12, 0),
    "fig7-mini": (3, 0),
    "fig8-mini": (15, 0),
    "stability-mini": (18, 0),
    "localisation-mini": (27, 0),
    "ambiguity-mini": (3 * (27 + 2), 1),
    # made for the mini world: the seeds and controls that they name
    "mini": (2 * (1 + 4 * 2), 1),
    "mini-controls": (5 * (1 + 3 + 4), 1),
    "mini-tokens": (3 * 7, 1),
    "mini-replay": (3 * 7 * 2, 1),
    "mini-epochs": (3 * 3 * 2 * 3, 1),
    "mini-scoring": (3 * 11, 1),
}


@pytest.mark.parametrize(("name", "expected"), (PAPER_COUNTS | MINI_COUNTS).items())
def test_counts(grid: Callable[[str], Grid], name: str, expected: tuple[int, int]) -> None:
    cells = grid(name).cells
    zero_shot = sum(cell.zero_shot for cell in cells)
    assert (len(cells) - zero_shot, zero_shot) == expected
    assert len({cell_id(cell) for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("names", "models", "budgets"),
    [
        (("table1", "table8", "table9"), ("llama2-7b", "mistral-7b"), "12.5x50 12.5x70 25x50 25x70 50x50 50x70"),
        (("table2", "table12"), ("llama3-8b", "mistral-7b", "smollm2-1.7b"), "25x50 25x70 50x70"),
        (("table10", "table11"), ("qwen3-8b",), "12.5x50 12.5x70 25x50 25x70 50x50 50x70"),
    ],
)
def test_the_large_tables_have_every_method_at_every_budget_once_a_model(
    grid: Callable[[str], Grid], names: tuple[str, ...], models: tuple[str, ...], budgets: str
) -> None:
    samples, tokens = ("random", "longest", "infobatch", "entropy"), ("random", "ppl", "fastv", "sparsevlm")
    methods = {f"{sample}+{token}" for sample in samples for token in tokens} | {"q-tuning"}
    expected = {(m, b, model): 1 for m in methods for b in budgets.split() for model in models}
    expected |= {("full", "100x100", model): len(names) for model in models}
    cells = [cell for name in names for cell in trained(grid(name))]
    found = Counter((c.pruning.method, c.pruning.budget, c.model.name) for c in cells if c.pruning)
    assert found == expected
    assert len({cell_id(cell) for cell in cells}) == len(cells) - (len(names) - 1) * len(models), (
        "full data is one cell"
    )


def test_one_reference_a_model_serves_tables_5_and_14(grid: Callable[[str], Grid]) -> None:
    references = [
        {cell_id(reference) for cell in trained(grid(name)) for reference in references_of(cell)}
        for name in ("table14", "table5")
    ]
    assert [len(found) for found in references] == [2, 1]
    assert references[1] < references[0]
    budgets = Counter(c.pruning.budget for c in trained(grid("table14")) if c.pruning)
    assert budgets == {"100x100": 2, "12.5x50": 2 * 4, "25x50": 2 * 4, "100x50": 2 * 2}


def test_earlier_names_are_the_same_experiments_and_say_so(grid: Callable[[str], Grid]) -> None:
    for earlier, now in (
        ("v1-fig4", "fig6"),
        ("fig4a", "fig6a"),
        ("fig4b", "fig6b"),
        ("v1-table5", "fig5b"),
        ("v1-table4", "table15"),
    ):
        for scale in ("", "-mini", "-smollm2"):
            old, new = grid(earlier + scale), grid(now + scale)
            assert [cell_id(cell) for cell in old.cells] == [cell_id(cell) for cell in new.cells]
            assert (old.evaluation, old.parts) == (new.evaluation, new.parts)
            assert old.experiment.name == earlier + scale
            assert old.experiment.title == f"{new.experiment.title} ({earlier} is called {now} now)"


def test_every_experiment_of_the_paper_has_all_editions(grid: Callable[[str], Grid]) -> None:
    for name in PAPER:
        for scale in ("", "-mini", "-smollm2"):
            found = grid(name + scale)
            assert found.experiment.name == name + scale
            assert (found.evaluation is None) == (name in WITHOUT_BENCHMARKS)
    assert grid("table1-mini").experiment.title == "Table 1: sample and token pruning at 12.5x50, mini world", (
        "not of WizardLM"
    )
    assert grid("fig6-mini").experiment.title == f"{grid('fig6').experiment.title}, mini world"


def test_published_hyper_parameters(grid: Callable[[str], Grid]) -> None:
    """v2, table 7 and figure 5(a), and LLaMA-Factory's defaults: accumulation 4 on 8 GPUs, whatever the batch."""
    rates = {8: 1e-4, 16: 2e-4, 32: 4e-4}
    for name in set(PAPER) - {"ambiguity", "localisation"}:
        evaluation = grid(name).evaluation
        assert evaluation is None or evaluation.protocol == "paper"
        for cell in trained(grid(name)):
            assert cell.training is not None
            assert (cell.training.tuning, cell.training.epochs, cell.training.cutoff) == ("lora", 3, 2048)
            assert (cell.training.lora.r, cell.training.lora.alpha, cell.training.lora.dropout) == (8, 16, 0)
            assert (cell.training.schedule, cell.training.warmup) == ("cosine", 0)
            assert (cell.dtype, cell.training.mixed_precision) == ("bfloat16", "bf16")
            assert cell.training.learning_rate == rates[cell.training.batch_size]
            assert cell.training.accumulation(8) == 4
            assert cell.model.lora_targets == "all-linear"


@pytest.mark.parametrize("name", PAPER)
def test_on_gpus_arithmetic_is_bfloat16_and_on_cpus_float32(grid: Callable[[str], Grid], name: str) -> None:
    """float32 has no flash attention on a GPU, and its products take many times as long."""
    for scale, mixed, dtype in (("", "bf16", "bfloat16"), ("-smollm2", "bf16", "bfloat16"), ("-mini", "no", "float32")):
        found = grid(name + scale)
        assert {cell.training.mixed_precision for cell in trained(found)} == {mixed}
        assert found.evaluation is None or found.evaluation.dtype == dtype


@pytest.mark.parametrize("scale", ["", "-mini", "-smollm2"])
def test_shared_cells_are_one(grid: Callable[[str], Grid], scale: str) -> None:
    """Lambda 0.5 and batch 8 are Q-Tuning as tables 8 and 9 have it; table 3 has that of tables 1 and 8."""
    table1, fig5a, fig5b, fig5, fig6, fig6a, fig6b, table3 = (
        grid(name + scale) for name in ("v1-table1", "fig5a", "fig5b", "fig5", "fig6", "fig6a", "fig6b", "table3")
    )
    budgets = ("25x50", "25x70", "50x70")
    q_tuning = {budget: chosen(table1, "q-tuning", budget) & ids(fig5b) for budget in budgets}
    each = {"": 1, "-mini": 3, "-smollm2": 4}[scale]
    assert [len(cells) for cells in q_tuning.values()] == [each] * 3
    shared = set().union(*q_tuning.values())
    assert tuned(fig5b) & tuned(table1) == shared
    assert tuned(fig5a) & tuned(table1) == shared
    assert tuned(fig5a) & tuned(fig5b) == shared
    assert ids(fig6) == ids(fig6a) | ids(fig6b)
    assert not ids(fig6a) & ids(fig6b)
    assert ids(fig5) == ids(fig5a) | ids(fig5b)
    assert len(tuned(table3) & tuned(table1)) == 2 * each
    same = {evaluation_id(g.evaluation) for g in (table1, fig5, fig6, table3) if g.evaluation}
    assert len(same) == 1, "or a shared cell would be evaluated twice"


def test_scales_share_nothing_with_the_paper_nor_table1_with_table2(grid: Callable[[str], Grid]) -> None:
    for name in PAPER:
        editions = [ids(grid(name + scale)) for scale in ("", "-mini", "-smollm2")]
        assert sum(map(len, editions)) == len(set().union(*editions))
    trained_both = {cell_id(c) for c in trained(grid("v1-table1-mini"))} & {
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
    assert table2.evaluation.benchmarks == ("gsm8k", "math", "retention")
    assert {cell.train_set.name for cell in trained(table2) if cell.train_set} == {"mini-sums"}
    draws = 3  # of the noise, one for each seed
    assert len({pair_id(cell) for cell in trained(grid("stability-mini"))}) == 3 * draws


def test_variants_name_what_differs(grid: Callable[[str], Grid]) -> None:
    for name in ("fig5a", "fig5"):
        found = grid(name)
        sizes = Counter(found.variant(cell)["batch_size"] for cell in found.cells)
        assert sizes == {8: 3 if name == "fig5a" else 15, 16: 3, 32: 3}
        assert all(found.variant(c).keys() == {"batch_size", "update_samples", "learning_rate"} for c in found.cells)
    table1 = grid("table1")
    assert all(table1.variant(cell) == {} for cell in table1.cells)


def test_extreme_budgets_are_budgets(grid: Callable[[str], Grid]) -> None:
    """Each keeps another number of the samples of a selection batch; at batch 8 alone all would keep one of eight."""
    for scale, window in (("", 256), ("-mini", 128), ("-smollm2", 128)):
        kept = set()
        for cell in trained(grid(f"extreme{scale}")):
            assert cell.training is not None and cell.pruning is not None
            assert cell.training.update_samples == window
            if cell.pruning.method == "q-tuning":
                assert cell.pruning.selection == "global"
                kept.add(cell.pruning.sample_ratio * window)
        assert kept == {window / 16, window / 32, window / 64, window / 128}


def test_what_is_observed_and_measured_are_cells_of_tables(grid: Callable[[str], Grid]) -> None:
    assert ids(grid("fig8")) <= ids(grid("table1"))
    assert ids(grid("fig7")) <= ids(grid("table2"))
    assert ids(grid("table6")) <= ids(grid("table1")) | ids(grid("table8")) | ids(grid("table9"))
    asked = {name: grid(name).experiment for name in PAPER}
    assert {name for name, experiment in asked.items() if experiment.observe} == {"fig7", "fig8"}
    assert {name for name, experiment in asked.items() if experiment.measure} == {"table6"}


def test_the_document_counts_every_experiment(grid: Callable[[str], Grid]) -> None:
    """docs/experiments.md has a row for each, with its trainings + models without training, also at the mini scale."""
    rows = re.findall(
        r"^\| `([\w-]+)` \|.*\| ([\d +]+) \| ([\d +]+) \|$",
        (CONFIGS.parent / "docs/experiments.md").read_text(),
        flags=re.MULTILINE,
    )
    for name, *counts in rows:
        for scale, said in zip(("", "-mini"), counts, strict=True):
            cells = grid(name + scale).cells
            zero_shot = sum(cell.zero_shot for cell in cells)
            assert said.split(" + ") == [str(count) for count in (len(cells) - zero_shot, zero_shot) if count], name
    assert {name for name, *_ in rows} == set(PAPER)
