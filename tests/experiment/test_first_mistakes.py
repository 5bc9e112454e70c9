"""What new users write from the README alone: the message says what they meant."""

import pytest
from config_files import Configs

from qtuning.experiment.schema import Experiment
from qtuning.experiment.yaml_files import MOST_NAMES, nearest

EXPERIMENT = """title: T
models: [m]
train_sets: [t]
methods: [full]
budgets: [25x50]
seeds: [0]
"""


@pytest.mark.parametrize(
    ("section", "text", "said"),
    [
        ("models", "source: a/b", "source = 'a/b': must be keys with values, as in {kind: ...}"),
        ("models", "source: {id: a/b}", "source.kind: required, but not given (hub, shipped, gguf; docs/data.md)"),
        ("models", "source: {kind: path, id: a}", "source.kind = 'path': must be one of 'hub', 'shipped', 'gguf'"),
        ("models", "source: {kind: hub, id: 'https://hub.org/a/b/'}", "write a/b, without the address of the hub"),
        (
            "train_sets",
            "source: {file: x}",
            "source.kind: required, but not given (hub, data-dir, mini-world, path; docs",
        ),
        ("train_sets", "source: {kind: path, file: x}\ncolumns: [a]", "columns = ['a']: must be keys with values"),
        ("experiments", "budgets: [0.25x0.5]", "0.25% x 0.5%: did you mean 25x50?"),
        ("experiments", "evaluation: {benchmarks: [GSM8K]}", "unknown; did you mean gsm8k?"),
        ("experiments", "training: {lr: 1e-4}", "training.lr: unknown key; did you mean learning_rate?"),
        ("experiments", "training: {wd: 0}", "training.wd: unknown key; did you mean weight_decay?"),
    ],
)
def test_the_line_says_what_was_meant(configs: Configs, section: str, text: str, said: str) -> None:
    key = text.partition(":")[0]
    experiment = "".join(line for line in EXPERIMENT.splitlines(True) if not line.startswith(f"{key}:"))
    configs.write("experiments/e", experiment + (text if section == "experiments" else ""))
    if section != "experiments":
        configs.write(f"{section}/{section[0]}", text)
    (complaint,) = configs.complaints()
    assert said in complaint


def test_names_of_files(configs: Configs) -> None:
    configs.write("experiments/my table", EXPERIMENT)
    (complaint,) = configs.complaints("my table")
    assert complaint.endswith(
        "name = 'my table': may hold letters, digits and . _ + - only, and begins with a letter or digit"
    )
    configs.write("experiments/qwen2.5", EXPERIMENT)
    path = configs.folder / "experiments/qwen2.5.yaml"
    path.rename(path.with_suffix(".yml"))
    (complaint,) = configs.complaints("qwen2.5")
    assert complaint == f"experiment = 'qwen2.5': {path.with_suffix('.yml')} must be called qwen2.5.yaml"


def test_of_many_names_those_that_are_alike_are_listed() -> None:
    many = [f"table{number}" for number in range(200)]
    told = nearest("Tabel17", many)
    assert told.startswith("; did you mean table17? (valid: table17, ") and told.endswith(", ...)")
    assert told.count(",") <= MOST_NAMES // 2
    assert nearest("x", ["b", "a"]) == " (valid: b, a)"
    assert nearest("LR", ["learning_rate"]) == "; did you mean learning_rate? (valid: learning_rate)"
    assert len(Experiment.model_fields) < MOST_NAMES, "keys are listed"
