"""Train sets of several draws, and train sets that say what their samples are, from YAML to cells."""

from typing import Any

import pytest
from config_files import Configs

from qtuning.experiment.cell import Cell, FileSource
from qtuning.experiment.ids import cell_id, pair_id
from qtuning.experiment.registry import is_control

SOURCE = {"kind": "mini-world", "file": "sft/train_{draw}.jsonl.gz", "draws": 5}
RATINGS = {"kind": "mini-world", "file": "sft/ratings_{draw}.jsonl.gz", "draws": 5}


@pytest.fixture
def configs(tmp_path: Any) -> Configs:
    return Configs(tmp_path)


def experiment(configs: Configs, **keys: Any) -> None:
    plain = {"title": "E", "models": ["m"], "train_sets": ["d"], "methods": ["random+random"], "budgets": ["25x50"]}
    configs.write("experiments/e", plain | {"seeds": [0], "zero_shot": False} | keys)


def files(cells: tuple[Cell, ...]) -> list[str]:
    found = []
    for cell in cells:
        assert cell.train_set is not None and isinstance(cell.train_set.source, FileSource)
        found.append(cell.train_set.source.file)
    return found


def test_each_data_seed_reads_its_draw(configs: Configs) -> None:
    configs.write("train_sets/d", {"source": SOURCE, "ratings": RATINGS})
    seeds = [0, 1, 5, {"data": 7, "pruner": 0, "init": 1}]
    experiment(configs, seeds=seeds, methods=["alpagasus+random"])
    cells = configs.expand("e").cells
    assert files(cells) == [f"sft/train_{draw}.jsonl.gz" for draw in (0, 1, 0, 2)]
    rated = [cell.train_set.ratings for cell in cells if cell.train_set is not None]
    assert rated == [FileSource(kind="mini-world", file=f"sft/ratings_{draw}.jsonl.gz") for draw in (0, 1, 0, 2)]
    assert len({pair_id(cell) for cell in cells}) == 3, "seeds 0 and 5 share their draw, and its tokenised samples"
    assert len({cell_id(cell) for cell in cells}) == 4
    named = {"source": {"kind": "mini-world", "file": "sft/train_1.jsonl.gz"}, "ratings": RATINGS | {"draws": 5}}
    named["ratings"] = {"kind": "mini-world", "file": "sft/ratings_1.jsonl.gz"}
    configs.write("train_sets/d", named)
    experiment(configs, seeds=[1], methods=["alpagasus+random"])
    assert cell_id(configs.expand("e").cells[0]) == cell_id(cells[1]), "a draw is the file, however it was named"


@pytest.mark.parametrize(
    ("train_set", "message"),
    [
        ({"source": SOURCE | {"draws": None}}, "draws, the number of files is missing"),
        ({"source": SOURCE | {"file": "sft/train.jsonl.gz"}}, "{draw} in file is missing"),
        ({"source": SOURCE, "ratings": {"kind": "path", "file": "r.csv"}}, "must be those of source (5)"),
        ({"source": SOURCE, "ratings": RATINGS | {"draws": 4}}, "must be those of source (5)"),
        ({"source": SOURCE, "local": "t_{draw}.jsonl"}, "only a source can have draws"),
    ],
)
def test_draws_that_do_not_fit(configs: Configs, train_set: dict[str, Any], message: str) -> None:
    configs.write("train_sets/d", train_set)
    experiment(configs)
    (complaint,) = configs.complaints()
    assert complaint.startswith(f"{configs.folder}/train_sets/d.yaml: ") and message in complaint


@pytest.mark.parametrize(
    ("method", "columns", "lacks"),
    [
        ("oracle", {}, "kind"),
        ("oracle+oracle-tokens", {"kind": "kind"}, "errors"),
        ("oracle-tokens", {}, "errors"),
        ("oracle", {"kind": "kind"}, None),
        ("oracle-tokens", {"errors": "wrong"}, None),
    ],
)
def test_controls_need_a_train_set_that_tells_them(
    configs: Configs, method: str, columns: dict[str, str], lacks: str | None
) -> None:
    configs.write("train_sets/d", {"source": {"kind": "path", "file": "d.jsonl"}, "columns": columns})
    experiment(configs, methods=[method])
    if lacks is None:
        (cell,) = configs.expand("e").cells
        assert cell.pruning is not None and cell.pruning.method == method
        assert is_control(cell.pruning.sample_pruner, cell.pruning.token_pruner)
        return
    (complaint,) = configs.complaints()
    assert f"methods: {method}: needs to know" in complaint and f"`columns: {{{lacks}: {lacks}}}`" in complaint


def test_at_the_whole_budget_a_control_needs_nothing(configs: Configs) -> None:
    configs.write("train_sets/d", {"source": {"kind": "path", "file": "d.jsonl"}})
    experiment(configs, methods=["full", "oracle"], budgets=["100x100"])
    (cell,) = configs.expand("e").cells
    assert cell.pruning is not None and cell.pruning.method == "full", "it keeps everything, as `full` does"
