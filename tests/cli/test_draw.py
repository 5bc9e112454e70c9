"""`qtuning audit` as it is typed: exit status and what it prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import invoke
from typer.testing import Result

from qtuning.errors import UserError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke("audit", *arguments)


def test_claims_and_averages_are_printed(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert ": 14 contradicted, 17 partly, 15 holds." in result.output
    assert "4 of 584 printed averages are not the mean" in result.output
    assert "15 printed differences are wrong" in result.output
    assert "results/scores.parquet: no such file; published scores alone" in result.output


def test_json_holds_the_same(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--store", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [claim["paper"]["verdict"] for claim in found["claims"]].count("contradicted") == 14
    assert all(claim["ours"] is None for claim in found["claims"])


def test_a_folder_that_was_named_must_exist(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--store", tmp_path / "nowhere")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("nowhere': no such folder; leave it out for the published scores alone")


STORE = Path(__file__).parents[2] / "docs" / "example" / "store"


def test_compare_prints_primary_comparisons_first() -> None:
    result = invoke("compare", "mini", "--store", STORE)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if "Avg" in line]
    primary = [row.rstrip().endswith("primary") for row in rows]
    assert sum(primary) == 2 and primary[:2] == [True, True]
    assert all(row.startswith("q-tuning@") and "random+random" in row for row in rows[:2])


def test_compare_of_two_lines_and_what_it_refuses() -> None:
    result = invoke("compare", "mini", "q-tuning@25x50", "oracle@50x70", "--benchmark", "gsm8k", "--store", STORE)
    assert result.exit_code == 0, result.output
    assert sum("oracle@50x70" in line for line in result.output.splitlines()) == 1
    for arguments, message in (
        (("q-tuning",), "with what?"),
        (("q-tuning", "full", "--benchmark", "gsm"), "'gsm': mini has"),
        (("q-tuning", "fulll"), "no such line"),
    ):
        result = invoke("compare", "mini", *arguments, "--store", STORE)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
