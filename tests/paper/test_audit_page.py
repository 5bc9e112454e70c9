"""The audit on the report's page: a table and lists, with the words of audit.md, and no markup of Markdown."""

import re
from html import unescape
from pathlib import Path

from qtuning.paper.audit import audit
from qtuning.paper.audit_report import audit_lists, audit_markdown, audit_page, details
from qtuning.paper.claims import read_claims
from qtuning.paper.reference import read_published
from qtuning.report import write_report

EXAMPLE = Path(__file__).parents[2] / "docs/example/store"
PUBLISHED = read_published()
AUDIT = audit(PUBLISHED, read_claims(PUBLISHED))


def texts(tag: str, page: str) -> list[str]:
    """What stands inside each element of one kind."""
    return [unescape(text) for text in re.findall(f"<{tag}(?: [^>]*)?>(.*?)</{tag}>", page, flags=re.DOTALL)]


def test_the_page_holds_what_the_markdown_holds() -> None:
    (table,) = audit_page(AUDIT).tables
    text = audit_markdown(AUDIT)
    assert len(list(table.rows)) == len(AUDIT.rulings)
    for row in table.rows:
        assert f"| {' | '.join(map(str, row))} |" in text
    lists = audit_lists(AUDIT)
    assert [statements for _, statements in lists[: len(AUDIT.rulings)]] == [details(r) for r in AUDIT.rulings]
    assert all(f"- {statement}\n" in text for _, statements in lists for statement in statements)


def test_the_report_has_a_table_and_lists_of_it(tmp_path: Path) -> None:
    page = write_report([], EXAMPLE, tmp_path).read_text(encoding="utf-8")
    _, _, section = page.partition('<section class="qt-page" id="audit">')
    assert section and 'href="#audit"' in page
    assert "<pre" not in page and "**" not in section and "|---" not in section
    assert len(texts("tr", section)) == 1 + len(AUDIT.rulings)
    headings = [heading for heading, _ in audit_lists(AUDIT)]
    assert texts("h2", section) == headings
    written = (tmp_path / "audit.md").read_text(encoding="utf-8")
    listed = [line.removeprefix("- ") for line in written.splitlines() if line.startswith("- ")]
    assert texts("li", section)[1:] == listed, "the first is the note below the table"
    # one statistic on the whole page, and none that a score cannot have
    ranges = re.findall(r"95% interval over seeds and items (\S+) to (\S+) \(2 seeds\)", section)
    assert ranges and all(-100 <= float(low) <= float(high) <= 100 for low, high in ranges)
    assert (
        "25x70, Q-Tuning, avg: 33.83 - 41.14 (full data) = -7.31; below, 95% interval over seeds and items " in section
    )
    assert ("-12.060", "-2.550") in ranges
