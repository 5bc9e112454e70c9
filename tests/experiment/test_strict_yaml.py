"""YAML by type: what it says is what is meant, and what could mean two things is refused in one line."""

import json
from typing import Any

import pytest
from config_files import Configs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtuning.experiment.by_type import NOTHING, Wrong, by_type
from qtuning.experiment.cell import Training, TrainSet
from qtuning.experiment.schema import Experiment
from qtuning.experiment.strict_yaml import parse_yaml

EXPERIMENT = """title: T
models: [m]
train_sets: [t]
methods: [full]
budgets: [25x50]
seeds: [0]
evaluation: {benchmarks: [gsm8k]}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None),
        ("", None), ("8", 8), ("-3", -3), ("010", "010"), ("1:30", "1:30"), ("0x50", "0x50"), ("2024_11", "2024_11"),
        ("7_241_732_096", 7241732096), ("1e-4", 1e-4), ("1.0e-3", 1e-3), (".5", 0.5), ("2024-11-28", "2024-11-28"),
        ("25x50", "25x50"), ("=", "="), ("'8'", "8"),
    ],
)  # fmt: skip
def test_plain_values(text: str, expected: Any) -> None:
    found = parse_yaml(text)
    assert found == expected and isinstance(found, type(expected))


def test_keys_are_texts() -> None:
    assert parse_yaml("{no: 1, 010: 2, 1: 3, true: 4}") == {"no": 1, "010": 2, "1": 3, "true": 4}
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}") == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}


@pytest.mark.parametrize("word", ["no", '"no"', "bf16"])
def test_mixed_precision_may_be_written_as_documented(configs: Configs, word: str) -> None:
    configs.write("experiments/e", f"{EXPERIMENT}training: {{mixed_precision: {word}}}\n")
    (cell,) = [cell for cell in configs.expand("e").cells if cell.training is not None]
    assert cell.training is not None and cell.training.mixed_precision == word.strip('"')


@pytest.mark.parametrize("word", ["off", "Off", "NO", "false", "none", "null", "~"])
def test_keys_with_named_values_take_any_word_for_nothing(configs: Configs, word: str) -> None:
    methods = f"[full, {{method: q-tuning, options: {{supplement: {word}}}}}]"
    training = f"training: {{mixed_precision: {word}, quantization: {word}}}\n"
    configs.write("experiments/e", EXPERIMENT.replace("[full]", methods) + training)
    cell = configs.expand("e").cells[-1]
    assert cell.training is not None and cell.pruning is not None
    assert (cell.training.mixed_precision, cell.training.quantization) == ("no", "none")
    assert cell.pruning.sample_options["supplement"] == "none"


def test_names_keep_their_spelling(configs: Configs) -> None:
    for name in ("007", "2024", "1e3"):
        configs.write(f"models/{name}", "source: {kind: hub, id: a/b, revision: 0123456, subset: 1_000}\n")
        configs.write("experiments/e", EXPERIMENT.replace("[m]", f"[{name}]").replace("title: T", "title: 010"))
        grid = configs.expand("e")
        assert grid.experiment.title == "010"
        model = grid.cells[0].model
        assert (model.name, model.source.revision, model.source.subset) == (name, "0123456", "1_000")  # type: ignore[union-attr]
    configs.write("train_sets/t", "source: {kind: path, file: 2024}\ncolumns: {output: 1}\n")
    train_set = next(cell.train_set for cell in configs.expand("e").cells if cell.train_set is not None)
    assert (train_set.source.file, train_set.columns) == ("2024", {"output": "1"})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("limit_train: true", "limit_train = True: is a truth value; write a number"),
        ("seeds: 010", "seeds = '010': must be a list, in square brackets"),
        ("seeds: [0, 010]", "seeds.1 = '010': is no seed; write a whole number in decimal digits"),
        ("seeds: [1e3]", "seeds.0 = 1000.0: is no seed"),
        ("seeds: [-1]", "seeds.0 = -1: is no seed; write 0 or a number above"),
        ("methods: [1e3]", "methods.0 = 1000.0: is no method; write its name"),
        ("budgets: [[25, 50]]", "budgets.0 = [25, 50]: is no budget; write per cent of samples x per cent of tokens"),
        ("limit_train: 010", "limit_train = '010': is no number; write plain decimal digits"),
        ("limit_train: 1:30", "limit_train = '1:30': is no number; write plain decimal digits"),
        ("limit_train: '8'", "limit_train = '8': is no number; write plain decimal digits, without quotes"),
        ("limit_train: yes", "limit_train = 'yes': is no number; write one"),
        ("training: {epochs: true}", "training.epochs = True: is a truth value; write a number"),
        ("training: {learning_rate: '1e-4'}", "training.learning_rate = '1e-4': is no number"),
        ("training: {lora: {r: false}}", "training.lora.r = False: is a truth value"),
        ("trainings: [{epochs: 1}, {epochs: true}]", "trainings.1.epochs = True: is a truth value"),
        ("scales: {mini: {limit_train: true}}", "scales.mini.limit_train = True: is a truth value"),
        ("keep_weights: 1", "keep_weights = 1: is a number; write true or false"),
        ("keep_weights: maybe", "keep_weights = 'maybe': is no truth value; write true or false"),
        ("title: !!str 5", "not valid YAML: tags are not read (!!str)"),
        ("title: !!set {a}", "not valid YAML: tags are not read (!!set)"),
        ("title: ! x", "not valid YAML: tags are not read (!)"),
        ('title: "\\ud800"', "not valid YAML: half a surrogate pair, which is no character"),
        ('title: "a\\0b"', "not valid YAML: control characters"),
        ("title: [a, b", "not valid YAML: "),
        ("? [a]\n: b", "not valid YAML: a key that is a list or a mapping"),
        ("trainings: &x [*x]", "not valid YAML: an alias stands inside the value that it repeats"),
    ],
)
def test_what_is_refused_is_one_line(configs: Configs, line: str, said: str) -> None:
    key = line.partition(":")[0]
    kept = [old for old in EXPERIMENT.splitlines() if not old.startswith(f"{key}:")]
    configs.write("scales/mini", "label: mini\nlimit_train: 5\n")
    configs.write("experiments/e", "\n".join([*kept, line]))
    (complaint,) = configs.complaints()
    assert said in complaint and complaint.startswith(str(configs.folder / "experiments/e.yaml"))


def test_seeds_are_numbers(configs: Configs) -> None:
    configs.write("experiments/e", EXPERIMENT.replace("seeds: [0]", "seeds: [0, true]"))
    (complaint,) = configs.complaints()
    assert complaint.endswith("seeds.1 = True: is a truth value; write what the key takes")


def test_options_of_methods_are_strict_too(configs: Configs) -> None:
    for option, said in (
        ("{lambda: true}", "lambda = True: is a truth value"),
        ("{lambda: '0.3'}", "lambda = '0.3': is no"),
    ):
        configs.write("experiments/e", EXPERIMENT.replace("[full]", f"[{{method: q-tuning, options: {option}}}]"))
        assert any(said in complaint for complaint in configs.complaints())


def test_truth_in_words(configs: Configs) -> None:
    for word, truth in (("yes", True), ("off", False), ("No", False), ("true", True)):
        configs.write("experiments/e", f"{EXPERIMENT}keep_weights: {word}\n")
        assert configs.expand("e").experiment.keep_weights is truth


def test_files_have_limits(configs: Configs) -> None:
    """Size, depth, and aliases that grow without bound (a "billion laughs")."""
    configs.write("experiments/e", f"{EXPERIMENT}# {'x' * 2**20}\n")
    assert "more than any configuration" in configs.complaints()[0]
    configs.write("experiments/e", f"{EXPERIMENT}limit_train: {'[' * 100}{']' * 100}\n")
    assert "more than 40 values inside each other" in configs.complaints()[0]
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    configs.write("experiments/e", "\n".join(laughs))
    (complaint,) = configs.complaints()
    assert "more than 50,000 values, aliases written out" in complaint
    configs.write("experiments/e", EXPERIMENT + "readings: &r {selection: global}\n")
    assert configs.expand("e").cells


def test_messages_are_cut_short(configs: Configs) -> None:
    configs.write(
        "experiments/e", f"{EXPERIMENT}{'k' * 900}: 1\ntraining: {{schedule: {'x' * 5000}, dtype: {'y' * 5000}}}\n"
    )
    complaints = configs.complaints()
    assert len(complaints) == 3 and all(len(line) < 1000 for line in complaints)
    many = "".join(f"k{n}: 1\n" for n in range(500))
    configs.write("experiments/e", EXPERIMENT + many)
    assert configs.complaints()[-1].endswith("and 470 problems more")


@pytest.mark.parametrize("name", ["x.cost", "x.md", "x.p_gold", "x.kinds", "x.partial"])
def test_names_of_our_own_files_are_refused(configs: Configs, name: str) -> None:
    configs.write("experiments/x", EXPERIMENT)
    configs.write(f"experiments/{name}", EXPERIMENT)
    (complaint,) = configs.complaints(name)
    assert f"name = {name!r}: is what files of an experiment x are called ({name}.md); rename the file" in complaint
    assert configs.expand("x").cells
    configs.write("experiments/qwen2.5", EXPERIMENT)
    assert configs.expand("qwen2.5").cells


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.sampled_from(["yes", "8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("schema", [Training, TrainSet, Experiment])
@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine the first draw alone takes a second
@given(data=st.data())
def test_no_value_is_lost_or_invented(schema: Any, data: Any) -> None:
    """Whatever stands in a file: the value stays what it is, or becomes its spelling, or what the word says."""
    given_values = data.draw(st.dictionaries(st.sampled_from(sorted(schema.model_fields)), values, max_size=4))
    wrong: list[Wrong] = []
    found = by_type(schema, given_values, wrong)
    assert json.dumps(by_type(schema, found, [])) == json.dumps(found)
    for key, value in given_values.items():
        if isinstance(value, bool) and schema.model_fields[key].annotation in (int, float):
            assert any(each.keys[0] == key for each in wrong)
        if not isinstance(value, list | dict | str):
            nothing = (value is None or value is False) and found[key] in NOTHING
            assert found[key] == value or wrong or nothing
