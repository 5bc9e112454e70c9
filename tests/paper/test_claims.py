"""The verdicts follow from the printed numbers alone, and a changed number changes them."""

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from claim_oracle import judge, lines, write
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.paper.claims import Judgement, check_claims, claims_json, claims_page
from qtuning.paper.published import Published, read_published
from qtuning.report import write_report
from qtuning.tables import markdown

EXAMPLE = Path(__file__).parents[2] / "docs/example"
PUBLISHED = read_published()
LINES = lines()
FINDINGS = check_claims(PUBLISHED)
PAGE = claims_page(FINDINGS, PUBLISHED)
ORACLE = judge(LINES)


def judged(published: Published) -> dict[str, Judgement]:
    """What the paper's numbers say of each claim, by its name in the oracle."""
    return {name: finding.paper for name, finding in zip(ORACLE, check_claims(published), strict=True)}


@pytest.mark.parametrize("claim", ORACLE)
def test_verdict_and_figures_are_those_of_the_oracle(claim: str) -> None:
    verdict, figures = ORACLE[claim]
    found = judged(PUBLISHED)[claim]
    assert found.verdict == verdict
    assert all(figure in found.numbers for figure in figures), found.numbers


def test_the_page_is_the_committed_one() -> None:
    """Its figures were checked by hand."""
    assert markdown.render_markdown(PAGE) == (EXAMPLE / "audit.md").read_text(encoding="utf-8")
    assert PAGE.lead[0].endswith(": holds 4, holds in part 1, contradicted 5.")
    assert [finding.ours for finding in FINDINGS] == [None] * 10


def q_tuning(table: str, model: str, samples: str, tokens: str, score: str, **more: str) -> dict[str, str]:
    place = {"table": table, "model": model, "sample_ratio": samples, "token_ratio": tokens}
    return place | {"sample_pruner": "q-tuning", "benchmark": "avg", "score": score} | more


# verdict, and the changes that lead to it: each is of the `score` of the first line that has its other values
FLIPS: dict[str, tuple[Any, ...]] = {
    "smollm2_gains_38_percent": ("contradicted", q_tuning("2", "smollm2-1.7b", "25.0", "50.0", "13.00")),
    "llama3_reaches_48_on_gsm8k": ("holds", q_tuning("2", "llama3-8b", "50.0", "70.0", "48.07", benchmark="gsm8k")),
    "llama2_reaches_36_5": ("contradicted", q_tuning("1", "llama2-7b", "25.0", "50.0", "36.43")),
    "mistral_leads_by_1_63": (
        "contradicted",
        q_tuning("1", "mistral-7b", "25.0", "50.0", "45.50", sample_pruner="entropy"),
    ),
    "llama2_leads_by_3_3": ("holds", q_tuning("1", "llama2-7b", "12.5", "50.0", "38.54")),
    "mistral_leads_by_2_7": ("holds", q_tuning("1", "mistral-7b", "12.5", "50.0", "49.03")),
    "table2_averages_at_35_percent": ("holds", q_tuning("2", "llama3-8b", "50.0", "70.0", "21.50")),
    "mistral_averages_are_means": (
        "holds",
        q_tuning("2", "mistral-7b", "25.0", "70.0", "24.03"),
        q_tuning("2", "mistral-7b", "50.0", "70.0", "27.11"),
    ),
    "sparsevlm_rows_differ": ("holds in part", {"table": "2", "token_pruner": "sparsevlm", "score": "1.00"}),
    "q_tuning_beats_full_data": ("contradicted", q_tuning("1", "llama2-7b", "12.5", "70.0", "35.30")),
}


@pytest.mark.parametrize("claim", ORACLE)
def test_a_changed_number_turns_the_verdict(claim: str, tmp_path: Path) -> None:
    verdict, *changes = FLIPS[claim]
    rows = [dict(line) for line in LINES]
    for change in changes:
        wanted = change.items() - {("score", change["score"])}
        next(row for row in rows if wanted <= row.items())["score"] = change["score"]
    published = read_published(write(tmp_path / "scores.csv", rows))
    assert judged(published)[claim].verdict == verdict != ORACLE[claim][0]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores") / "scores.csv"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), delta=st.sampled_from(["-9.00", "-0.60", "-0.02", "-0.01", "0.01", "0.05", "2.50"]))
def test_any_changed_line_gives_what_the_oracle_gives(scratch: Any, seed: int, delta: Any) -> None:
    rows = [dict(line) for line in LINES]
    # of lines that claims rest on, so that most changes bear on one
    chosen = [r for r in rows if r["sample_pruner"] == "q-tuning" or r["setting"] == "full" or r["benchmark"] == "avg"]
    line = random.Random(seed).choice(chosen)
    line["score"] = str(max(Decimal(0), Decimal(line["score"]) + Decimal(delta)))
    expected = judge(rows)
    for claim, found in judged(read_published(write(scratch, rows))).items():
        verdict, figures = expected[claim]
        assert found.verdict == verdict, claim
        assert all(figure in found.numbers for figure in figures), found.numbers


def test_every_average_is_recomputed_and_the_wrong_ones_are_listed() -> None:
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for line in LINES:
        rest = tuple(value for name, value in line.items() if name not in ("benchmark", "score"))
        groups.setdefault(rest, {})[line["benchmark"]] = float(line["score"])
    wrong = []
    for scores in groups.values():
        cells = [score for benchmark, score in scores.items() if benchmark != "avg"]
        mean = sum(cells) / len(cells)
        if abs(scores["avg"] - mean) > 0.010001:  # half a unit each for the average and for its parts
            wrong.append((f"{scores['avg']:.2f}", f"{mean:.3f}", f"{scores['avg'] - mean:+.3f}"))
    assert len(wrong) == 3
    table = PAGE.tables[1]
    assert [row[1:] for row in table.rows] == wrong
    assert table.title == f"3 of {len(groups)} printed averages are not the mean of their benchmarks"
    assert len(groups) == 265


def test_json_holds_what_the_page_holds() -> None:
    found = json.loads(json.dumps(claims_json(FINDINGS, PUBLISHED), allow_nan=False))
    rows = [(claim["statement"], claim["paper"]["verdict"], claim["paper"]["numbers"]) for claim in found["claims"]]
    assert rows == list(PAGE.tables[0].rows)
    assert found["averages"] == {"recomputed": 265, "wrong": [row[0] for row in PAGE.tables[1].rows]}


def test_the_report_has_the_page(tmp_path: Path) -> None:
    page = write_report([], EXAMPLE / "store", tmp_path).read_text(encoding="utf-8")
    _, _, section = page.partition('<section class="qt-page" id="audit">')
    assert section and 'href="#audit"' in page
    assert len(re.findall("<tr", section)) == 1 + 10 + 1 + 3
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == markdown.render_markdown(PAGE)
