"""Ten claims about Q-Tuning, recomputed from the paper's own tables, and from our runs where they can judge them.

FIGURES are the claims that name figures, OTHERS the rest. `check_claims` puts all of them to the paper's scores and to
ours; `claims_page` and `print_claims` draw the answers. docs/audit.md says how a verdict comes about.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from qtuning.paper.published import MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import OurScores, Recomputed, Scores, recompute
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.page import Block, Column, Page, Table
from qtuning.tables.terminal import open_console

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


@dataclass(frozen=True)
class Finding:
    """A claim, what the paper's numbers say of it, and what ours say (None where we have none)."""

    statement: str
    paper: Judgement
    ours: Judgement | None


@dataclass(frozen=True)
class Figure:
    """A claimed value of Q-Tuning's score, or of its change from a rival (see `recompute`), at shares of the data.

    claimed: as printed, since its digits say how exact it is.
    """

    claimed: str
    table: int
    model: str
    samples: float
    tokens: float
    benchmark: str = AVERAGE
    rival: Literal["full", "best"] | None = None
    relative: bool = False


def judge_figures(figures: Sequence[Figure], scores: Scores, published: Published) -> Judgement:
    """A claim that names values; it holds in part where some of them do."""
    judgements: list[Judgement] = []
    notes, averages = [], []
    for figure in figures:
        row = published.row(figure.table, figure.model, figure.samples, figure.tokens, "q-tuning", "q-tuning")
        found = recompute(scores, published, row, figure.benchmark, figure.rival, figure.relative)
        judgements.append(_compare(figure.claimed, found))
        if figure.benchmark == AVERAGE:
            averages.append(row)
        if scores is published and figure.rival is None and judgements[-1].verdict == "contradicted":
            notes += _whose_figure(figure, published)
    texts = dict.fromkeys(each.numbers for each in judgements)
    numbers = _join([*texts, *notes], averages, scores)
    return Judgement(_verdict_of_several([each.verdict for each in judgements]), numbers)


def _whose_figure(figure: Figure, published: Published) -> list[str]:
    """The other rows of Q-Tuning that have a claimed score, with what Q-Tuning gains there."""
    notes = []
    for row in published.rows(figure.table):
        if row.q_tuning and published.scores[row][figure.benchmark] == Decimal(figure.claimed):
            gains = (recompute(published, published, row, figure.benchmark, rival).text for rival in ("full", "best"))
            notes.append(f"{figure.claimed} is that of {', '.join(gains)}")
    return notes


def _compare(claimed: str, found: Recomputed) -> Judgement:
    if isinstance(found.range, str):
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
    if "cannot be judged" in verdicts:
        return "cannot be judged"
    return verdicts[0] if len(set(verdicts)) == 1 else "holds in part"


def _join(texts: Sequence[str], averages: Collection[PaperRow], scores: Scores) -> str:
    """The numbers behind a verdict; of the paper's also which of the printed `averages` are wrong."""
    if isinstance(scores, OurScores):
        return "; ".join(texts)
    told = [
        f"the printed average {scores.scores[row][AVERAGE]} of {MODEL_LABEL[row.model]} {row.budget} should be "
        f"{scores.exact_average(row):.3f}"
        for row in scores.wrong_averages()
        if row in averages
    ]
    return "; ".join([*texts, *told])


def judge_averages(scores: Scores, published: Published) -> Judgement:
    """Table 2: every printed average of Mistral-7B against the mean of its benchmarks."""
    if isinstance(scores, OurScores):
        return Judgement("cannot be judged", "our averages are computed, not typed")
    rows = scores.rows(2, "mistral-7b")
    wrong = sum(row in rows for row in scores.wrong_averages())
    numbers = _join([f"{len(rows) - wrong} of {len(rows)} are"], rows, scores)
    return Judgement("contradicted" if wrong else "holds", numbers)


def judge_sparsevlm(scores: Scores, published: Published) -> Judgement:
    """Table 2: the rows of each sample pruner with SparseVLM, at 25% of the samples, for each model."""
    starts = [row for row in published.rows(2) if row.token_pruner == "sparsevlm" and row.budget == "25x50"]
    verdicts: list[Verdict] = []
    for row in starts:
        pair = (row, published.row(2, row.model, 0.25, 0.7, *row.place[2:]))
        values, others = ([scores.values(each, name) for name in published.benchmarks(2)] for each in pair)
        if any(isinstance(each, str) for each in values + others):
            verdicts.append("cannot be judged")
        else:
            verdicts.append("contradicted" if values == others else "holds")
    same, missing = verdicts.count("contradicted"), verdicts.count("cannot be judged")
    numbers = f"{same} of {len(verdicts)} pairs of rows have the same score on every benchmark"
    return Judgement(_verdict_of_several(verdicts), f"{numbers}, {missing} pairs are missing" if missing else numbers)


def judge_gains(scores: Scores, published: Published) -> Judgement:
    """Tables 1 and 2: every average of Q-Tuning against that of the full data."""
    rows = [row for table in (1, 2) for row in published.rows(table) if row.q_tuning]
    found = [recompute(scores, published, row, rival="full") for row in rows]
    above = [each for each in found if not isinstance(each.range, str) and each.range[0] > 0]
    below = [each for each in found if not isinstance(each.range, str) and each.range[1] < 0]
    values = [each.value for each in above]
    span = f", by {min(values):.2f} to {max(values):.2f} points" if values else ""
    others = dict.fromkeys(each.text for each in found if each not in above)
    counted = f"{len(above)} of {len(rows)} averages are above those of the full data{span}"
    verdict: Verdict = "holds" if len(above) == len(rows) else "cannot be judged"
    return Judgement("contradicted" if below else verdict, _join([counted, *others], rows, scores))


FIGURES: dict[str, tuple[Figure, ...]] = {
    # 12.5% of the data are 25% of the samples and 50% of their tokens
    "+38% average improvement over full-data SFT on SmolLM2-1.7B with 12.5% of the training data": (
        Figure("38", 2, "smollm2-1.7b", 0.25, 0.5, rival="full", relative=True),
    ),
    # 35% of the data are 50% of the samples and 70% of their tokens
    "LLaMA3-8B reaches 48.07 on GSM8K with 35% of the data, 6.0 above full data and 9.9 above the best baseline": (
        Figure("48.07", 2, "llama3-8b", 0.5, 0.7, "gsm8k"),
    ),
    "25% samples, 50% tokens: LLaMA2-7B 36.5": (Figure("36.5", 1, "llama2-7b", 0.25, 0.5),),
    "25% samples, 50% tokens: Mistral-7B 1.63 above the strongest baseline": (
        Figure("1.63", 1, "mistral-7b", 0.25, 0.5, rival="best"),
    ),
    "12.5% samples, 50% tokens: LLaMA2-7B 3.3 above the best baseline": (
        Figure("3.3", 1, "llama2-7b", 0.125, 0.5, rival="best"),
    ),
    "12.5% samples, 50% tokens: Mistral-7B 2.7 above the best baseline": (
        Figure("2.7", 1, "mistral-7b", 0.125, 0.5, rival="best"),
    ),
    "Averaged over GSM8K and MATH: 21.5 LLaMA3-8B, 26.6 Mistral-7B, 11.8 SmolLM2-1.7B": (
        Figure("21.5", 2, "llama3-8b", 0.5, 0.7),
        Figure("26.6", 2, "mistral-7b", 0.5, 0.7),
        Figure("11.8", 2, "smollm2-1.7b", 0.5, 0.7),
    ),
}
OTHERS: dict[str, Callable[[Scores, Published], Judgement]] = {
    "Mistral-7B: each average is the mean of its two benchmarks": judge_averages,
    "SparseVLM rows differ between 50% and 70% tokens": judge_sparsevlm,
    "first dynamic pruning to consistently outperform full-data training": judge_gains,
}


def check_claims(published: Published, ours: OurScores | None = None) -> list[Finding]:
    """All claims, recomputed."""
    judges = {statement: partial(judge_figures, figures) for statement, figures in FIGURES.items()} | OTHERS
    return [
        Finding(statement, judge(published, published), judge(ours, published) if ours else None)
        for statement, judge in judges.items()
    ]


def claims_page(findings: Sequence[Finding], published: Published) -> Page:
    """A table of the claims, and one of the printed averages that are wrong."""
    verdicts = [finding.paper.verdict for finding in findings]
    counts = [f"{verdict} {verdicts.count(verdict)}" for verdict in get_args(Verdict) if verdict in verdicts]
    lead = [f"{len(findings)} claims, recomputed from the numbers that the paper prints: {', '.join(counts)}."]
    headers = ["Claim", "Verdict", "The paper's numbers"]
    rows: list[tuple[str, ...]] = [(each.statement, each.paper.verdict, each.paper.numbers) for each in findings]
    ours = [f"{each.ours.verdict}: {each.ours.numbers}" for each in findings if each.ours]
    if ours:
        headers, rows = [*headers, "Our runs"], [(*row, text) for row, text in zip(rows, ours, strict=True)]
    else:
        lead.append("We have no runs of the paper's models on its train sets, so ours judge none of them.")
    columns = tuple(Column(name, words=True) for name in headers)
    tables = (Table("claims", "", columns, (Block("", tuple(rows)),), notes=(TOLERANCE,)), _averages_table(published))
    return Page("audit", "Published claims, recomputed", tuple(lead), tables)


def _averages_table(published: Published) -> Table:
    rows = []
    for row in published.wrong_averages():
        printed, exact = published.scores[row][AVERAGE], published.exact_average(row)
        rows.append((str(row), f"{printed:.2f}", f"{exact:.3f}", f"{printed - exact:+.3f}"))
    columns = (Column("Row", words=True), *(Column(name) for name in ("Printed", "Mean", "Off by")))
    title = f"{len(rows)} of {len(published.scores)} printed averages are not the mean of their benchmarks"
    return Table("averages", title, columns, (Block("", tuple(rows)),), notes=("By more than rounding explains.",))


def print_claims(page: Page) -> None:
    """Print that page, with verdicts in colour."""
    say = partial(open_console().print, markup=False, highlight=False)
    for text in page.lead:
        say(text)
    for table in page.tables:
        drawn = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", show_lines=True)
        for column in table.columns:
            drawn.add_column(column.name, no_wrap=column.name == "Verdict", justify="left" if column.words else "right")
        for row in table.rows:
            drawn.add_row(*(Text(str(field), style=COLOURS.get(str(field), "")) for field in row))
        say(f"\n{table.title}" if table.title else "", style="bold")
        say(drawn)
        for note in table.notes:
            say(note, style="dim")


def claims_json(findings: Sequence[Finding], published: Published) -> dict[str, Any]:
    """The findings, and which printed averages are wrong."""
    return {
        "claims": [asdict(finding) for finding in findings],
        "averages": {"recomputed": len(published.scores), "wrong": list(map(str, published.wrong_averages()))},
    }
