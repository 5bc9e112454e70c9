"""The page of the audit: what a reader finds first, and the same in JSON and in the report."""

import json
import re
from pathlib import Path

import polars as pl
from claim_oracle import lines, write

from qtuning.paper.audit import audit_json, audit_page
from qtuning.paper.claims import check_claims
from qtuning.paper.published import read_published
from qtuning.report.build import write_report
from qtuning.report.page import render_report
from qtuning.report.views import Tips
from qtuning.store.schema import SCHEMAS
from qtuning.tables.markdown import render_markdown

PUBLISHED = read_published()
FINDINGS = check_claims(PUBLISHED)
PAGE = audit_page(FINDINGS, PUBLISHED)


def test_verdicts_come_first_and_the_mistakes_follow() -> None:
    assert PAGE.lead[0].endswith(": 14 contradicted, 17 partly, 15 holds.")
    assert [table.name for table in PAGE.tables] == [
        "claims", "numbers", "deltas", "averages", "copies", "repeats", "margins",
    ]  # fmt: skip
    assert [(block.title, len(block.rows)) for block in PAGE.tables[0].blocks] == [
        ("Contradicted: 14", 14),
        ("Partly: 17", 17),
        ("Holds: 15", 15),
    ]
    assert [finding.ours for finding in FINDINGS] == [None] * 46
    assert [len(list(table.rows)) for table in PAGE.tables[2:]] == [22, 4, 5, 5, 27]
    text = render_markdown(PAGE)
    for told in (
        "2,462 exact, 7 off by 0.01, 6 of the wrong sign, 9 wrong",
        "0.552 x the total time and 0.107 x the total time",
        "WizardLM 0 of 24, MathInstruct 12 of 12, OpenHermes-2.5 12 of 12",
        "table 12, Mistral-7B, 25x70, Q-Tuning",
        "47.12 in table 3; 48.14 in table 8",
    ):
        assert told in text


def test_a_changed_number_changes_the_page(tmp_path: Path) -> None:
    rows = lines()
    for row in rows:
        if row["sample_pruner"] == "q-tuning" and row["token_ratio"] == "70.0" and row["table"] in ("3", "8"):
            row["score"] = "10.00"
    published = read_published(write(tmp_path, scores=rows))
    page = audit_page(check_claims(published), published)
    assert page.lead != PAGE.lead
    names = [table.name for table in page.tables]
    assert "repeats" not in names, "both tables have the same numbers now, so there is nothing to tell"
    deltas = page.tables[names.index("deltas")]
    assert deltas.title == f"{15 + 2 * 6} printed differences are wrong"


def test_json_holds_what_the_page_holds() -> None:
    found = json.loads(json.dumps(audit_json(FINDINGS, PUBLISHED), allow_nan=False))
    rows = {(claim["where"], claim["statement"], claim["paper"]["numbers"]) for claim in found["claims"]}
    assert rows == set(PAGE.tables[0].rows)
    assert (found["differences"]["checked"], len(found["differences"]["wrong"])) == (2484, 22)
    assert (found["averages"]["checked"], len(found["averages"]["wrong"])) == (584, 4)
    assert (len(found["copied_rows"]), len(found["cells_that_differ"])) == (25, 5)
    assert found["selection_share_of_table6"]["12.5x50"] == 0.6591


def test_the_report_has_the_page(tmp_path: Path) -> None:
    for name, schema in SCHEMAS.items():
        pl.DataFrame(schema=schema).write_parquet(tmp_path / f"{name}.parquet")
    page = write_report([], tmp_path, tmp_path).read_text(encoding="utf-8")
    assert 'id="audit"' not in page, "the paper is not the subject"
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == render_markdown(PAGE)
    page = render_report([], Tips(), PAGE)
    _, _, section = page.partition('<section class="experiment" id="audit">')
    assert section and 'href="#audit"' in page
    rows = sum(1 + len(list(table.rows)) + any(c.group for c in table.columns) for table in PAGE.tables)
    assert len(re.findall("<tr", section)) == rows
