"""The likelihood metrics of every benchmark (docs/metrics.md): what the model thinks of the gold answer and wrong ones.

The prompt of an item is the one that its headline metric was asked with: lm-eval logged it.
"""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

from qtuning.evaluation.wrong_answers import answer_choices

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from qtuning.evaluation.model import EvaluatedModel


class Likelihood(NamedTuple):
    """A likelihood metric of an item. response: the answer that the model prefers, for metrics that are about one."""

    metric: str
    score: float
    response: str


def likelihoods_of(
    model: "EvaluatedModel", benchmark: str, task: "Task", samples: Sequence[Mapping[str, Any]], chat: bool
) -> dict[int, list[Likelihood]]:
    """Item -> its likelihood metrics. samples: what lm-eval logged of the benchmark, in item order."""
    logged = {sample["doc_id"]: sample for sample in samples}  # one of several filters
    if task.OUTPUT_TYPE == "multiple_choice":
        return _of_choices(model, logged)
    # as lm-eval writes choices
    between = "" if chat else task.config.target_delimiter
    targets = [str(sample["target"]) for sample in logged.values()]
    choices = list(answer_choices(benchmark, list(task.eval_docs), list(logged), targets))
    pairs = [
        (sample["arguments"][0][0], between + answer)
        for sample, answers in zip(logged.values(), choices, strict=True)
        for answer in answers
    ]
    encoded = model.encode_pairs(pairs)
    scores = iter(model.score_answers(encoded))
    counts = iter(encoded)
    found = {}
    for item, answers in zip(logged, choices, strict=True):
        values = [next(scores)[0] for _ in answers]
        tokens = [len(next(counts)[1]) for _ in answers]
        found[item] = metrics_of(answers, values, 0, tokens[0])
    return found


def _of_choices(model: "EvaluatedModel", logged: Mapping[int, Mapping[str, Any]]) -> dict[int, list[Likelihood]]:
    """Of items with choices of their own, whose log-likelihoods lm-eval has asked for already."""
    encoded = model.encode_pairs([sample["arguments"][int(sample["target"])] for sample in logged.values()])
    found = {}
    for (item, sample), (_, tokens) in zip(logged.items(), encoded, strict=True):
        values = [loglikelihood for ((loglikelihood, _),) in sample["resps"]]
        found[item] = metrics_of(sample["doc"]["choices"]["text"], values, int(sample["target"]), len(tokens))
    return found


def metrics_of(answers: Sequence[str], values: Sequence[float], gold: int, tokens: int) -> list[Likelihood]:
    """values: log-likelihoods of all answers, in nats; tokens: of the gold one.

    p_gold = exp(value of gold) / sum of exp(value) over the answers, each with its total log-likelihood. An item with
    one answer only has no p_gold and no choice.
    """
    nats = max(-values[gold], 0.0)
    answer, best = answers[gold], max(values)
    found = [
        Likelihood("nll", nats / max(tokens, 1), ""),
        Likelihood("nll_answer", nats, ""),
        Likelihood("bits_per_character", nats / log(2) / max(len(answer), 1), ""),
    ]
    if len(answers) > 1:
        preferred = answers[values.index(best)]
        share = exp(values[gold] - best) / sum(exp(value - best) for value in values)
        found += [
            Likelihood("p_gold", share, preferred),
            Likelihood("choice", float(values.index(best) == gold), preferred),
        ]
    return found
