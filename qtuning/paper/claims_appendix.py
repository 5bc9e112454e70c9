"""The claims of figure 7, of section 4.3 (table 6), and of the appendices B.4 and C.2."""

from decimal import Decimal
from itertools import pairwise
from math import prod

from qtuning.paper.arithmetic import chance_of_means, item_counts, selection_shares
from qtuning.paper.claims_results import QWEN, q_tuning_rows
from qtuning.paper.judge import Claims, Judgement, agrees, figures, ours, tally, together, verdict_of
from qtuning.paper.published import PaperRow, Published
from qtuning.paper.recompute import Rival, Scores, recompute
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.labels import benchmark_label

CLAIMS = Claims()


@CLAIMS("fig. 7", "Redundant tokens more among the pruned, answers and numbers more among the kept", of_scores=False)
def what_is_pruned(scores: Scores, published: Published) -> Judgement:
    """Five categories; which run of numbers is the pruned one is inferred, and no spread is given."""
    more_pruned = ("boilerplate-templates", "markdown-formatting", "content-non-answer")
    more_kept = ("gold-answer-spans", "numbers-symbols")
    shares = published.figure7
    checks = [shares[name]["pruned"] > shares[name]["kept"] for name in more_pruned]
    checks += [shares[name]["kept"] > shares[name]["pruned"] for name in more_kept]
    texts = [f"{name} {shares[name]['pruned']} / {shares[name]['kept']}" for name in (*more_pruned, *more_kept)]
    return verdict_of(checks, "per cent of the pruned / of the kept: " + ", ".join(texts))


@CLAIMS("sec. 4.3", "28% less time, 0.0625 x the compute, 27% of the memory", of_scores=False)
def efficiency(scores: Scores, published: Published) -> Judgement:
    """Table 6: 12.5x50 against the full data. The compute is a product, not a measurement."""
    small, full = published.efficiency[0], published.efficiency[-1]
    saved, compute = 100 * (1 - small.total / full.total), small.sample_ratio * small.token_ratio / 10_000
    return verdict_of(
        [round(saved) == 28, compute == Decimal("0.0625"), small.peak_memory == 27],
        f"({full.total} - {small.total}) / {full.total} = {saved:.1f}%",
        f"{small.sample_ratio / 100} x {small.token_ratio / 100} = {compute.normalize()}, a product, not measured",
        f"memory {small.peak_memory}%",
    )


@CLAIMS("sec. 4.3", "Screening costs little", of_scores=False)
def screening_is_modest(scores: Scores, published: Published) -> Judgement:
    """Table 6: less than half of the time at each budget."""
    pruned = [row for row in published.efficiency if row.setting == "pruned"]
    shares = selection_shares(published)
    texts = [
        f"{row.selection} of {row.total} minutes = {100 * share.both:.0f}%"
        for row, share in zip(pruned, shares, strict=True)
    ]
    return verdict_of([share.both < Decimal("0.5") for share in shares], *texts)


@CLAIMS("app. B.4", "Random pruning is a mean of five runs", of_scores=False)
def random_is_a_mean(scores: Scores, published: Published) -> Judgement:
    """A mean of five runs is seldom a possible score of one; whether all are by chance is the check, at 1 in 1000."""
    found = item_counts(published, random_only=True)
    means = {each.benchmark: chance_of_means(each.items, runs=5) for each in found}
    chance = prod(means[each.benchmark] ** each.cells for each in found)
    cells, single = sum(each.cells for each in found), sum(each.possible for each in found)
    counted = ", ".join(
        f"{benchmark_label(each.benchmark)} {each.possible} of {each.cells} (a mean: {means[each.benchmark]:.2f})"
        for each in found
    )
    text = f"{single} of {cells} random + random scores are k of n of a single run: {counted}"
    return verdict_of([single < cells or chance > 0.001], text, f"all of them by chance: {chance:.0e}")


@CLAIMS("app. C.2", "60.19 is 4.7 over full data, 58.80 nearly 3.9 over InfoBatch + random, 59.20 3.75 over full data")
def qwen_margins(scores: Scores, published: Published) -> Judgement:
    """Qwen3-8B at 12.5x50, 25x50 and 25x70."""
    rows = [published.q_tuning(10, "qwen3-8b", 0.125, 0.5), published.q_tuning(10, "qwen3-8b", 0.25, 0.5)]
    rows.append(published.q_tuning(11, "qwen3-8b", 0.25, 0.7))
    infobatch = published.row(10, "qwen3-8b", 0.25, 0.5, "infobatch", "random")
    rivals: list[Rival | list[PaperRow]] = ["full", [infobatch], "full"]
    gains = [recompute(scores, published, row, rival=rival) for row, rival in zip(rows, rivals, strict=True)]
    means = [recompute(scores, published, row) for row in rows]
    return figures(["4.7", "3.9", "3.75", "60.19", "58.80", "59.20"], [*gains, *means])


@CLAIMS("app. C.2", "50x50: 3 to 6 points over every baseline")
def qwen_at_50x50(scores: Scores, published: Published) -> Judgement:
    """One check: the smallest and the largest gain are the ends of the range."""
    row = published.q_tuning(11, "qwen3-8b", 0.5, 0.5)
    rivals: tuple[Rival, ...] = ("best", "weakest")
    ends = [recompute(scores, published, row, rival=rival) for rival in rivals]
    checks = [agrees(claimed, each) for claimed, each in zip(("3", "6"), ends, strict=True)]
    return verdict_of([together(checks)], *(each.text for each in ends))


@CLAIMS("app. C.2", "Keeps improving with the budget")
def qwen_improves(scores: Scores, published: Published) -> Judgement:
    """Two readings: the average grows with the share of samples; it stays above every baseline at each budget."""
    rows = q_tuning_rows(published, QWEN)
    best = tally(scores, published, rows, [AVERAGE], "best", "against the best of 16")
    checks, texts = [*best.checks], []
    for tokens in (50, 70):
        series = sorted((row for row in rows if row.token_ratio == tokens), key=lambda row: row.sample_ratio)
        found = [recompute(scores, published, row) for row in series]
        for smaller, larger in pairwise(found):
            unknown = ours(scores) or isinstance(smaller.range, str) or isinstance(larger.range, str)
            checks.append(None if unknown else larger.value > smaller.value)
        texts.append(f"{tokens}% tokens: " + ", ".join(f"{each.value:.2f}" for each in found))
    return verdict_of(checks, *texts, best.text)
