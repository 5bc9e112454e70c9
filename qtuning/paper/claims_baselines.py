"""The claims of figures 3 and 4 and of table 3: the stronger baselines, the smallest budgets, the largest model."""

from decimal import Decimal

from qtuning.paper.arithmetic import copies_in_other_tables
from qtuning.paper.claims_results import q_tuning_rows
from qtuning.paper.judge import Claims, Judgement, agrees, figures, ours, tally, verdict_of
from qtuning.paper.published import PaperRow, Published
from qtuning.paper.recompute import Scores, recompute
from qtuning.statistics.summary import AVERAGE

CLAIMS = Claims()

WIZARDLM = ("llama2-7b", "mistral-7b")
STRONGER = {13: ("alpagasus", "deita", "ds2", "less"), 14: ("rho-1", "token-cleaning")}
"""Table -> the baselines that it adds: sample pruners, token pruners."""


def stronger(published: Published, table: int, model: str, at_50: bool = False) -> list[PaperRow]:
    """The rows of these baselines at 12.5% of the samples; at_50: only those at 50% of the tokens."""
    return [
        row
        for row in published.rows(table, model)
        if {row.sample_pruner, row.token_pruner} & set(STRONGER[table])
        and row.sample_ratio == Decimal("12.5")
        and (row.token_ratio == 50 or not at_50)
    ]


@CLAIMS("fig. 3", "+3.44 and +2.00 over the strongest sample baseline at 12.5x50")
def leads_sample_baselines(scores: Scores, published: Published) -> Judgement:
    """Over the best of the four, whatever its share of tokens; and over the best at Q-Tuning's own budget."""
    rows = [published.q_tuning(13, model, 0.125, 0.5) for model in WIZARDLM]
    found = [
        recompute(scores, published, row, rival=stronger(published, 13, row.model, at_50))
        for at_50 in (False, True)
        for row in rows
    ]
    return figures(["3.44", "2.00"] * 2, found)


@CLAIMS("fig. 3", "+3.92 and +3.35 over the best token baseline at 12.5x50")
def leads_token_baselines(scores: Scores, published: Published) -> Judgement:
    """Over the best of the two, and over the best when random + random, which table 14 has too, is counted."""
    rows = [published.q_tuning(14, model, 0.125, 0.5) for model in WIZARDLM]
    found = []
    for row in rows:
        rivals = stronger(published, 14, row.model)
        random = published.row(14, row.model, 0.125, 0.5, "random", "random")
        found += [recompute(scores, published, row, rival=each) for each in (rivals, [*rivals, random])]
    return figures(["3.92", "3.92", "3.35", "3.35"], found)


@CLAIMS("fig. 3", "These are the stronger baselines")
def baselines_are_stronger(scores: Scores, published: Published) -> Judgement:
    """The best of them at 12.5% of the samples, with 50 or 100% of the tokens, against the best of table 1's 16."""
    checks, texts = [], []
    for model in WIZARDLM:
        row = published.q_tuning(1, model, 0.125, 0.5)
        old = recompute(scores, published, row, rival="best")
        added = [each for table in STRONGER for each in stronger(published, table, model)]
        new = recompute(scores, published, row, rival=added)
        # Q-Tuning leads the stronger one by less
        unknown = isinstance(old.range, str) or isinstance(new.range, str)
        checks.append(None if unknown else new.value < old.value)
        texts += [old.text, new.text]
    return verdict_of(checks, *texts)


@CLAIMS("fig. 3", "The full data is the upper bound")
def full_data_is_the_bound(scores: Scores, published: Published) -> Judgement:
    """No average of Q-Tuning at 12.5x50 is above it."""
    found = [
        recompute(scores, published, published.q_tuning(13, model, 0.125, 0.5), rival="full") for model in WIZARDLM
    ]
    return verdict_of([None if each.sign is None else each.sign <= 0 for each in found], *(each.text for each in found))


@CLAIMS("table 3", "Averages of 46.23 to 46.92, above the full data's 45.84, with at most 8.75% of the data")
def small_budgets(scores: Scores, published: Published) -> Judgement:
    """The lowest and the highest average, each against full data, the largest budget; and no row is another one's."""
    rows = q_tuning_rows(published, (3,))
    found = [recompute(scores, published, row) for row in rows]
    values = sorted(found, key=lambda each: each.value)
    full = tally(scores, published, rows, [AVERAGE], "full", "averages against full data")
    most_data = max(row.sample_ratio * row.token_ratio / 100 for row in rows)
    checks = [agrees("46.23", values[0]), agrees("46.92", values[-1]), *full.checks, most_data == Decimal("8.75")]
    texts = [f"{values[0].value:.2f} to {values[-1].value:.2f}", full.text, f"at most {most_data:.2f}% of the data"]
    if not ours(scores):
        copies = [text for row in rows for text in copies_in_other_tables(published, row)]
        checks.append(not copies)
        texts += copies
    return verdict_of(checks, *texts)


@CLAIMS("table 3", "Per-task accuracy stays strong")
def small_budgets_per_task(scores: Scores, published: Published) -> Judgement:
    """Each benchmark at each of the four budgets: not below the full data."""
    rows, names = q_tuning_rows(published, (3,)), published.benchmarks(3)
    found = tally(scores, published, rows, names, "full", "against full data", or_equal=True)
    each = [recompute(scores, published, row, name, "full") for row in rows for name in names]
    ends = (min(each, key=lambda one: one.value), max(each, key=lambda one: one.value))
    return verdict_of(found.checks, found.text, *(one.text for one in ends))


@CLAIMS("table 3", "Retention is samples x tokens", of_scores=False)
def retention(scores: Scores, published: Published) -> Judgement:
    """By Algorithm 1 a kept Q2 sample keeps r_token of its tokens and a Q4 sample all.

    Two checks a row: the product is kept when all samples are of Q2; and when all are of Q4.
    """
    rows = q_tuning_rows(published, (3,))
    kept = [[_kept(row, whole) for whole in (0, 1)] for row in rows]
    checks = [
        each == row.sample_ratio * row.token_ratio / 100 for row, ends in zip(rows, kept, strict=True) for each in ends
    ]
    told = (f"{row.budget}: {low:f}% to {high:f}%" for row, (low, high) in zip(rows, kept, strict=True))
    return verdict_of(
        checks, "by Algorithm 1 between samples x tokens (all Q2) and samples (all Q4): " + ", ".join(told)
    )


def _kept(row: PaperRow, whole: int) -> Decimal:
    """Share of the data that is kept, in per cent, when the share `whole` of the kept samples keeps all tokens."""
    return (row.sample_ratio * (whole + (1 - whole) * row.token_ratio / 100)).normalize()


@CLAIMS("fig. 4", "Qwen3-8B matches or exceeds full data at 12.5x50 and 12.5x70")
def qwen_matches_full(scores: Scores, published: Published) -> Judgement:
    """Ten scores; where the model without training is better still is told."""
    rows, names = [published.q_tuning(10, "qwen3-8b", 0.125, tokens) for tokens in (0.5, 0.7)], published.benchmarks(10)
    found = tally(scores, published, rows, names, "full", "against full data", or_equal=True)
    against = [recompute(scores, published, row, name, "zero-shot") for row in rows for name in names]
    return verdict_of(found.checks, found.text, *(each.text for each in against if each.sign == -1))
