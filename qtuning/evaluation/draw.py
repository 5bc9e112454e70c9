"""Which items a limited evaluation asks: a stratified random draw, the same for every cell (docs/evaluation.md).

The first items are no sample of a benchmark: the first 500 of MATH are all algebra, those of SQuAD two articles.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation

if TYPE_CHECKING:
    from lm_eval.api.task import Task

LENGTHS = 4
"""Classes of length that each subject's items are cut into, of equal size."""


def drawn_items(benchmark: str, task: "Task", evaluation: Evaluation) -> list[int] | None:
    """Places of the drawn items among all of a loaded benchmark, ascending; None without evaluation.limit.

    Lengths are those of the questions in characters, so that the draw is the same for every model and tokenizer.
    """
    if evaluation.limit is None:
        return None
    docs = list(task.eval_docs)
    lengths = [len(str(task.doc_to_text(doc))) for doc in docs]
    subject = BENCHMARKS[benchmark].subject
    return draw(
        [None if subject is None else doc.get(subject) for doc in docs], lengths, evaluation.limit,
        Random(f"{evaluation.limit_seed}/{benchmark}"),
    )  # fmt: skip


def draw(subjects: Sequence[Hashable], lengths: Sequence[int], count: int, rng: Random) -> list[int]:
    """Places of `count` items (all, if there are fewer), ascending.

    Strata are the classes of length of each subject. A stratum with N_h of N items gives the whole part of
    count N_h / N items or one more, and every item is drawn with probability count / N (proportional allocation with
    systematic rounding; Cochran 1977, Sampling Techniques, chapter 5).
    """
    by_subject: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, subject in enumerate(subjects):
        by_subject[subject].append(place)
    total, before, chosen = len(subjects), 0, list[int]()
    count = min(count, total)
    start = rng.randrange(total)
    for places in by_subject.values():
        places.sort(key=lambda place: lengths[place])
        bounds = [len(places) * part // LENGTHS for part in range(LENGTHS + 1)]
        for low, high in pairwise(bounds):
            after = before + high - low
            asked = (count * after + start) // total - (count * before + start) // total
            chosen += rng.sample(places[low:high], asked)
            before = after
    return sorted(chosen)
