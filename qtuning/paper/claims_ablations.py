"""The claims of figures 3, 4 and 7, table 3, sections 4.2 and 4.3, and the appendices B.4 and C.2."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from qtuning.paper.arithmetic import chance_of_means, copies_in_other_tables, item_counts, selection_shares
from qtuning.paper.claims_results import QWEN, q_tuning_rows
from qtuning.paper.judge import (
    Check,
    Claims,
    Judgement,
    agrees,
    figures,
    most,
    ours,
    tally,
    together,
    verdict_of,
)
from qtuning.paper.published import MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import Recomputed, Rival, Scores, recompute
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.labels import benchmark_label

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


def _above(found: Recomputed) -> Check:
    return None if found.sign is None else found.sign > 0


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


Block = dict[str, PaperRow]
"""The rows of one model and budget of tables 4 and 15, by which quadrants lose samples and tokens."""

KEEPS_Q1, NO_TOKENS, BOTH = (
    "ticks:2;inferred;sample:q3;token:q2",
    "ticks:2;inferred;sample:q1+q3;token:none",
    "ticks:4;sample:q1+q3;token:q2+q4",
)
METHOD = "ticks:3;sample:q1+q3;token:q2"


def quadrant_blocks(published: Published) -> list[Block]:
    """Tables 4 and 15: two blocks and four."""
    blocks: dict[tuple[int, str, str], Block] = {}
    for row in (*published.rows(4), *published.rows(15)):
        blocks.setdefault((row.table, row.model, row.budget), {})[row.variant] = row
    return list(blocks.values())


def first_of_block(scores: Scores, published: Published, block: Block, variant: str) -> Check:
    """Whether a row has the highest average of its block."""
    others = [row for name, row in block.items() if name != variant]
    return together(_above(recompute(scores, published, block[variant], rival=[row])) for row in others)


def last_of_block(scores: Scores, published: Published, block: Block, variant: str) -> Check:
    """Whether a row has the lowest average of its block."""
    others = [row for name, row in block.items() if name != variant]
    return together(_above(recompute(scores, published, row, rival=[block[variant]])) for row in others)


def _names(blocks: Sequence[Block], checks: Sequence[Check], wanted: Check) -> str:
    """The blocks with a certain answer: `Mistral-7B 25x50`."""
    rows = [next(iter(block.values())) for block, check in zip(blocks, checks, strict=True) if check is wanted]
    return ", ".join(f"{MODEL_LABEL[row.model]} {row.budget}" for row in rows)


@CLAIMS("sec. 4.2", "Keeping Q1 always gives the lowest average")
def keeping_q1_is_lowest(scores: Scores, published: Published) -> Judgement:
    """In each block; which row keeps Q1 is inferred."""
    blocks = quadrant_blocks(published)
    checks = [last_of_block(scores, published, block, KEEPS_Q1) for block in blocks]
    not_there = _names(blocks, checks, False)
    text = f"lowest in {checks.count(True)} of {len(checks)} blocks of tables 4 and 15"
    return verdict_of(checks, f"{text}, not in {not_there}" if not_there else text)


@CLAIMS("sec. 4.2", "And it lowers GSM8K and SQuAD")
def keeping_q1_hurts(scores: Scores, published: Published) -> Judgement:
    """In each block: below Q-Tuning itself; which row keeps Q1 is inferred."""
    found = [
        recompute(scores, published, block[METHOD], benchmark, [block[KEEPS_Q1]])
        for block in quadrant_blocks(published)
        for benchmark in ("gsm8k", "squad")
    ]
    checks = [_above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of(checks, f"Q-Tuning is above it in {checks.count(True)} of {len(checks)}", *against)


@CLAIMS("sec. 4.2", "Pruning tokens of Q4 is generally harmful")
def pruning_q4_harms(scores: Scores, published: Published) -> Judgement:
    """Q-Tuning against the row that prunes tokens of Q2 and Q4: more than half of the averages."""
    found = [recompute(scores, published, block[METHOD], rival=[block[BOTH]]) for block in quadrant_blocks(published)]
    checks = [_above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of([most(checks)], f"worse in {checks.count(True)} of {len(checks)} averages", *against)


@CLAIMS("sec. 4.2", "Pruning tokens of Q2 consistently helps")
def pruning_q2_helps(scores: Scores, published: Published) -> Judgement:
    """The only pair is in table 4, and inferred: the average and each benchmark."""
    (block,) = [block for block in quadrant_blocks(published) if NO_TOKENS in block]
    found = [
        recompute(scores, published, block[METHOD], benchmark, [block[NO_TOKENS]])
        for benchmark in (AVERAGE, *published.benchmarks(4))
    ]
    checks = [_above(each) for each in found]
    against = [each.text for each, check in zip(found, checks, strict=True) if check is False]
    return verdict_of(checks, "one pair only", found[0].text, *against)


@CLAIMS("sec. 4.2", "Pruning Q1 and Q3 samples and Q2 tokens is the best setting")
def method_is_best(scores: Scores, published: Published) -> Judgement:
    """The highest average of each block."""
    blocks = quadrant_blocks(published)
    checks = [first_of_block(scores, published, block, METHOD) for block in blocks]
    not_there = _names(blocks, checks, False)
    text = f"the best in {checks.count(True)} of {len(checks)} blocks of tables 4 and 15"
    return verdict_of(checks, f"{text}, not in {not_there}" if not_there else text)


@CLAIMS("table 5", "Neighbour-aware PPL has the best average")
def neighbours_help(scores: Scores, published: Published) -> Judgement:
    """Against each other row; which benchmarks others lead is told."""
    rows = published.rows(5)
    (mine,) = [row for row in rows if row.q_tuning]
    others = [row for row in rows if row is not mine]
    found = [recompute(scores, published, mine, rival=[row]) for row in others]
    single = [recompute(scores, published, mine, name, others) for name in published.benchmarks(5)]
    told = (each.text for each in (*found, *(one for one in single if one.sign == -1)))
    return verdict_of([_above(each) for each in found], *told)


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
    found = [each for each in item_counts(published, random_only=True) if each.cells]
    chance, texts = 1.0, []
    for each in found:
        one = chance_of_means(each.items, runs=5)
        chance *= one**each.possible if each.possible == each.cells else 1.0
        texts.append(f"{benchmark_label(each.benchmark)} {each.possible} of {each.cells} (a mean: {one:.2f})")
    together_ = sum(each.possible for each in found), sum(each.cells for each in found)
    text = "{} of {} random + random scores are k of n of a single run: ".format(*together_) + ", ".join(texts)
    return verdict_of([together_[0] < together_[1] or chance > 0.001], text)


@CLAIMS("app. C.2", "60.19 is 4.7 over full data, 58.80 nearly 3.9 over InfoBatch + random, 59.20 3.75 over full data")
def qwen_margins(scores: Scores, published: Published) -> Judgement:
    """Qwen3-8B at 12.5x50, 25x50 and 25x70."""
    rows = [published.q_tuning(10, "qwen3-8b", 0.125, 0.5), published.q_tuning(10, "qwen3-8b", 0.25, 0.5)]
    rows.append(published.q_tuning(11, "qwen3-8b", 0.25, 0.7))
    infobatch = published.row(10, "qwen3-8b", 0.25, 0.5, "infobatch", "random")
    rivals: list[Rival | list[PaperRow]] = ["full", [infobatch], "full"]
    gains = [recompute(scores, published, row, rival=rival) for row, rival in zip(rows, rivals, strict=True)]
    judged = figures(
        ["4.7", "3.9", "3.75", "60.19", "58.80", "59.20"],
        [*gains, *(recompute(scores, published, row) for row in rows)],
    )
    return Judgement(judged.verdict, "; ".join(each.text for each in gains))


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
