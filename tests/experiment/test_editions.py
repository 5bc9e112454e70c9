"""Editions: what is laid over what, which names there are, and messages that name the file at fault."""

from typing import Any

import pytest
import yaml
from config_files import Configs
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id
from qtuning.experiment.scales import merge

EXPERIMENT: dict[str, Any] = {
    "title": "E",
    "models": ["m"],
    "train_sets": ["t"],
    "methods": ["full", "q-tuning"],
    "budgets": ["25x50"],
    "seeds": [0],
    "training": {"epochs": 3, "lora": {"r": 4}},
    "evaluation": {"benchmarks": ["gsm8k", "math"], "batch_size": 4},
    "scales": {"small": {}},
}
SMALL: dict[str, Any] = {
    "label": "small world",
    "models": ["n"],
    "seeds": [1, 2],
    "training": {"epochs": 1, "lora": {"alpha": 3}},
    "evaluation": {"limit": 7},
}


@pytest.fixture
def configs(configs: Configs) -> Configs:
    configs.write("scales/small", SMALL)
    configs.write("experiments/e", EXPERIMENT)
    return configs


def test_a_scale_changes_what_it_names_and_nothing_else(configs: Configs) -> None:
    small, whole = configs.expand("e-small").experiment, configs.expand("e").experiment
    assert (small.name, small.title) == ("e-small", "E, small world")
    assert (small.models, small.train_sets, [seeds.data for seeds in small.seeds]) == (("n",), ("t",), [1, 2])
    assert (small.training.epochs, small.training.lora.r, small.training.lora.alpha) == (1, 4, 3)
    assert small.evaluation is not None
    assert (small.evaluation.benchmarks, small.evaluation.batch_size, small.evaluation.limit) == (
        ("gsm8k", "math"),
        4,
        7,
    )
    assert small.methods == whole.methods
    assert (whole.name, whole.models, whole.training.epochs) == ("e", ("m",), 3), "the experiment itself stays"


def test_an_edition_may_have_a_title_of_its_own(configs: Configs) -> None:
    configs.write("experiments/e", EXPERIMENT | {"scales": {"small": {"title": "E on less"}}})
    assert configs.expand("e-small").experiment.title == "E on less, small world"
    assert configs.expand("e").experiment.title == "E"
    configs.write("scales/small", SMALL | {"title": "of everything"})
    assert configs.complaints("e-small")[0].startswith(f"{configs.folder}/scales/small.yaml: title: unknown key")


def test_the_experiment_may_say_more_for_a_scale(configs: Configs) -> None:
    own = {"train_sets": ["u"], "training": {"epochs": 2}, "budgets": ["50x70"], "limit_train": 9}
    configs.write("experiments/e", EXPERIMENT | {"scales": {"small": own}})
    small = configs.expand("e-small")
    assert (small.experiment.train_sets, small.experiment.training.epochs) == (("u",), 2)
    assert {cell.limit_train for cell in small.cells if cell.training} == {9}
    assert {c.pruning.budget for c in small.cells if c.pruning} == {"100x100", "50x70"}


def test_a_scale_may_add_controls(configs: Configs) -> None:
    """Of samples where samples go, of tokens where only tokens go; what the experiment has is not added again."""
    configs.write("scales/small", SMALL | {"controls": True})
    columns = {"kind": "kind", "errors": "wrong"}
    configs.write("train_sets/t", {"source": {"kind": "path", "file": "t.jsonl"}, "columns": columns})
    budgets = {"budgets": ["25x50", "50x100", "100x50"]}
    configs.write("experiments/e", EXPERIMENT | budgets)
    prunings = [cell.pruning for cell in configs.expand("e-small").cells if cell.pruning]
    found = {(pruning.sample_pruner, pruning.token_pruner, pruning.budget) for pruning in prunings}
    assert found == {
        ("full", "none", "100x100"),
        *(("q-tuning", "q-tuning", budget) for budget in ("25x50", "50x100", "100x50")),
        *((name, "random", budget) for name in ("random", "oracle", "adversary") for budget in ("25x50", "50x100")),
        *(("random", name, "100x50") for name in ("random", "oracle-tokens", "adversary-tokens")),
    }
    given = {"methods": ["random+none", "oracle", "q-tuning"], "budgets": ["50x100"]}
    configs.write("experiments/e", EXPERIMENT | given)
    added = configs.expand("e-small").experiment.methods
    assert [entry.method for entry in added] == ["random+none", "oracle", "q-tuning", "adversary"]
    assert configs.expand("e").experiment.methods == added[:3], "the experiment itself has none"


def test_a_scale_gives_no_evaluation_to_an_experiment_without(configs: Configs) -> None:
    configs.write("experiments/e", {key: value for key, value in EXPERIMENT.items() if key != "evaluation"})
    for name in ("e", "e-small"):
        grid = configs.expand(name)
        assert grid.evaluation is None
        assert not any(cell.zero_shot for cell in grid.cells), "nothing to do with an untrained model"


def test_names(configs: Configs) -> None:
    configs.write("scales/tiny", {"label": "tiny"})
    configs.write("experiments/d", EXPERIMENT | {"scales": {"small": None, "tiny": {}}})
    configs.write("experiments/both", {"title": "B", "parts": ["d", "e"]})
    configs.write("experiments/broken", "title: [")
    configs.write("experiments/plain", {key: value for key, value in EXPERIMENT.items() if key != "scales"})
    names = ["both", "both-small", "broken", "d", "d-small", "d-tiny", "e", "e-small", "plain"]
    assert ConfigFolder(configs.folder).names("experiments") == names
    grids, problems = ConfigFolder(configs.folder).expand_valid(names)
    assert [grid.experiment.name for grid in grids] == [name for name in names if name != "broken"]
    assert problems.keys() == {"broken"} and "not valid YAML" in problems["broken"]


def test_composites_are_unions(configs: Configs) -> None:
    configs.write(
        "experiments/d", EXPERIMENT | {"budgets": ["50x50", "25x50"], "methods": ["q-tuning", "random+random"]}
    )
    configs.write("experiments/both", {"title": "B", "parts": ["e", "d"]})
    configs.write("experiments/alias", {"title": "A", "parts": ["both"]})
    for scale in ("", "-small"):
        both, e, d = (configs.expand(name + scale) for name in ("both", "e", "d"))
        ids = [cell_id(cell) for cell in both.cells]
        assert len(set(ids)) == len(ids)
        assert set(ids) == {cell_id(cell) for cell in (*e.cells, *d.cells)}
        assert ids[: len(e.cells)] == [cell_id(cell) for cell in e.cells], "in the order of the parts"
        assert [cell_id(cell) for cell in configs.expand(f"alias{scale}").cells] == ids
        assert both.evaluation == e.evaluation
        assert both.parts == (f"e{scale}", f"d{scale}")
        assert [f"{entry.method}" for entry in both.experiment.methods] == ["full", "q-tuning", "random+random"]
    assert configs.expand("both-small").experiment.title == "B, small world"


def test_trainings_are_an_axis(configs: Configs) -> None:
    trainings = [{"batch_size": 8}, {"batch_size": 16, "learning_rate": 2e-4, "lora": {"alpha": 9}}]
    configs.write("experiments/e", EXPERIMENT | {"trainings": trainings, "zero_shot": False})
    grid = configs.expand("e")
    found = {
        (t.epochs, t.batch_size, t.learning_rate, t.lora.r, t.lora.alpha)
        for t in (cell.training for cell in grid.cells)
        if t is not None
    }
    assert found == {(3, 8, 1e-4, 4, 16), (3, 16, 2e-4, 4, 9)}
    assert len(grid.cells) == 2 * 2
    configs.write("experiments/f", EXPERIMENT)
    shared = {cell_id(c) for c in configs.expand("f").cells} & {cell_id(c) for c in grid.cells}
    assert len(shared) == 2, "what is said at its default is the same cell"


MAPPINGS = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda value: isinstance(value, dict))


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict) and value:
        return {key: leaf for name in value for key, leaf in leaves(value[name], (*path, name)).items()}
    return {path: value}


@settings(deadline=None)
@given(MAPPINGS, MAPPINGS)
def test_merging(below: Any, above: Any) -> None:
    """Every leaf of what is above is in the result; of what is below, every leaf that nothing above stands for."""
    before = yaml.safe_dump([below, above])
    found = leaves(merge(below, above))
    assert yaml.safe_dump([below, above]) == before, "nothing is changed in place"
    upper = {path: leaf for path, leaf in leaves(above).items() if path and leaf != {}}
    assert upper.items() <= found.items()
    for path, leaf in leaves(below).items():
        covered = any(path[: len(other)] == other or other[: len(path)] == path for other in leaves(above))
        if path and not covered:
            assert found[path] == leaf


@pytest.mark.parametrize(
    ("value", "asked", "message"),
    [
        (SMALL | {"models": ["mm"]}, "e-small", "models = 'mm': unknown; did you mean m?"),
        (SMALL | {"sedes": [1]}, "e-small", "sedes: unknown key; did you mean seeds?"),
        (SMALL | {"training": {"epochs": 0}}, "e-small", "training.epochs = 0: input"),
        (SMALL | {"seeds": []}, "e-small", "seeds = []: list should have at least 1"),
        (SMALL | {"name": "x"}, "e-small", "name = 'x': must equal the file's name"),
        (
            SMALL | {"evaluation": {"benchmarks": ["gsm8"]}},
            "e-small",
            "evaluation.benchmarks = 'gsm8': unknown; did you mean gsm8k?",
        ),
        ("label: [", "e-small", "line 1: not valid YAML"),
        (
            {"scales": {"small": {"train_sets": ["tt"]}}},
            "e-small",
            "scales.small.train_sets = 'tt': unknown; did you mean t?",
        ),
        (
            {"scales": {"small": {"methods": ["ful"]}}},
            "e-small",
            "scales.small.methods: 'ful': unknown method; did you mean full?",
        ),
        (
            {"scales": {"small": {"training": {"epchs": 1}}}},
            "e",
            "scales.small.training.epchs: unknown key; did you mean epochs?",
        ),
        ({"scales": {"smal": {}}}, "e", "scales.smal: unknown scale; did you mean small?"),
        ({"scales": {}}, "e-small", "scales: no edition at scale 'small' (there is: none)"),
        ({"trainings": [{"epochs": 0}]}, "e", "trainings.0.epochs = 0:"),
        ({"trainings": []}, "e", "trainings = []: list should"),
        ({"parts": ["e", "g"]}, "f", "parts: experiment = 'g': unknown"),
        ({"parts": ["f"]}, "f", "parts = 'f': is a part of itself"),
        ({"parts": []}, "f", "parts = []: list should have at least 1"),
        ({"parts": ["e"], "models": ["m"]}, "f", "models: unknown key (valid: name, title, parts, primary)"),
    ],
)
def test_messages_name_the_file_at_fault(configs: Configs, value: Any, asked: str, message: str) -> None:
    """Written are the scale (`label`), the experiment e (a part of it), or the composite f."""
    if "label" in value:
        path = configs.write("scales/small", value)
    elif "parts" in value:
        path = configs.write("experiments/f", {"title": "F"} | value)
    else:
        path = configs.write("experiments/e", EXPERIMENT | value)
    (line,) = configs.complaints(asked)
    assert line.startswith(f"{path}: {message}"), line


def test_an_experiment_may_not_have_the_name_of_an_edition(configs: Configs) -> None:
    path = configs.write("experiments/e-small", EXPERIMENT)
    (line,) = configs.complaints("e-small")
    assert line.startswith(f"{path}: name = 'e-small': is the name of e at scale small")


def test_parts_with_different_evaluations_are_refused(configs: Configs) -> None:
    configs.write("experiments/d", EXPERIMENT | {"evaluation": {"benchmarks": ["math"]}})
    path = configs.write("experiments/f", {"title": "F", "parts": ["e", "d"]})
    (line,) = configs.complaints("f")
    assert line.startswith(f"{path}: parts = 'd': is evaluated otherwise than e")


def test_unknown_names_are_met_with_the_nearest(configs: Configs) -> None:
    assert configs.complaints("e-smal") == ["experiment = 'e-smal': unknown; did you mean e-small? (valid: e, e-small)"]


def test_an_alias_has_the_cells_and_editions_of_what_it_names(configs: Configs) -> None:
    configs.write("scales/small", {"label": "small", "models": ["n"]})
    configs.write("experiments/now", EXPERIMENT | {"scales": {"small": {}}})
    configs.write("experiments/then", {"alias": "now"})
    configs.write("experiments/before", {"alias": "then"})
    folder = ConfigFolder(configs.folder)
    assert {name for name in folder.names("experiments") if name[0] != "e"} == {
        *("before", "before-small", "now", "now-small", "then", "then-small")
    }
    for scale in ("", "-small"):
        now, then, before = folder.expand(["now" + scale, "then" + scale, "before" + scale])
        assert now.cells == then.cells == before.cells
        assert then.experiment.name == "then" + scale
        assert then.experiment.title == f"{now.experiment.title} (then is called now now)"


def test_a_wrong_alias_is_one_line(configs: Configs) -> None:
    configs.write("experiments/now", EXPERIMENT)
    for values, expected in (
        ({"alias": "nwo"}, "e.yaml: alias = 'nwo': unknown; did you mean now? (valid: e, now)"),
        ({"alias": "e"}, "e.yaml: alias = 'e': is an alias of itself"),
        ({"alias": 3}, "e.yaml: alias = '3': unknown (valid: e, now)"),
        ({"alias": [3]}, "e.yaml: alias = [3]: input should be a valid string"),
        ({"alias": "now", "title": "T"}, "e.yaml: title: unknown key (valid: name, alias)"),
    ):
        configs.write("experiments/e", values)
        (line,) = configs.complaints()
        assert line.endswith(expected)


def test_a_method_may_have_some_of_the_budgets(configs: Configs) -> None:
    some = {"method": "random+random", "budgets": ["25x50"]}
    configs.write("experiments/e", EXPERIMENT | {"budgets": ["25x50", "50x50"], "methods": ["q-tuning", some, "full"]})
    found = [(c.pruning.method, c.pruning.budget) for c in configs.expand("e").cells if c.pruning]
    assert found == [
        ("q-tuning", "25x50"), ("random+random", "25x50"), ("full", "100x100"), ("q-tuning", "50x50"),
    ]  # fmt: skip
    configs.write("experiments/e", EXPERIMENT | {"budgets": ["50x50"], "methods": ["q-tuning", some]})
    (line,) = configs.complaints()
    assert line.endswith("e.yaml: methods.1.budgets: 25x50: not among the experiment's budgets")
