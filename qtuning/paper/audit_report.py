"""An audit as Markdown, as JSON and as what an HTML page draws. The same audit gives the same bytes."""

from collections.abc import Sequence
from typing import Any

from qtuning.paper.audit import Audit, Ruling
from qtuning.paper.claims import Sign
from qtuning.paper.measured import Row
from qtuning.paper.verdicts import Term, signed
from qtuning.tables.page import Block, Column, Page, Table, check

LISTED = 6
"""Supporting terms that are written out; of more, only their number is."""
SUPPORTS = {"supports": "✓", "contradicts": "✗", "undecided": "?"}
TOLERANCE = (
    "A printed figure stands for every value that rounds to it, so a claimed and a recomputed figure agree where these "
    "ranges touch. The verdicts are computed; the file's are only compared with them."
)
HEADERS = ("claim", "recomputed from the published scores", "claims.yaml says", "from our cells")
ANALOGOUS = "analogous, not evidence"


def audit_markdown(audit: Audit) -> str:
    """A section for reports: the table of verdicts, the arithmetic of each claim, the checks beside them."""
    lines = [f"| {' | '.join(HEADERS)} |", "|---|---|---|---|"]
    for ruling in audit.rulings:
        mark = "" if ruling.agrees else " **(differs)**"
        lines.append(
            f"| {_cell(ruling.claim.text)} | {ruling.published.verdict}{mark} | {ruling.claim.verdict} "
            f"| {_cell(our_verdict(ruling))} |"
        )
    lines += ["", TOLERANCE, ""]
    for ruling in audit.rulings:
        lines += [f"**{ruling.claim.id}**: {ruling.published.verdict}", ""]
        lines += [f"- {line}" for line in details(ruling)]
        lines.append("")
    for heading, found in checks(audit):
        lines += [f"**{heading}**", "", *(f"- {line}" for line in found), *([""] if found else [])]
    return "\n".join(lines).rstrip() + "\n"


def audit_page(audit: Audit) -> Page:
    """The same in pieces, for a page: the table of verdicts. `audit_lists` has what follows it."""
    rows = tuple(
        (
            ruling.claim.text,
            ruling.published.verdict + ("" if ruling.agrees else " (differs)"),
            ruling.claim.verdict,
            our_verdict(ruling),
        )
        for ruling in audit.rulings
    )
    columns = tuple(Column(name, words=True) for name in HEADERS)
    table = Table("verdicts", "", columns, (Block("", rows),), notes=(TOLERANCE,))
    return check(Page("audit", "Published claims, recomputed", (), (table,)))


def audit_lists(audit: Audit) -> list[tuple[str, list[str]]]:
    """Heading and statements: the arithmetic of each claim, then the checks beside them."""
    claims = [(f"{ruling.claim.id}: {ruling.published.verdict}", details(ruling)) for ruling in audit.rulings]
    return claims + checks(audit)


def audit_json(audit: Audit) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "agrees": not audit.differing,
        "differing": [ruling.claim.id for ruling in audit.differing],
        "claims": [_ruling_json(ruling) for ruling in audit.rulings],
        "averages": {
            "recomputed": audit.averages,
            "wrong": [_term_json(term) for term in audit.wrong_averages],
        },
        "duplicate_rows": [[row.describe() for row in rows] for rows in audit.duplicates],
    }


def details(ruling: Ruling) -> list[str]:
    """The arithmetic of a claim, a statement a line: published, then where else, then ours."""
    differences = isinstance(ruling.claim.recipe, Sign)
    lines = [*_written_out(ruling.published.terms, differences), *ruling.published.notes]
    whose = f"ours ({', '.join(ruling.ours.experiments)})" if ruling.ours.experiments else "ours"
    lines += [f"{whose}: {line}" for line in _written_out(ruling.ours.terms, differences)]
    if ruling.ours.reason:
        lines.append(f"{whose}: not testable: {ruling.ours.reason}")
    return lines + [f"ours, {ANALOGOUS}: {text}" for text in ruling.ours.analogous]


def our_verdict(ruling: Ruling) -> str:
    """`holds`, or `not testable: no cells of llama2-7b on wizardlm`."""
    return f"{ruling.ours.verdict}: {ruling.ours.reason}" if ruling.ours.reason else ruling.ours.verdict


def checks(audit: Audit) -> list[tuple[str, list[str]]]:
    """Heading and findings of each check that no claim asks for."""
    wrong, groups = audit.wrong_averages, audit.duplicates
    return [
        (
            f"{len(wrong)} of {audit.averages} printed averages are not the mean of their benchmarks "
            "(by more than rounding explains)",
            [str(term) for term in wrong],
        ),
        (f"{len(groups)} groups of rows have the same score on every benchmark", [_group(rows) for rows in groups]),
    ]


def _written_out(terms: Sequence[Term], differences: bool) -> list[str]:
    """What contradicts or is undecided first, then what supports, or how many do where these are many."""
    others = [term for term in terms if term.result != "supports"]
    supporting = [term for term in terms if term.result == "supports"]
    lines = [f"{SUPPORTS[term.result]} {term}" for term in others]
    if len(supporting) <= LISTED:
        return lines + [f"{SUPPORTS['supports']} {term}" for term in supporting]
    values = [term.value for term in supporting if term.value is not None]
    span = f": differences of {signed(min(values))} to {signed(max(values))}" if differences else ""
    return [*lines, f"{SUPPORTS['supports']} {len(supporting)} of {len(terms)} support it{span}"]


def _group(rows: Sequence[Row]) -> str:
    """`table 2, llama3-8b, random + sparsevlm: 25x50 and 25x70` where only the budget differs."""
    if len({(row.method, row.setting) for row in rows}) == 1:
        first = rows[0]
        return f"{first.where}, {first.model}, {first.method}: {' and '.join(str(row.budget) for row in rows)}"
    return " and ".join(row.describe() for row in rows)


def _ruling_json(ruling: Ruling) -> dict[str, Any]:
    return {
        "id": ruling.claim.id,
        "claim": ruling.claim.text,
        "verdict": ruling.published.verdict,
        "file_says": ruling.claim.verdict,
        "agrees": ruling.agrees,
        "terms": [_term_json(term) for term in ruling.published.terms],
        "notes": list(ruling.published.notes),
        "ours": {
            "verdict": ruling.ours.verdict,
            "reason": ruling.ours.reason,
            "experiments": list(ruling.ours.experiments),
            "terms": [_term_json(term) for term in ruling.ours.terms],
            "analogous": list(ruling.ours.analogous),
        },
    }


def _term_json(term: Term) -> dict[str, Any]:
    return {
        "subject": term.subject,
        "arithmetic": term.arithmetic,
        "comparison": term.comparison,
        "result": term.result,
        "value": None if term.value is None else round(float(term.value), 6),
    }


def _cell(text: str) -> str:
    """Text in a Markdown table."""
    return text.replace("|", "\\|")
