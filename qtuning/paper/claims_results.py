"""The claims of the abstract, of section 1 and of section 4.1: Q-Tuning against its rivals in the large tables."""

from itertools import combinations

from qtuning.paper.judge import Check, Claims, Judgement, Tally, above, agrees, figures, ours, tally, verdict_of
from qtuning.paper.published import GRID_TABLES, MODEL_LABEL, PaperRow, Published
from qtuning.paper.recompute import Recomputed, Rival, Scores, largest, recompute
from qtuning.statistics.summary import AVERAGE
from qtuning.tables.labels import benchmark_label

CLAIMS = Claims()

QWEN = (10, 11)
"""The tables of Qwen3-8B."""

PARAMETERS = {"llama3-8b": 8.0, "mistral-7b": 7.0, "smollm2-1.7b": 1.7}
"""The models of table 2, in billions of parameters."""


def q_tuning_rows(published: Published, tables: tuple[int, ...] = GRID_TABLES) -> list[PaperRow]:
    """Q-Tuning's rows of some tables: a model at a budget each."""
    return [row for table in tables for row in published.rows(table) if row.q_tuning]


@CLAIMS("abstract", "SmolLM2-1.7B: +38% over full-data training with 12.5% of the data")
def smollm2_gains_38_percent(scores: Scores, published: Published) -> Judgement:
    """12.5% of the data are 25% of the samples and 50% of their tokens."""
    row = published.q_tuning(2, "smollm2-1.7b", 0.25, 0.5)
    return figures(["38"], [recompute(scores, published, row, rival="full", relative=True)])


def above_full_data(scores: Scores, published: Published) -> Tally:
    """Q-Tuning's averages against training on the full data."""
    return tally(scores, published, q_tuning_rows(published), [AVERAGE], "full", "averages against full data")


def single_benchmarks(scores: Scores, published: Published, rival: Rival, what: str) -> Tally:
    """Q-Tuning's single benchmarks against a rival; the text counts each benchmark, too."""
    rows = q_tuning_rows(published)
    names = list(dict.fromkeys(name for row in rows for name in published.benchmarks(row.table)))
    found = tally(scores, published, rows, names, rival, f"single benchmarks against {what}")
    each = {name: tally(scores, published, rows, [name], rival, "").checks for name in names}
    counted = (f"{benchmark_label(name)} {checks.count(True)} of {len(checks)}" for name, checks in each.items())
    return Tally(found.checks, f"{found.text} ({', '.join(counted)})")


@CLAIMS("abstract", "Consistently the best method over five benchmarks")
def best_everywhere(scores: Scores, published: Published) -> Judgement:
    """Every average and every single benchmark of the large tables, against the best of 16."""
    what = "the best of 16"
    averages = tally(scores, published, q_tuning_rows(published), [AVERAGE], "best", f"averages against {what}")
    single = single_benchmarks(scores, published, "best", what)
    return verdict_of([*averages.checks, *single.checks], averages.text, single.text)


@CLAIMS("sec. 1", "Exceeds full data and every baseline: 4 models, 5 benchmarks, 6 budgets")
def exceeds_everything(scores: Scores, published: Published) -> Judgement:
    """Against the full data; against the baselines is the claim above."""
    averages, single = above_full_data(scores, published), single_benchmarks(scores, published, "full", "full data")
    rows = q_tuning_rows(published)
    models, benchmarks = {row.model for row in rows}, {name for row in rows for name in published.benchmarks(row.table)}
    counted = f"the tables hold {len(models)} models and {len(benchmarks)} benchmarks"
    return verdict_of([*averages.checks, *single.checks], averages.text, single.text, counted)


def llama3_on_gsm8k(scores: Scores, published: Published, claimed: str, rival: Rival | None) -> Judgement:
    """35% of the data are 50% of the samples and 70% of their tokens. Tells which other model has such a figure."""
    rows = {name: published.q_tuning(12, name, 0.5, 0.7) for name in ("llama3-8b", "mistral-7b")}
    found = {name: recompute(scores, published, row, "gsm8k", rival) for name, row in rows.items()}
    note = "" if ours(scores) else f"beside it: {found['mistral-7b'].text}"
    return figures([claimed], [found["llama3-8b"]], note)


@CLAIMS("sec. 1", "LLaMA3-8B reaches 48.07 on GSM8K with 35% of the data")
def llama3_reaches_48(scores: Scores, published: Published) -> Judgement:
    """Q-Tuning's score."""
    return llama3_on_gsm8k(scores, published, "48.07", None)


@CLAIMS("sec. 1", "LLaMA3-8B, GSM8K, there: +6.0 over full data")
def llama3_gains_6(scores: Scores, published: Published) -> Judgement:
    """Q-Tuning minus full data."""
    return llama3_on_gsm8k(scores, published, "6.0", "full")


@CLAIMS("sec. 1", "LLaMA3-8B, GSM8K, there: +9.9 over the strongest baseline")
def llama3_leads_by_10(scores: Scores, published: Published) -> Judgement:
    """Q-Tuning minus the best of 16."""
    return llama3_on_gsm8k(scores, published, "9.9", "best")


@CLAIMS("sec. 4.1", "Table 1: best averages 37.74 and 46.92, above the full data's 35.36 and 45.84")
def table1_averages(scores: Scores, published: Published) -> Judgement:
    """The four figures, and that Q-Tuning's are above those of the full data and of the 16 baselines."""
    rows = [published.q_tuning(1, model, 0.125, 0.5) for model in ("llama2-7b", "mistral-7b")]
    full = [published.row(1, row.model, "full") for row in rows]
    means = [recompute(scores, published, row) for row in (*rows, *full)]
    agree = [agrees(figure, mean) for figure, mean in zip(("37.74", "46.92", "35.36", "45.84"), means, strict=True)]
    rivals: tuple[Rival, ...] = ("full", "best")
    gains = [recompute(scores, published, row, rival=rival) for row in rows for rival in rivals]
    return verdict_of([*agree, *map(above, gains)], *(each.text for each in gains))


@CLAIMS("sec. 4.1", "Table 1: consistent gains on all benchmarks")
def table1_gains(scores: Scores, published: Published) -> Judgement:
    """Ten scores against three rivals."""
    rows, names = q_tuning_rows(published, (1,)), published.benchmarks(1)
    rivals: dict[Rival, str] = {"random": "random + random", "full": "full data", "best": "the best of 16"}
    found = [tally(scores, published, rows, names, rival, f"against {what}") for rival, what in rivals.items()]
    return verdict_of([check for each in found for check in each.checks], *(each.text for each in found))


@CLAIMS("sec. 4.1", "Qwen3-8B: gains of up to 8.23")
def qwen_gains(scores: Scores, published: Published) -> Judgement:
    """The largest gain of an average over random + random, which the tables' arrows show, or over the weakest row."""
    rows = q_tuning_rows(published, QWEN)
    over_random = largest(recompute(scores, published, row, rival="random") for row in rows)
    weakest = [recompute(scores, published, row, rival="weakest") for row in rows]
    notes = [] if ours(scores) else [f"8.23 is {each.text}" for each in weakest if round(each.value, 2) == 8.23]
    return figures(["8.23", "8.23"], [over_random, largest(weakest)], *notes)


@CLAIMS("sec. 4.1", "Qwen3-8B: up to 5.55 over the strongest baseline")
def qwen_leads(scores: Scores, published: Published) -> Judgement:
    """The largest gain of an average over the best of 16."""
    rows = q_tuning_rows(published, QWEN)
    return figures(["5.55"], [largest(recompute(scores, published, row, rival="best") for row in rows)])


@CLAIMS("sec. 4.1", "FastV takes LLaMA3-8B below 6% in several settings")
def fastv_collapses(scores: Scores, published: Published) -> Judgement:
    """Averages with FastV, by table; several are two or more."""
    texts, below = [], []
    for table in (2, 12):
        rows = [row for row in published.rows(table, "llama3-8b") if row.token_pruner == "fastv"]
        found = [recompute(scores, published, row) for row in rows]
        under = [_below(each, 6) for each in found]
        values = ", ".join(f"{each.value:.2f}" for each in found)
        below += under
        texts.append(f"table {table}: {under.count(True)} of {len(found)} ({values})")
    enough = below.count(True) >= 2
    return verdict_of([None if None in below and not enough else enough], *texts)


def _below(found: Recomputed, limit: float) -> Check:
    """Whether a figure is below a limit with all of its range."""
    if isinstance(found.range, str) or found.range[0] < limit <= found.range[1]:
        return None
    return found.range[1] < limit


@CLAIMS("sec. 4.1", "Table 2: Entropy and InfoBatch consistently above random; similar gains on Mistral-7B")
def entropy_and_infobatch(scores: Scores, published: Published) -> Judgement:
    """Averages with random tokens, minus random + random."""
    checks, texts = [], []
    for model in PARAMETERS:
        for pruner in ("entropy", "infobatch"):
            row = published.row(2, model, 0.25, 0.5, pruner, "random")
            found = recompute(scores, published, row, rival="random")
            checks.append(above(found))
            texts.append(f"{MODEL_LABEL[model]}, {row.labels[0]} {found.value:+.2f}")
    return verdict_of(checks, *texts)


@CLAIMS("sec. 4.1", "Table 2: +7.67 to 20.93 (LLaMA3-8B), +10.29 to 22.74 (Mistral-7B)")
def table2_gains(scores: Scores, published: Published) -> Judgement:
    """Averages, and their difference from random + random."""
    rows = [published.q_tuning(2, model, 0.25, 0.5) for model in ("llama3-8b", "mistral-7b")]
    found = [recompute(scores, published, row, rival="random") for row in rows]
    found += [recompute(scores, published, row) for row in rows]
    return figures(["7.67", "10.29", "20.93", "22.74"], found)


@CLAIMS("sec. 4.1", "Table 2: GSM8K above full data for both")
def table2_above_full(scores: Scores, published: Published) -> Judgement:
    """LLaMA3-8B and Mistral-7B."""
    rows = [published.q_tuning(2, model, 0.25, 0.5) for model in ("llama3-8b", "mistral-7b")]
    found = [recompute(scores, published, row, "gsm8k", "full") for row in rows]
    return verdict_of(map(above, found), *(each.text for each in found))


@CLAIMS("sec. 4.1", "Table 2: larger models gain more")
def larger_models_gain_more(scores: Scores, published: Published) -> Judgement:
    """Each pair of models, by the gain of the average over random + random and over the full data."""
    checks: list[Check] = []
    texts = []
    rivals: dict[Rival, str] = {"random": "over random + random", "full": "over full data"}
    for rival, what in rivals.items():
        found = {
            model: recompute(scores, published, published.q_tuning(2, model, 0.25, 0.5), rival=rival)
            for model in PARAMETERS
        }
        for larger, smaller in combinations(PARAMETERS, 2):  # from the largest on
            checks.append(_more(found[larger], found[smaller], ours(scores)))
        texts.append(what + " " + ", ".join(f"{MODEL_LABEL[name]} {each.value:+.2f}" for name, each in found.items()))
    return verdict_of(checks, *texts)


def _more(larger: Recomputed, smaller: Recomputed, intervals: bool) -> Check:
    """Whether a gain is the larger; two intervals that overlap do not tell."""
    if isinstance(larger.range, str) or isinstance(smaller.range, str):
        return None
    if intervals and larger.range[0] <= smaller.range[1] and smaller.range[0] <= larger.range[1]:
        return None
    return larger.value > smaller.value
