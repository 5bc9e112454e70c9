"""Experiments to cells: identities, shared work, and messages for whoever wrote the YAML."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_files import Configs

from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.grid import ConfigFolder, Grid
from qtuning.experiment.ids import cell_id, cell_json, evaluation_id, evaluation_json, model_id, pair_id
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.experiment.strict_yaml import read_yaml
from qtuning.experiment.yaml_files import nearest
from qtuning.files import canonical_json, short_hash

EXPERIMENT: dict[str, Any] = {
    "title": "E",
    "models": ["m"],
    "train_sets": ["t"],
    "methods": ["full", "random+random", {"method": "q-tuning", "options": {"lambda": 0.5}}],
    "budgets": ["25x50", "50x70"],
    "seeds": [0, 1],
    "training": {"tuning": "full", "epochs": 1},
    "evaluation": {"benchmarks": ["gsm8k"]},
}


Expand = Callable[..., Grid]


@pytest.fixture
def expand(configs: Configs) -> Expand:
    """expand(name="e", data_dir=None, **changes): EXPERIMENT with changes, written as `name` and expanded."""

    def write_and_expand(name: str = "e", data_dir: Path | None = None, **changes: Any) -> Grid:
        configs.write(f"experiments/{name}", EXPERIMENT | changes)
        return configs.expand(name, data_dir)

    return write_and_expand


def cell_with(**changes: Any) -> Cell:
    """A fixed cell, for identities that may not change."""
    value: dict[str, Any] = {
        "model": {"name": "m", "label": "M", "source": {"kind": "hub", "id": "a/b"}, "parameters": 10},
        "train_set": {"name": "t", "label": "T", "source": {"kind": "hub", "id": "a/t"}},
        "pruning": {
            "sample_pruner": "q-tuning",
            "token_pruner": "q-tuning",
            "sample_ratio": 0.25,
            "token_ratio": 0.5,
            "token_options": {"lambda": 0.5},
        },
        "training": {},
        "seeds": {"data": 0, "pruner": 0, "init": 0},
    }
    return Cell.model_validate(value | changes)


def test_identities_are_pinned() -> None:
    """If this fails, every finished cell of every user is trained again: on purpose only (then raise `semantics`)."""
    assert cell_id(cell_with()) == "m-t-q-tuning-25x50-s0-52e46cb2"
    zero = Cell.model_validate({"model": cell_with().model.model_dump()})
    assert cell_id(zero) == "m-zero-shot-719e4d2e"
    assert evaluation_id(Evaluation(benchmarks=("gsm8k",))) == "evaluation-edd3b84c"


def test_identities_do_not_depend_on_the_process() -> None:
    code = (
        "import sys; from pathlib import Path; from qtuning.experiment.cell import Cell; "
        "from qtuning.experiment.ids import cell_id; "
        "print(cell_id(Cell.model_validate_json(sys.argv[1])), 'torch' in sys.modules)"
    )
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", code, cell_json(cell_with())],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == [cell_id(cell_with()), "False"], "and configuration never imports torch"


def test_everything_that_sets_the_weights_sets_the_identity() -> None:
    base = cell_with()
    seen = {cell_id(base)}
    changes: list[dict[str, Any]] = [
        {"semantics": 2},
        {"limit_train": 100},
        {"training": {"learning_rate": 2e-4}},
        {"training": {"lora": {"r": 16}}},
        {"seeds": {"data": 0, "pruner": 1, "init": 0}},
        {"seeds": {"data": 0, "pruner": 0, "init": 1}},
        {"training": {"dtype": "bfloat16"}},
        {"training": {"tuning": "full"}},
        {"train_set": base.train_set.model_dump() | {"format": "chat"}},  # type: ignore[union-attr]
        {"model": base.model.model_dump() | {"lora_targets": ["q_proj"]}},
        {"model": base.model.model_dump() | {"template": "chat"}},
        {"pruning": base.pruning.model_dump() | {"token_options": {"lambda": 0.3}}},  # type: ignore[union-attr]
    ]
    for change in changes:
        identity = cell_id(cell_with(**change))
        assert identity not in seen
        seen.add(identity)


@pytest.mark.parametrize(
    ("ratios", "alike"),
    [
        ((0.25, 1.0), ["random+random", "random+ppl", "random+none"]),
        ((1.0, 0.5), ["random+ppl", "longest+ppl", "full+ppl"]),
        ((1.0, 1.0), ["random+random", "infobatch+fastv", "full"]),
    ],
)
def test_pruners_asked_to_keep_everything_are_one_cell(ratios: tuple[float, float], alike: list[str]) -> None:
    chosen = Ratios(sample_ratio=ratios[0], token_ratio=ratios[1])
    names = {
        cell_id(cell_with(pruning=make_pruning(MethodEntry(method=method), chosen).model_dump(by_alias=True)))
        for method in alike
    }
    assert len(names) == 1
    half = Ratios(sample_ratio=0.5, token_ratio=0.5)
    others = {
        cell_id(cell_with(pruning=make_pruning(MethodEntry(method=method), half).model_dump(by_alias=True)))
        for method in alike
    }
    assert len(others) == len(alike)


def test_readings_that_change_nothing_are_one_cell() -> None:
    def identity(method: str, training: dict[str, Any] | None = None, **options: str) -> str:
        entry = MethodEntry(method=method, options=options)
        chosen = make_pruning(entry, Ratios(sample_ratio=0.25, token_ratio=0.5)).model_dump(by_alias=True)
        return cell_id(cell_with(pruning=chosen, training=training or {}))

    assert identity("full", selection="global", updates="matched-updates", passes="twice") == identity("full")
    assert identity("q-tuning", updates="matched-updates", passes="twice") == identity("q-tuning")
    assert identity("random+random", updates="matched-updates") != identity("random+random")
    assert identity("random+random", passes="twice") != identity("random+random")
    assert identity("q-tuning", pruned_tokens="remove") != identity("q-tuning")
    # a window of one batch is one selection batch, however it is called
    assert identity("q-tuning", selection="global") == identity("q-tuning")
    wide = {"update_samples": 16}
    assert identity("q-tuning", wide, selection="global") != identity("q-tuning", wide)


def test_an_update_of_one_batch_has_one_name() -> None:
    assert cell_id(cell_with(training={"update_samples": 8})) == cell_id(cell_with(training={}))
    assert cell_id(cell_with(training={"update_samples": 16})) != cell_id(cell_with(training={}))


def test_what_cannot_change_the_weights_does_not_change_the_identity() -> None:
    base = cell_with()
    model, train_set = base.model.model_dump(), base.train_set.model_dump()  # type: ignore[union-attr]
    for change in (
        {"model": model | {"label": "Another", "parameters": 11}},
        {"train_set": train_set | {"label": "Another", "bad_rows": 0.5, "local": "x.jsonl"}},
        {"training": {"dtype": "float32"}},  # the model's own, said aloud
    ):
        assert cell_id(cell_with(**change)) == cell_id(base)  # type: ignore[arg-type]
    full = cell_with(training={"tuning": "full"})
    assert cell_id(cell_with(training={"tuning": "full", "lora": {"r": 64}})) == cell_id(full)
    # full fine-tuning is in float32 whatever the base model's own dtype
    assert cell_id(cell_with(training={"tuning": "full"}, model=model | {"dtype": "bfloat16"})) == cell_id(full)
    assert cell_id(cell_with(model=model | {"dtype": "bfloat16"})) != cell_id(base)
    untrained = [Cell.model_validate({"model": model | change}) for change in ({}, {"template": "chat", "label": "X"})]
    assert cell_id(untrained[0]) == cell_id(untrained[1])


def test_cell_json_is_canonical() -> None:
    cell = cell_with()
    stored = Cell.model_validate_json(cell_json(cell))
    assert (cell_json(stored), cell_id(stored)) == (cell_json(cell), cell_id(cell))
    assert cell_id(cell).endswith(short_hash(json.loads(cell_json(cell))))
    assert cell_json(cell) == canonical_json(json.loads(cell_json(cell)))
    assert (stored.pruning, stored.seeds) == (cell.pruning, cell.seeds)
    evaluation = Evaluation(benchmarks=("gsm8k", "math"), limit=3)
    assert Evaluation.model_validate_json(evaluation_json(evaluation)) == evaluation


def test_expansion(expand: Expand) -> None:
    grid = expand()
    # zero-shot; full once a seed, whatever the budgets; the others once a seed and budget
    assert len(grid.cells) == 1 + 2 + 2 * 2 * 2
    assert len({cell_id(cell) for cell in grid.cells}) == len(grid.cells)
    assert grid.cells[0].zero_shot and not any(cell.zero_shot for cell in grid.cells[1:])
    methods = {(c.pruning.method, c.pruning.budget, c.seeds.data) for c in grid.cells[1:] if c.pruning and c.seeds}
    assert methods == {("full", "100x100", seed) for seed in (0, 1)} | {
        (method, budget, seed)
        for method in ("random+random", "q-tuning")
        for budget in ("25x50", "50x70")
        for seed in (0, 1)
    }
    assert grid.evaluation.benchmarks == ("gsm8k",)


def test_what_prunes_nothing_has_ratio_one(expand: Expand) -> None:
    grid = expand(methods=["full", "full+random", "random+none"], seeds=[0], zero_shot=False)
    budgets = [(c.pruning.method, c.pruning.sample_ratio, c.pruning.token_ratio) for c in grid.cells if c.pruning]
    assert budgets == [
        ("full", 1.0, 1.0),
        ("full+random", 1.0, 0.5),
        ("random+none", 0.25, 1.0),
        ("full+random", 1.0, 0.7),
        ("random+none", 0.5, 1.0),
    ]
    # fully kept by budget is not the same cell as full: the method is part of what is reported
    whole = expand(methods=["q-tuning"], budgets=["100x100"], seeds=[0], zero_shot=False).cells[0]
    assert "100x100" not in cell_id(whole) and cell_id(whole) != cell_id(grid.cells[0])


def test_equal_cells_of_two_experiments_are_one(configs: Configs, expand: Expand) -> None:
    expand("e")
    expand(
        "f",
        title="another",
        methods=["q-tuning", "full"],
        budgets=["50x70"],
        seeds=[1, 2],
        evaluation={"benchmarks": ["math"]},
        keep_weights=True,
    )
    first, second = ({cell_id(c): c for c in g.cells} for g in ConfigFolder(configs.folder).expand(["e", "f"]))
    shared = first.keys() & second.keys()
    # zero-shot, full at seed 1, and Q-Tuning at 50x70 and seed 1, whose lambda is the default in one of them
    assert len(shared) == 3
    assert all(cell_json(first[identity]) == cell_json(second[identity]) for identity in shared)


@pytest.mark.parametrize(
    ("key", "entries", "message"),
    [
        ("models", ["m", "m"], "models.1 = 'm': is the same as models.0; leave it out"),
        ("train_sets", ["t", "t"], "train_sets.1 = 't': is the same as train_sets.0"),
        ("methods", ["full", "random+random", "full+none"], "methods.2 = 'full+none': is the same as methods.0"),
        (
            "methods",
            ["q-tuning", {"method": "q-tuning", "options": {"selection": "device"}}],
            "methods.1 = {'method': 'q-tuning', 'options': {'selection': 'device'}}: is the same as methods.0",
        ),
        ("budgets", ["25x50", {"sample_ratio": 0.25, "token_ratio": 0.5}], "budgets.1 = {'sample_ratio': 0.25, "),
        ("seeds", [0, {"data": 0, "pruner": 0, "init": 0}, 1, 0], "seeds.3 = 0: is the same as seeds.0"),
        ("trainings", [{}, {"epochs": 3}, {}], "trainings.2 = {}: is the same as trainings.0"),
        ("evaluation", {"benchmarks": ["math", "math"]}, "evaluation.benchmarks.1 = 'math': is the same as "),
    ],
)
def test_what_is_listed_twice_is_refused(expand: Expand, key: str, entries: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        expand(**{key: entries})
    assert f"e.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["alpagasus+random"], "alpagasus+random: needs ratings, and train set t has none; write `ratings: FILE`"),
        (
            [{"method": "less+none", "options": {"influence": {"targets": ["gsm8k", "mmlu"]}}}],
            "less+none: options.influence.targets = 'mmlu': unknown",
        ),
        (
            [{"method": "random+none", "options": {"influence": {}}}],
            "random+none: options.influence: this method needs no influence; leave it out",
        ),
        (
            [{"method": "less+none", "options": {"influence": {"samples": 100}}}],
            "options.influence: samples = 100: ",
        ),
    ],
)
def test_methods_without_what_they_need_are_refused(expand: Expand, methods: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        expand(methods=methods)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_influence_is_on_the_benchmarks_that_are_asked(expand: Expand) -> None:
    cell = expand(methods=["less+random"]).cells[-1]
    assert cell.pruning is not None and cell.pruning.influence is not None
    assert (cell.pruning.influence.targets, cell.pruning.influence.source) == (("gsm8k",), "hub")
    with pytest.raises(UserError, match="influence: targets and source: required, since the experiment has no"):
        expand(methods=["less+random"], evaluation=None)


def test_methods_that_differ_at_one_budget_alone_are_two(expand: Expand) -> None:
    pair = ["random+none", "random+random"]
    assert expand(methods=pair, budgets=["25x50", "25x100"]).cells


def test_lambda_is_part_of_q_tuning_alone(expand: Expand) -> None:
    methods = ["full", "random+random", "q-tuning+none", "random+q-tuning", "q-tuning"]

    def identities(weight: float) -> dict[str, str]:
        entries = [{"method": m, "options": {"lambda": weight}} if m.endswith("q-tuning") else m for m in methods]
        grid = expand(methods=entries, budgets=["25x50"], seeds=[0], zero_shot=False)
        return {c.pruning.method: cell_id(c) for c in grid.cells if c.pruning}

    low, high = identities(0.3), identities(0.7)
    assert low.keys() == high.keys() == set(methods)
    for method in methods:
        assert (low[method] == high[method]) == (not method.endswith("q-tuning")), method


def test_data_dir_replaces_the_hub(expand: Expand) -> None:
    grid, local = expand(), expand(data_dir=Path("/data"))
    assert {c.train_set.source.kind for c in grid.cells if c.train_set} == {"hub"}
    sources = {(c.train_set.source.kind, c.train_set.source.file) for c in local.cells if c.train_set}  # type: ignore[union-attr]
    assert sources == {("data-dir", "t/train.jsonl")}
    assert (grid.evaluation.source, local.evaluation.source) == ("hub", "data-dir")
    assert not {cell_id(c) for c in grid.cells[1:]} & {cell_id(c) for c in local.cells[1:]}
    assert cell_id(grid.cells[0]) == cell_id(local.cells[0]), "the base model is the same"


def test_shared_stages(configs: Configs, expand: Expand) -> None:
    """Base models and tokenised train sets are shared by all cells that can share them, and by no others."""
    cells = [c for c in expand(models=["m", "n"]).cells if not c.zero_shot]
    assert len({pair_id(cell) for cell in cells}) == 2 == len({model_id(cell.model) for cell in cells})
    longer = expand(training={"tuning": "full", "epochs": 9, "cutoff": 99}).cells[-1]
    assert pair_id(longer) not in {pair_id(cell) for cell in cells}
    assert model_id(longer.model) in {model_id(cell.model) for cell in cells}
    more_epochs = expand(training={"tuning": "full", "epochs": 9}).cells[-1]
    assert pair_id(more_epochs) in {pair_id(cell) for cell in cells}


def test_every_error_of_every_file_at_once(configs: Configs) -> None:
    source = {"kind": "hub", "id": "a/b", "revison": "x"}
    model = configs.write("models/broken", {"source": source, "parameters": -1, "dtype": "float16"})
    experiment = configs.write(
        "experiments/e",
        EXPERIMENT
        | {
            "models": ["m", "mm", "broken"],
            "train_sets": ["s"],
            "methods": [
                "ful",
                "randm+rndom",
                {"method": "q-tuning", "options": {"lambd": 0.3, "mu": 1}},
                {"method": "q-tuning", "options": {"lambda": 2}},
                {"method": "full", "options": {"lambda": 0.5}},
                {"metod": "full"},
            ],
            "budgets": ["25x50", "25x150", "0.0x50", 80],
            "seeds": [0, -1],
            "training": {"learning_rat": 1, "epochs": "three", "lora": {"rank": 4}, "warmup": float("inf")},
            "evaluation": {"benchmarks": ["gsm8", "math"], "batch_size": 0},
            "sedes": [1],
        },
    )
    configs.write("experiments/f", {key: value for key, value in EXPERIMENT.items() if key not in ("title", "seeds")})
    found = configs.complaints("e", "f", "g")
    rest = list(found)
    expected: list[tuple[Any, ...]] = [
        (experiment, "methods.5.metod", "unknown key; did you mean method?"),
        (experiment, "methods.5.method", "required, but not given"),
        (experiment, "budgets.1", "'25x150'", "per cent of tokens must be above 0 and at most 100"),
        (experiment, "budgets.2", "'0.0x50'", "per cent of samples must be above 0"),
        (experiment, "budgets.3", "80", "is no budget", "25x50"),
        (experiment, "seeds.1", "-1", "is no seed"),
        (experiment, "training.learning_rat", "unknown key; did you mean learning_rate?", "schedule"),
        (experiment, "training.lora.rank", "unknown key", "valid: r, alpha, dropout"),
        (experiment, "training.epochs", "'three'", "is no number; write one"),
        (experiment, "training.warmup", "inf", "finite"),
        (experiment, "evaluation.batch_size", "0", "greater than 0"),
        (experiment, "sedes", "unknown key; did you mean seeds?"),
        (experiment, "models", "'mm'", "unknown; did you mean m?"),
        (model, "source.revison", "unknown key; did you mean revision?"),
        (model, "parameters", "-1", "greater than 0"),
        (model, "dtype", "'float16'", "'float32' or 'bfloat16'"),
        (experiment, "train_sets", "'s'", "(valid: t, u)"),
        (experiment, "evaluation.benchmarks", "'gsm8'", "unknown; did you mean gsm8k?", "arc_easy"),
        (experiment, "methods", "'ful'", "unknown method; did you mean full?", "q-tuning"),
        (experiment, "methods", "'randm'", "unknown sample pruner; did you mean random?", "q-tuning"),
        (experiment, "methods", "'rndom'", "unknown token pruner; did you mean random?", "none"),
        (experiment, "methods", "q-tuning: options.lambd", "unknown key; did you mean lambda?"),
        (experiment, "methods", "q-tuning: options.mu", "unknown key", "(valid: quadrants, entropy, thresholds"),
        (experiment, "methods", "q-tuning: options", "lambda = 2", "less than or equal to 1"),
        (experiment, "methods", "full: options.lambda", "unknown key"),
        (configs.folder / "experiments/f.yaml", "title", "required"),
        (configs.folder / "experiments/f.yaml", "seeds", "required"),
    ]
    for file, key, *parts in expected:
        hits = [line for line in rest if line.startswith(f"{file}: {key}") and all(part in line for part in parts)]
        assert hits, (file, key, parts, rest)
        rest.remove(hits[0])
    assert rest == ["experiment = 'g': unknown (valid: e, f)"], "and nothing is reported twice or for no reason"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: E\nmodels: [m]\ntitle: F\n", "line 3: not valid YAML: key 'title' is written twice"),
        ("title: E\ntraining:\n  epochs: 1\n  epochs: 2\n", "line 4: not valid YAML: key 'epochs' is written twice"),
        ("title: E\n  models: [m]\n", "line 2: not valid YAML: mapping values are not allowed here"),
        ("title: [m\n", "not valid YAML"),
        ("- title\n", "expected keys and values at the top level, found list"),
        ("", "expected keys and values at the top level, found NoneType"),
        ("title: !!python/object/apply:os.getcwd []\n", "not valid YAML: tags are not read (!!python/object/apply:os"),
        ("{[a]: 1}\n", "not valid YAML"),
    ],
)
def test_broken_yaml(configs: Configs, text: str, message: str) -> None:
    path = configs.write("experiments/e", text)
    (line,) = configs.complaints()
    assert line.startswith(f"{path}: ") and message in line


def test_yaml_that_is_not_text(configs: Configs) -> None:
    path = configs.write("experiments/e", "")
    path.write_bytes(b"title: \xff\n")
    (line,) = configs.complaints()
    assert line.startswith(f"{path}: not valid YAML")
    with pytest.raises(UserError, match="no such file"):
        read_yaml(path.with_name("nothing.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": "m"}, "models = 'm': must be a list, in square brackets"),
        ({"budgets": []}, "budgets = []: list should have at least 1 item"),
        ({"seeds": ["a"]}, "seeds.0 = 'a'"),
        ({"limit_train": 0}, "limit_train = 0: input should be greater than 0"),
        ({"evaluation": "all"}, "evaluation = 'all'"),
        ({"name": "f"}, "name = 'f': must equal the file's name, 'e'"),
    ],
)
def test_one_wrong_value(configs: Configs, changes: dict[str, Any], message: str) -> None:
    path = configs.write("experiments/e", EXPERIMENT | changes)
    (line,) = configs.complaints()
    assert line.startswith(f"{path}: {message}")


def test_nearest() -> None:
    assert nearest("lamda", ["lambda", "mu"]) == "; did you mean lambda? (valid: lambda, mu)"
    assert nearest("xyz", ["lambda"]) == " (valid: lambda)"
    assert nearest("xyz", []) == ""
