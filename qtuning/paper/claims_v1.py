"""Ten claims that were made about the paper's first version, put to the second's numbers: none of them changed."""

from qtuning.paper.arithmetic import check_averages
from qtuning.paper.claims_results import above_full_data
from qtuning.paper.judge import Claims, Judgement, figures, verdict_of
from qtuning.paper.published import PaperRow, Published
from qtuning.paper.recompute import Rival, Scores, recompute

CLAIMS = Claims()


def _margin(scores: Scores, published: Published, row: PaperRow, claimed: str) -> Judgement:
    """Q-Tuning minus the best of 16."""
    return figures([claimed], [recompute(scores, published, row, rival="best")])


@CLAIMS("v1", "+38% average improvement over full-data SFT on SmolLM2-1.7B with 12.5% of the training data")
def smollm2_gains_38_percent(scores: Scores, published: Published) -> Judgement:
    """25% of the samples and 50% of their tokens."""
    row = published.q_tuning(2, "smollm2-1.7b", 0.25, 0.5)
    return figures(["38"], [recompute(scores, published, row, rival="full", relative=True)])


@CLAIMS(
    "v1", "LLaMA3-8B reaches 48.07 on GSM8K with 35% of the data, 6.0 above full data and 9.9 above the best baseline"
)
def llama3_reaches_48_on_gsm8k(scores: Scores, published: Published) -> Judgement:
    """50% of the samples and 70% of their tokens."""
    row = published.q_tuning(12, "llama3-8b", 0.5, 0.7)
    rivals: tuple[Rival | None, ...] = (None, "full", "best")
    found = [recompute(scores, published, row, "gsm8k", rival) for rival in rivals]
    return figures(["48.07", "6.0", "9.9"], found)


@CLAIMS("v1", "25% samples, 50% tokens: LLaMA2-7B 36.5")
def llama2_reaches_36_5(scores: Scores, published: Published) -> Judgement:
    """An average."""
    return figures(["36.5"], [recompute(scores, published, published.q_tuning(8, "llama2-7b", 0.25, 0.5))])


@CLAIMS("v1", "25% samples, 50% tokens: Mistral-7B 1.63 above the strongest baseline")
def mistral_leads_by_1_63(scores: Scores, published: Published) -> Judgement:
    """Averages."""
    return _margin(scores, published, published.q_tuning(8, "mistral-7b", 0.25, 0.5), "1.63")


@CLAIMS("v1", "12.5% samples, 50% tokens: LLaMA2-7B 3.3 above the best baseline")
def llama2_leads_by_3_3(scores: Scores, published: Published) -> Judgement:
    """Averages."""
    return _margin(scores, published, published.q_tuning(1, "llama2-7b", 0.125, 0.5), "3.3")


@CLAIMS("v1", "12.5% samples, 50% tokens: Mistral-7B 2.7 above the best baseline")
def mistral_leads_by_2_7(scores: Scores, published: Published) -> Judgement:
    """Averages."""
    return _margin(scores, published, published.q_tuning(1, "mistral-7b", 0.125, 0.5), "2.7")


@CLAIMS("v1", "Averaged over GSM8K and MATH: 21.5 LLaMA3-8B, 26.6 Mistral-7B, 11.8 SmolLM2-1.7B")
def averages_at_35_percent(scores: Scores, published: Published) -> Judgement:
    """50% of the samples and 70% of their tokens."""
    claimed = {"llama3-8b": "21.5", "mistral-7b": "26.6", "smollm2-1.7b": "11.8"}
    rows = [published.q_tuning(12, model, 0.5, 0.7) for model in claimed]
    return figures(list(claimed.values()), [recompute(scores, published, row) for row in rows])


@CLAIMS("v1", "MathInstruct, Mistral-7B: each average is the mean of its two benchmarks", of_scores=False)
def mistral_averages_are_means(scores: Scores, published: Published) -> Judgement:
    """One check: all of them are."""
    found = [each for each in check_averages(published) if each.row.table in (2, 12) and each.row.model == "mistral-7b"]
    wrong = [each for each in found if each.mistake == "size"]
    texts = [f"{each.row.method} {each.row.budget}: {each.exact:.3f}, printed {each.printed}" for each in wrong]
    return verdict_of([not wrong], f"{len(found) - len(wrong)} of {len(found)} are", *texts)


@CLAIMS("v1", "MathInstruct: SparseVLM rows differ between 50% and 70% tokens")
def sparsevlm_rows_differ(scores: Scores, published: Published) -> Judgement:
    """At 25% of the samples, for each sample pruner and model."""
    rows = [row for row in published.rows(2) if row.token_pruner == "sparsevlm"]
    checks = []
    for row in rows:
        pair = (row, published.row(12, row.model, 0.25, 0.7, row.sample_pruner, "sparsevlm"))
        mine, other = ([scores.values(each, name) for name in published.benchmarks(2)] for each in pair)
        missing = any(isinstance(each, str) for each in mine + other)
        checks.append(None if missing else mine != other)
    text = f"{checks.count(False)} of {len(checks)} pairs of rows have the same score on every benchmark"
    return verdict_of(checks, text, f"{checks.count(None)} pairs are missing" if None in checks else "")


@CLAIMS("v1", "First dynamic pruning to consistently outperform full-data training")
def outperforms_full_data(scores: Scores, published: Published) -> Judgement:
    """Every average of Q-Tuning in the large tables."""
    found = above_full_data(scores, published)
    return verdict_of(found.checks, found.text)
