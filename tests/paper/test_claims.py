"""What is refused of claims and of published scores: file, claim or line, key, and what would be right."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from claim_oracle import lines, write

from qtuning.errors import UserError
from qtuning.paper.claims import read_claims
from qtuning.paper.reference import read_published
from qtuning.paper.verdicts import evaluate

PUBLISHED = read_published()
GOOD = {
    "id": "margin",
    "claim": "LLaMA2-7B 3.3 above the best baseline",
    "expected": 3.3,
    "from": {
        "table": 1,
        "model": "llama2-7b",
        "budget": [12.5, 50],
        "benchmark": "avg",
        "versus": "best-baseline",
        "how": "difference",
    },
    "verdict": "contradicted",
}


def claims(folder: Path, *entries: object) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def recipe(**changes: object) -> dict[str, object]:
    values = {**GOOD["from"], **changes}
    return GOOD | {"from": {key: value for key, value in values.items() if value is not None}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (GOOD | {"verdit": "holds"}, "claim margin: verdit: unknown key; did you mean verdict?"),
        (GOOD | {"verdict": "maybe"}, "claim margin: verdict = 'maybe'"),
        ({key: GOOD[key] for key in GOOD if key != "verdict"}, "claim margin: verdict: required, but not given"),
        ({key: GOOD[key] for key in GOOD if key != "id"}, "claim 1: id: required, but not given"),
        ("text", "claim 1: expected keys and values, found str"),
        (recipe(how="differnce"), "claim margin: from.how = 'differnce': unknown; did you mean difference?"),
        (recipe(how=None), "claim margin: from.how = None: unknown"),
        (recipe(bugdet=[25, 50]), "claim margin: from: bugdet: unknown key; did you mean budget?"),
        (recipe(versus=None), "claim margin: from: versus: required, but not given"),
        (recipe(versus="fool"), "claim margin: from: versus = 'fool'"),
        (recipe(budget=[25]), "claim margin: from: budget = [25]: must be a budget"),
        (recipe(budget=[0, 50]), "from: budget = [0, 50]: must be a budget"),
        (recipe(budget=[True, 50]), "from: budget = [True, 50]: must be a budget"),
        (recipe(model="lama2-7b"), "claim margin: from.model = 'lama2-7b': unknown; did you mean llama2-7b?"),
        (recipe(model="llama3-8b"), "claim margin: from.model = 'llama3-8b': unknown"),  # it is in table 2 only
        (recipe(benchmark="gsm8"), "claim margin: from.benchmark = 'gsm8': unknown; did you mean gsm8k?"),
        (recipe(table=3), "claim margin: from.table = 3: not among the published tables [1, 2]"),
        (GOOD | {"expected": 3.4}, "claim margin: expected = 3.4: the claim's text has no such figure"),
        (GOOD | {"expected": 2.0}, "claim margin: expected = 2: the claim's text has no such figure"),  # of LLaMA2
        (GOOD | {"expected": [3.3, 3.3]}, "claim margin: expected: 2 figures for 1 models"),
        ({key: GOOD[key] for key in GOOD if key != "expected"}, "claim margin: expected: required, but not given"),
        (GOOD | {"from": {"table": 1, "model": "llama2-7b", "how": "recompute-averages"}}, "has no figure of its own"),
        (
            GOOD
            | {
                "from": {
                    "table": 2,
                    "sample_pruner": "any",
                    "token_pruner": "sparsvlm",
                    "budgets": [[25, 50], [25, 70]],
                    "how": "compare-rows",
                }
            }
            | {"expected": None},
            "claim margin: from.token_pruner = 'sparsvlm': unknown; did you mean sparsevlm?",
        ),
    ],
)
def test_malformed_claims_are_refused_with_claim_and_key(entry, message, tmp_path):
    path = claims(tmp_path, entry)
    with pytest.raises(UserError) as error:
        read_claims(PUBLISHED, path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    path = claims(tmp_path, GOOD | {"verdict": "maybe"}, GOOD | {"id": "other", "expected": 9})
    with pytest.raises(UserError) as error:
        read_claims(PUBLISHED, path)
    assert len(str(error.value).splitlines()) == 2


def test_a_claim_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="claim margin: id = 'margin': is there twice"):
        read_claims(PUBLISHED, claims(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize("text", ["{}", "[]", "a: 1"])
def test_a_file_that_is_no_list_is_refused(text, tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="expected a list of claims"):
        read_claims(PUBLISHED, path)


def test_the_digits_of_the_text_set_the_tolerance(tmp_path):
    """2.50 is what the table has: a claim of 2 holds of 2.5, a claim of 2.4 does not; its yaml value has no digits."""
    for text, value, verdict in (("+3", 3.0, "holds"), ("2.5", 2.5, "holds"), ("2.4", 2.4, "contradicted")):
        path = claims(tmp_path, GOOD | {"claim": f"LLaMA2-7B {text} above", "expected": value})
        (claim,) = read_claims(PUBLISHED, path)
        assert evaluate(claim, PUBLISHED).verdict == verdict, text
    assert claim.figures[0].rounding == Fraction(1, 20)


def test_a_budget_that_is_not_published_is_not_testable(tmp_path):
    (claim,) = read_claims(PUBLISHED, claims(tmp_path, recipe(budget=[50, 70])))
    outcome = evaluate(claim, PUBLISHED)
    assert outcome.verdict == "not testable"
    assert "table 1, llama2-7b, 50x70, Q-Tuning, avg: not published" in str(outcome.terms[0])


def scores(folder: Path, *changes: tuple[int, str, str]) -> Path:
    rows = lines()
    for number, key, value in changes:
        rows[number][key] = value
    return write(folder / "scores.csv", rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, "score", "abc"), "line 2: score = 'abc'"),
        ((5, "score", "101"), "line 7: score = '101'"),
        ((5, "score", "NaN"), "line 7: score = 'NaN'"),
        ((1, "setting", "prunned"), "line 3: setting = 'prunned'"),
        ((1, "benchmark", "gsm8k"), "line 3: table 2, llama3-8b, 25x50, random + random, gsm8k: is there twice"),
        ((9, "train_set", "alpaca"), "line 11: train_set = 'alpaca': table 2 has another"),
    ],
)
def test_malformed_scores_are_refused_with_their_line(change, message, tmp_path):
    path = scores(tmp_path, change)
    with pytest.raises(UserError) as error:
        read_published(path)
    assert f"{path}: {message}" in str(error.value)


def test_other_columns_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(UserError, match="no such file"):
        read_published(path)
    path.write_text("table,score\n1,2\n")
    with pytest.raises(UserError, match="line 1: columns table, score; expected table, train_set"):
        read_published(path)
    path.write_text(",".join(lines()[0]) + "\n1,2\n")
    with pytest.raises(UserError, match="line 2: not as many values"):
        read_published(path)
    path.write_text(",".join(lines()[0]) + "\n")
    with pytest.raises(UserError, match="holds no scores"):
        read_published(path)
