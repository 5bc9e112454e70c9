"""What messages tell a user to write, written."""

import re
from typing import Any

import pytest
from config_files import Configs

from qtuning.errors import UserError
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.registry import NAMED_METHODS, REFERENCE, SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.experiment.schema import MethodEntry, Ratios

EXPERIMENT: dict[str, Any] = {
    **{"title": "E", "models": ["m"], "train_sets": ["t"], "methods": ["full"], "budgets": ["25x50"], "seeds": [0]},
    **{"evaluation": {"benchmarks": ["gsm8k"]}, "zero_shot": False},
}


@pytest.mark.parametrize(
    ("changes", "key", "advice"),
    [
        ({"learning_rate": 1e-4}, "learning_rate", "training.learning_rate"),
        ({"training": {"r": 4}}, "training.r", "training.lora.r"),
        ({"training": {"seeds": [0]}}, "training.seeds", "seeds at the top level"),
        ({"batch_size": 4}, "batch_size", "training.batch_size or evaluation.batch_size"),
        ({"lambda": 0.3}, "lambda", "it among the options of a method, {method: NAME, options: {lambda: ...}}"),
        (
            {"methods": [{"method": "q-tuning", "lambda": 0.3}]},
            "methods.0.lambda",
            "it among the options of a method, {method: NAME, options: {lambda: ...}}",
        ),
        (
            {"compare_every": 3},
            "compare_every",
            "it among the options of a method, {method: NAME, options: {scoring: {compare_every: ...}}}",
        ),
        (
            {"methods": [{"method": "q-tuning", "options": {"learning_rate": 1e-4}}]},
            "methods: q-tuning: options.learning_rate",
            "training.learning_rate",
        ),
        ({"template": "chat"}, "template", "template in a file of configs/models"),
        ({"bad_rows": 0.5}, "bad_rows", "bad_rows in a file of configs/train_sets"),
    ],
)
def test_a_known_key_at_another_level_is_told_where_it_belongs(
    configs: Configs, changes: dict[str, Any], key: str, advice: str
) -> None:
    path = configs.write("experiments/e", EXPERIMENT | changes)
    assert configs.complaints() == [f"{path}: {key}: unknown key; write {advice}"]


def test_a_train_set_may_not_train(configs: Configs) -> None:
    """Keys of an experiment are known in the files of models and train sets, too."""
    path = configs.write("train_sets/t", {"source": {"kind": "hub", "id": "a/t"}, "cutoff": 100, "nonsense": 1})
    configs.write("experiments/e", EXPERIMENT)
    first, second = configs.complaints()
    assert first == f"{path}: cutoff: unknown key; write training.cutoff in a file of configs/experiments"
    assert second.startswith(f"{path}: nonsense: unknown key (valid: name, label, source")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("0.25x0.5", "0.25% x 0.5%: did you mean 25x50?"),
        ("1x0.7", "1% x 0.7%: did you mean 100x70?"),
        ({"sample_ratio": 0.0025, "token_ratio": 0.005}, "0.25% x 0.5%: did you mean 25x50?"),
    ],
)
def test_a_budget_that_looks_like_shares_is_questioned(configs: Configs, budget: Any, said: str) -> None:
    written = EXPERIMENT | {"methods": ["random+random"], "budgets": [budget]}
    path = configs.write("experiments/e", written)
    (line,) = configs.complaints()
    assert line == f"{path}: budgets = {[budget]!r}: {said} If not, write `extreme: true` beside it"
    configs.write("experiments/e", written | {"extreme": True})
    (cell,) = configs.expand("e").cells
    assert cell.pruning is not None and cell.pruning.budget == said.partition(":")[0].replace("%", "").replace(" ", "")


@pytest.mark.parametrize("budget", ["0.78125x50", "50x0.5", "1.5x1", "0.25x100"])
def test_one_small_part_is_a_budget(configs: Configs, budget: str) -> None:
    configs.write("experiments/e", EXPERIMENT | {"methods": ["random+random"], "budgets": [budget]})
    (cell,) = configs.expand("e").cells
    assert cell.pruning is not None and cell.pruning.budget == budget


def test_a_file_in_the_place_of_a_train_set_is_told_what_to_write(configs: Configs) -> None:
    path = configs.write("experiments/e", EXPERIMENT | {"train_sets": ["data/my rows.jsonl.gz"]})
    (line,) = configs.complaints()
    assert line.startswith(f"{path}: train_sets = 'data/my rows.jsonl.gz': is a file; write ")
    written = re.search(r"write (\S+) with the line `(.*?)`, and its name here: train_sets: \[(.*?)\]", line)
    assert written is not None
    file, text, name = written.groups()
    assert file == f"{configs.folder}/train_sets/{name}.yaml"
    configs.write(f"train_sets/{name}", text)
    configs.write("experiments/e", EXPERIMENT | {"train_sets": [name]})
    (cell,) = configs.expand("e").cells
    assert cell.train_set is not None and getattr(cell.train_set.source, "file", None) == "data/my rows.jsonl.gz"


@pytest.mark.parametrize("name", sorted({*SAMPLE_PRUNERS, *TOKEN_PRUNERS} - {*NAMED_METHODS}))
def test_a_pruner_alone_is_told_what_makes_a_method_of_it(name: str) -> None:
    """Every name in the message is a method, given the options that it asks for."""
    with pytest.raises(UserError) as caught:
        make_pruning(MethodEntry(method=name), Ratios(sample_ratio=0.25, token_ratio=0.5))
    message = str(caught.value)
    known = (name in SAMPLE_PRUNERS, name in TOKEN_PRUNERS)
    assert message.startswith(f"{name!r}: is a {'sample' if known[0] else 'token'} pruner")
    advised = [
        word.strip(",;")
        for word in message.split()
        if "+" in word and not {"TOKEN", "SAMPLE"} & {*re.split(r"\W", word)}
    ]
    if known == (True, False):
        advised += [f"{name}+{token}" for token in message.partition("TOKEN one of ")[2].split(", ")]
    elif known == (False, True):
        advised += [f"{sample}+{name}" for sample in message.partition("SAMPLE one of ")[2].split(", ")]
    assert len(advised) == len({*advised}) + (known[0] != known[1]), "the first is in the list as well"
    for method in advised:
        sample, token = method.split("+")
        needs = SAMPLE_PRUNERS[sample].needs | TOKEN_PRUNERS[token].needs
        options: dict[str, Any] = {"of": "q-tuning"} if "trace" in needs else {}
        if needs & REFERENCE:
            options["reference"] = {"samples": 10, "parts": 2} if token == "self-evolving" else {"samples": 10}
        pruning = make_pruning(MethodEntry(method=method, options=options), Ratios(sample_ratio=0.25, token_ratio=0.5))
        assert (pruning.sample_ratio == 1) == (sample == "full") and (pruning.token_ratio == 1) == (token == "none")
