"""The names of rows: an option beside its pruner, none at its default unless the experiment varies it."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtuning.experiment.cell import Readings
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.store.lines import Line, in_table_order, line_of, varied
from qtuning.tables.labels import method_label, pruner_labels

MODULE = "pruners_of_labels"
PRUNERS = """
from qtuning.pruners.base import keep_first, keep_highest, ranking


def keep_hard(candidates, budget, rng, *, share: float = 0.5, lambda_: int = 2):
    return keep_first(ranking(-candidates.scores.ent, candidates.numbers), budget.samples)


def unsure(candidates, selection, budget, rng, *, share: float = 1.0):
    return keep_highest(candidates.scores.entropy, candidates, selection, budget.tokens, "sample")
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pruners")
    (folder / f"{MODULE}.py").write_text(PRUNERS)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


def line(method: str, training: str = "", **options: Any) -> Line:
    """The line of a configured method, with all the options that the store has of it."""
    given = {name.rstrip("_"): value for name, value in options.items()}  # `lambda` is a word of Python's
    found = make_pruning(MethodEntry(method=method, options=given), Ratios(sample_ratio=0.25, token_ratio=0.5))
    readings = found.model_dump(mode="json", include=set(Readings.model_fields))
    return stored(
        found.method,
        found.sample_pruner,
        found.token_pruner,
        {"sample": dict(found.sample_options), "token": dict(found.token_options), "method": readings},
        training,
    )


def stored(method: str, sample: str, token: str, options: dict[str, Any], training: str = "") -> Line:
    row = {"method": method, "sample_pruner": sample, "token_pruner": token, "options": json.dumps(options)}
    return line_of(row | {"sample_ratio": 0.25, "token_ratio": 0.5, "training": training}, "mini")


def test_an_option_stands_beside_its_pruner() -> None:
    method = f"{MODULE}:keep_hard+ppl"
    both = line(method, share=0.3, within="sample", selection="global")
    assert pruner_labels(both) == ("keep_hard (share=0.3)", "PPL (within=sample) (selection=global)")
    assert pruner_labels(line(method, "batch_size=16", share=0.3)) == ("keep_hard (share=0.3)", "PPL (batch_size=16)")
    assert method_label(line("infobatch-original+random", anneal=0.5)) == "InfoBatch-original (anneal=0.5) + random"
    assert pruner_labels(line("q-tuning", "batch_size=16", quadrants="text", **{"lambda": 0.3})) == (
        "Q-Tuning (batch_size=16, lambda=0.3, quadrants=text)",
        "",
    )


def test_defaults_of_plugins_are_not_shown() -> None:
    plain = line(f"{MODULE}:keep_hard+random")
    assert json.loads(plain.options)["sample"]["share"] == 0.5, "the store has it"
    assert (pruner_labels(plain), plain.variant) == (("keep_hard", "random"), "")
    assert pruner_labels(line(f"{MODULE}:keep_hard+random", lambda_=3)) == ("keep_hard (lambda=3)", "random")


def test_all_options_of_a_plugin_that_cannot_be_loaded_are_shown() -> None:
    absent = stored(
        "gone:keep_hard+gone:unsure",
        "gone:keep_hard",
        "gone:unsure",
        {"sample": {"share": 0.5}, "token": {"share": 1.0}, "method": {}},
    )
    assert pruner_labels(absent) == ("keep_hard (share=0.5)", "unsure (share=1.0)")
    assert absent.variant == "share=0.5, share=1.0"


def test_where_rows_of_a_method_set_an_option_all_name_it() -> None:
    lines = [line("q-tuning", lambda_=weight) for weight in (0.0, 0.5, 0.7)] + [line("random+random")]
    ordered = in_table_order(lines, ["mini"])
    assert [method_label(found) for found in ordered] == [
        "random + random",
        "Q-Tuning (lambda=0.0)",
        "Q-Tuning (lambda=0.5)",
        "Q-Tuning (lambda=0.7)",
    ]
    # what it is has not changed: references of tables and figures look for the plain row
    assert [found.variant for found in ordered] == ["", "lambda=0.0", "", "lambda=0.7"]
    assert set(ordered) == set(lines) and replace(ordered[2], named=()) == lines[1]
    alone = in_table_order([line("q-tuning"), line("random+random")], ["mini"])
    assert [method_label(found) for found in alone] == ["random + random", "Q-Tuning"]


def test_a_method_with_many_options_is_named_by_what_differs() -> None:
    changes: list[dict[str, Any]] = [{}, {"lambda": 0.3}, {"quadrants": "text"}, {"selection": "global"}]
    lines = in_table_order([line("q-tuning", **options) for options in changes], ["mini"])
    assert [method_label(found) for found in lines] == [
        "Q-Tuning",
        "Q-Tuning (lambda=0.3)",
        "Q-Tuning (quadrants=text)",
        "Q-Tuning (selection=global)",
    ]
    assert varied("q-tuning", [("q-tuning", "q-tuning", found.options) for found in lines]) == ()


def test_a_preset_goes_by_its_name_and_shows_what_differs_from_it() -> None:
    budget: dict[str, Any] = {"surplus": "trim", "counted": "response", "search": "tolerance"}
    assert method_label(line("q-tuning", **budget)) == method_label(line("q-tuning-budget")) == "Q-Tuning, budget"
    assert line("q-tuning", **budget) == line("q-tuning-budget") and line("q-tuning-budget").variant == ""
    assert method_label(line("q-tuning-budget", lambda_=0.3)) == "Q-Tuning, budget (lambda=0.3)"
    assert method_label(line("q-tuning-budget", kept_samples="floor")) == "Q-Tuning, budget (kept_samples=floor)"
    assert method_label(line("q-tuning-budget", surplus="keep")) == "Q-Tuning (counted=response, search=tolerance)"
    # of two presets that fit, the one that says more
    both = line("q-tuning-third-party", **budget)
    assert method_label(both) == "Q-Tuning, third party (counted=response, search=tolerance, surplus=trim)"
    last = in_table_order([line("q-tuning-history"), line("random+random"), line("q-tuning")], ["mini"])
    assert [method_label(found) for found in last] == ["random + random", "Q-Tuning, history", "Q-Tuning"]


def test_a_row_without_the_option_has_nothing_to_name(module: Path) -> None:
    old: dict[str, Any] = {"sample": {}, "token": {}, "method": {}}
    lines = [stored("q-tuning", "q-tuning", "q-tuning", old | {"token": token}) for token in ({}, {"lambda": 0.3})]
    assert [method_label(found) for found in in_table_order(lines, ["mini"])] == ["Q-Tuning", "Q-Tuning (lambda=0.3)"]
