"""Ten claims about Q-Tuning, recomputed from the paper's own tables, and from our runs where they can judge them.

Each claim is a function of (published scores, ours or None) that returns a Finding. `check_claims` asks them all and
`claims_page` and `print_claims` draw the answers. docs/audit.md says how a verdict comes about.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from qtuning.paper.published import MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import OurScores, Quantity, Recomputed, Scores, recompute
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.page import Block, Column, Page, Table
from qtuning.tables.terminal import UNBOUNDED

Verdict = Literal["holds", "holds in part", "contradicted", "cannot be judged"]

COLOURS = {"holds": "green", "holds in part": "yellow", "contradicted": "red", "cannot be judged": "dim"}
TOLERANCE = (
    "A printed figure stands for every value that rounds to it. A claimed and a recomputed figure agree where these "
    "ranges touch."
)


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it, in words."""

    verdict: Verdict
    numbers: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.numbers}"


@dataclass(frozen=True)
class Finding:
    """A claim, what the paper's numbers say of it, and what ours say (None where we have none)."""

    statement: str
    paper: Judgement
    ours: Judgement | None


# The claims. Each function is named after what is claimed.


def smollm2_gains_38_percent(published: Published, ours: OurScores | None) -> Finding:
    """Table 2. 12.5% of the data are 25% of the samples and 50% of their tokens."""
    statement = "+38% average improvement over full-data SFT on SmolLM2-1.7B with 12.5% of the training data"
    quantity = Quantity(_q_tuning(published, 2, "smollm2-1.7b", 0.25, 0.5), rival="full", relative=True)
    return _find(statement, published, ours, ("38", quantity))


def llama3_reaches_48_on_gsm8k(published: Published, ours: OurScores | None) -> Finding:
    """Table 2. 35% of the data are 50% of the samples and 70% of their tokens."""
    statement = (
        "LLaMA3-8B reaches 48.07 on GSM8K with 35% of the data, 6.0 above full data and 9.9 above the best baseline"
    )
    row = _q_tuning(published, 2, "llama3-8b", 0.5, 0.7)
    # 48.07 is in the table, but in the row of another model
    notes = []
    for other in published.rows(2):
        if other.q_tuning and other != row and published.scores[other]["gsm8k"] == Decimal("48.07"):
            changes = [recompute(Quantity(other, "gsm8k", rival), published, published) for rival in ("full", "best")]
            notes.append(f"48.07 is that of {', '.join(change.text for change in changes)}")
    return _find(statement, published, ours, ("48.07", Quantity(row, "gsm8k")), notes=notes)


def llama2_reaches_36_5(published: Published, ours: OurScores | None) -> Finding:
    """Table 1, average."""
    quantity = Quantity(_q_tuning(published, 1, "llama2-7b", 0.25, 0.5))
    return _find("25% samples, 50% tokens: LLaMA2-7B 36.5", published, ours, ("36.5", quantity))


def mistral_leads_by_1_63(published: Published, ours: OurScores | None) -> Finding:
    """Table 1, average."""
    statement = "25% samples, 50% tokens: Mistral-7B 1.63 above the strongest baseline"
    quantity = Quantity(_q_tuning(published, 1, "mistral-7b", 0.25, 0.5), rival="best")
    return _find(statement, published, ours, ("1.63", quantity))


def llama2_leads_by_3_3(published: Published, ours: OurScores | None) -> Finding:
    """Table 1, average."""
    statement = "12.5% samples, 50% tokens: LLaMA2-7B 3.3 above the best baseline"
    quantity = Quantity(_q_tuning(published, 1, "llama2-7b", 0.125, 0.5), rival="best")
    return _find(statement, published, ours, ("3.3", quantity))


def mistral_leads_by_2_7(published: Published, ours: OurScores | None) -> Finding:
    """Table 1, average."""
    statement = "12.5% samples, 50% tokens: Mistral-7B 2.7 above the best baseline"
    quantity = Quantity(_q_tuning(published, 1, "mistral-7b", 0.125, 0.5), rival="best")
    return _find(statement, published, ours, ("2.7", quantity))


def table2_averages_at_35_percent(published: Published, ours: OurScores | None) -> Finding:
    """Three averages of table 2, at 50% of the samples and 70% of their tokens."""
    statement = "Averaged over GSM8K and MATH: 21.5 LLaMA3-8B, 26.6 Mistral-7B, 11.8 SmolLM2-1.7B"
    claimed = {"llama3-8b": "21.5", "mistral-7b": "26.6", "smollm2-1.7b": "11.8"}
    quantities = [(value, Quantity(_q_tuning(published, 2, model, 0.5, 0.7))) for model, value in claimed.items()]
    return _find(statement, published, ours, *quantities)


def mistral_averages_are_means(published: Published, ours: OurScores | None) -> Finding:
    """Table 2: every printed average of Mistral-7B against the mean of its benchmarks."""
    rows = published.rows(2, "mistral-7b")
    wrong = [row for row in published.wrong_averages() if row in rows]
    numbers = "; ".join([f"{len(rows) - len(wrong)} of {len(rows)} are", *_tell_averages(published, wrong)])
    ruling = Judgement("contradicted" if wrong else "holds", numbers)
    computed = Judgement("cannot be judged", "our averages are computed, not typed")
    return Finding("Mistral-7B: each average is the mean of its two benchmarks", ruling, computed if ours else None)


def sparsevlm_rows_differ(published: Published, ours: OurScores | None) -> Finding:
    """Table 2: the rows of each sample pruner with SparseVLM, at 25% of the samples, for each model."""
    starts = [row for row in published.rows(2) if row.token_pruner == "sparsevlm" and row.budget == "25x50"]
    pairs = [(row, published.row(2, row.model, 0.25, 0.7, *row.place[2:])) for row in starts]

    def judge(scores: Scores) -> Judgement:
        same = [scores.same_scores(*pair) for pair in pairs]
        numbers = f"{same.count(True)} of {len(pairs)} pairs of rows have the same score on every benchmark"
        if missing := same.count(None):
            return Judgement("cannot be judged", f"{numbers}, {missing} pairs are missing")
        return Judgement(_verdict_of_several(["contradicted" if each else "holds" for each in same]), numbers)

    return _ask("SparseVLM rows differ between 50% and 70% tokens", published, ours, judge)


def q_tuning_beats_full_data(published: Published, ours: OurScores | None) -> Finding:
    """Tables 1 and 2: every average of Q-Tuning against that of the full data."""
    rows = [row for table in (1, 2) for row in published.rows(table) if row.q_tuning]

    def judge(scores: Scores) -> Judgement:
        found = [recompute(Quantity(row, rival="full"), scores, published) for row in rows]
        above = [each for each in found if not isinstance(each.range, str) and each.range[0] > 0]
        below = [each for each in found if not isinstance(each.range, str) and each.range[1] < 0]
        values = [each.value for each in above if each.value is not None]
        span = f", by {min(values):.2f} to {max(values):.2f} points" if values else ""
        others = dict.fromkeys(each.text for each in found if each not in above)
        numbers = "; ".join([f"{len(above)} of {len(rows)} averages are above those of the full data{span}", *others])
        verdict: Verdict = "holds" if len(above) == len(rows) else "cannot be judged"
        return Judgement("contradicted" if below else verdict, numbers)

    return _ask("first dynamic pruning to consistently outperform full-data training", published, ours, judge, rows)


CLAIMS = (
    smollm2_gains_38_percent,
    llama3_reaches_48_on_gsm8k,
    llama2_reaches_36_5,
    mistral_leads_by_1_63,
    llama2_leads_by_3_3,
    mistral_leads_by_2_7,
    table2_averages_at_35_percent,
    mistral_averages_are_means,
    sparsevlm_rows_differ,
    q_tuning_beats_full_data,
)


def check_claims(published: Published, ours: OurScores | None = None) -> list[Finding]:
    """All claims, recomputed."""
    return [claim(published, ours) for claim in CLAIMS]


def _q_tuning(published: Published, table: int, model: str, samples: float, tokens: float) -> PaperRow:
    return published.row(table, model, samples, tokens, "q-tuning", "q-tuning")


def _find(
    statement: str,
    published: Published,
    ours: OurScores | None,
    *quantities: tuple[str, Quantity],
    notes: Sequence[str] = (),
) -> Finding:
    """Judge a claim that names values. quantities: (the claimed value, what it is the value of)."""

    def judge(scores: Scores) -> Judgement:
        found = [_compare(claimed, recompute(quantity, scores, published)) for claimed, quantity in quantities]
        texts = dict.fromkeys(each.numbers for each in found)
        return Judgement(_verdict_of_several([each.verdict for each in found]), "; ".join(texts))

    rows = [quantity.row for _, quantity in quantities if quantity.benchmark == AVERAGE]
    return _ask(statement, published, ours, judge, rows, notes)


def _ask(
    statement: str,
    published: Published,
    ours: OurScores | None,
    judge: Callable[[Scores], Judgement],
    rows: Sequence[PaperRow] = (),
    notes: Sequence[str] = (),
) -> Finding:
    """Put a claim to the paper's scores and to ours. rows: whose averages it rests on. notes: on the paper's."""
    found = judge(published)
    wrong = [row for row in published.wrong_averages() if row in rows]
    numbers = "; ".join([found.numbers, *notes, *_tell_averages(published, wrong)])
    return Finding(statement, Judgement(found.verdict, numbers), judge(ours) if ours else None)


def _tell_averages(published: Published, wrong: Iterable[PaperRow]) -> list[str]:
    return [
        f"the printed average {published.scores[row][AVERAGE]} of {MODEL_LABEL[row.model]} {row.budget} should be "
        f"{published.exact_average(row):.3f}"
        for row in wrong
    ]


def _compare(claimed: str, found: Recomputed) -> Judgement:
    """A claimed value beside the recomputed one; the digits of the claim say how exact it is."""
    if found.value is None or isinstance(found.range, str):
        return Judgement("cannot be judged", found.text)
    half = Decimal(5).scaleb(-len(claimed.partition(".")[2]) - 1)
    (low, high), least, most = found.range, Decimal(claimed) - half, Decimal(claimed) + half
    if high < least or low > most:
        gap = float(claimed) - found.value
        side = "too high" if gap > 0 else "too low"
        return Judgement("contradicted", f"{found.text}; claimed {claimed}, {abs(gap):.2f} {side}")
    # a range that holds zero as well would agree with no effect at all
    if low <= 0 <= high:
        return Judgement("cannot be judged", f"{found.text}, which cannot be told from zero")
    return Judgement("holds", found.text)


def _verdict_of_several(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim that names several things holds in part where some of them hold."""
    if "cannot be judged" in verdicts:
        return "cannot be judged"
    return verdicts[0] if len(set(verdicts)) == 1 else "holds in part"


def claims_page(findings: Sequence[Finding], published: Published) -> Page:
    """A table of the claims, and one of the printed averages that are wrong."""
    verdicts = [finding.paper.verdict for finding in findings]
    counts = [f"{verdict} {verdicts.count(verdict)}" for verdict in get_args(Verdict) if verdict in verdicts]
    lead = [f"{len(findings)} claims, recomputed from the numbers that the paper prints: {', '.join(counts)}."]
    headers = ["Claim", "Verdict", "The paper's numbers", "Our runs"]
    rows: list[tuple[str, ...]] = [
        (each.statement, each.paper.verdict, each.paper.numbers, str(each.ours or "")) for each in findings
    ]
    if not any(each.ours for each in findings):
        lead.append("We have no runs of the paper's models on its train sets, so ours judge none of them.")
        headers, rows = headers[:3], [row[:3] for row in rows]
    columns = tuple(Column(name, words=True) for name in headers)
    tables = (Table("claims", "", columns, (Block("", tuple(rows)),), notes=(TOLERANCE,)), _averages_table(published))
    return Page("audit", "Published claims, recomputed", tuple(lead), tables)


def print_claims(findings: Sequence[Finding], published: Published) -> None:
    """Print that page, with verdicts in colour."""
    console = Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)
    page = claims_page(findings, published)
    for text in page.lead:
        console.print(text, markup=False, highlight=False)
    for table in page.tables:
        drawn = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_lines=True)
        for column in table.columns:
            drawn.add_column(column.name, no_wrap=column.name == "Verdict", justify="left" if column.words else "right")
        for row in table.rows:
            drawn.add_row(*(Text(str(field), style=COLOURS.get(str(field), "")) for field in row))
        console.print(f"\n{table.title}" if table.title else "", style="bold", markup=False, highlight=False)
        console.print(drawn)
        for note in table.notes:
            console.print(note, style="dim", markup=False, highlight=False)


def _averages_table(published: Published) -> Table:
    rows = []
    for row in published.wrong_averages():
        printed, exact = published.scores[row][AVERAGE], published.exact_average(row)
        rows.append((str(row), f"{printed:.2f}", f"{exact:.3f}", f"{printed - exact:+.3f}"))
    columns = (Column("Row", words=True), *(Column(name) for name in ("Printed", "Mean", "Off by")))
    title = f"{len(rows)} of {len(published.scores)} printed averages are not the mean of their benchmarks"
    return Table("averages", title, columns, (Block("", tuple(rows)),), notes=("By more than rounding explains.",))


def claims_json(findings: Sequence[Finding], published: Published) -> dict[str, Any]:
    """The findings, and which printed averages are wrong."""
    return {
        "claims": [asdict(finding) for finding in findings],
        "averages": {"recomputed": len(published.scores), "wrong": list(map(str, published.wrong_averages()))},
    }
