"""How a claim comes to its verdict: it is split into checks, and the verdict says how many of them are true.

All of them: holds. None: contradicted. Some: partly. Unknown ones (our runs only) leave a verdict open, unless two
others differ already.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from qtuning.paper.published import PaperRow, Published
from qtuning.paper.recompute import OurScores, Recomputed, Rival, Scores, recompute

Verdict = Literal["contradicted", "partly", "holds", "cannot be judged"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

TOLERANCE = (
    "A printed figure stands for every value that rounds to it. A claimed and a recomputed figure agree where these "
    "ranges touch."
)


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it, in words."""

    verdict: Verdict
    numbers: str


Check = bool | None
"""Whether a part of a claim is true; None where that cannot be told."""

Judge = Callable[[Scores, Published], Judgement]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, in our words. where: its place.

    of_scores: whether it is about scores, so that it can be put to our runs, too.
    """

    where: str
    statement: str
    judge: Judge
    of_scores: bool = True


class Claims(list[Claim]):
    """Claims in the paper's order; each function that judges one registers itself below its sentence."""

    def __call__(self, where: str, statement: str, of_scores: bool = True) -> Callable[[Judge], Judge]:
        """Register the decorated function as the judge of a claim."""

        def register(judge: Judge) -> Judge:
            self.append(Claim(where, statement, judge, of_scores))
            return judge

        return register


def verdict_of(checks: Iterable[Check], *numbers: str) -> Judgement:
    """The verdict that the checks of a claim give, with the numbers behind them."""
    found = set(checks)
    verdict: Verdict
    if {True, False} <= found:
        verdict = "partly"
    elif None in found or not found:
        verdict = "cannot be judged"
    else:
        verdict = "holds" if found == {True} else "contradicted"
    return Judgement(verdict, "; ".join(dict.fromkeys(filter(None, numbers))))


def together(checks: Iterable[Check]) -> Check:
    """One check out of several that must all be true."""
    found = set(checks)
    return False if False in found else None if None in found else True


def most(checks: Iterable[Check]) -> Check:
    """One check: whether more than half of several are true."""
    found = list(checks)
    true, unknown = found.count(True), found.count(None)
    return True if 2 * true > len(found) else False if 2 * (true + unknown) <= len(found) else None


def above(found: Recomputed) -> Check:
    """Whether a change is a gain."""
    return None if found.sign is None else found.sign > 0


def agrees(claimed: str, found: Recomputed) -> Check:
    """Whether a claimed figure, whose digits say how exact it is, can be the recomputed one.

    None: there is no figure; or its interval holds zero as well, so that it would agree with no effect at all.
    """
    if isinstance(found.range, str):
        return None
    half = Decimal(5).scaleb(-len(claimed.partition(".")[2]) - 1)
    (low, high), least, most_ = found.range, Decimal(claimed) - half, Decimal(claimed) + half
    if high < least or low > most_:
        return False
    return None if low <= 0 <= high else True


def figures(claimed: Sequence[str], found: Sequence[Recomputed], *notes: str) -> Judgement:
    """The verdict on a claim that names figures; each is one check.

    A score that agrees is not told beside changes, whose arithmetic shows it.
    """
    checks = [agrees(figure, each) for figure, each in zip(claimed, found, strict=True)]
    changes = any(each.rival for each in found)
    texts = [
        f"{each.text}; claimed {figure}" if check is False else each.text
        for figure, each, check in zip(claimed, found, checks, strict=True)
        if each.rival or not check or not changes
    ]
    return verdict_of(checks, *texts, *notes)


@dataclass(frozen=True)
class Tally:
    """Several comparisons: each true where the score is above its rival's (or not below)."""

    checks: tuple[Check, ...]
    text: str


def tally(
    scores: Scores,
    published: Published,
    rows: Iterable[PaperRow],
    benchmarks: Sequence[str],
    rival: Rival,
    what: str,
    or_equal: bool = False,
) -> Tally:
    """How often rows are above a rival on those of the benchmarks that they have.

    what: the comparison in words, that the text begins with.
    """
    found = [
        recompute(scores, published, row, benchmark, rival)
        for row in rows
        for benchmark in benchmarks
        if benchmark in published.scores[row]
    ]
    counts = Counter(each.sign for each in found)
    parts = [f"{counts[1]} above"]
    parts += [f"{counts[sign]} {word}" for sign, word in ((0, "equal"), (-1, "below")) if counts[sign]]
    text = f"{what}: {', '.join(parts)} of {len(found)}"
    if unknown := [each for each in found if each.sign is None]:
        missing = next((each.text for each in unknown if isinstance(each.range, str)), "the interval holds zero")
        text += f", {len(unknown)} cannot be told ({missing})"
    checks = tuple(None if each.sign is None else each.sign >= (0 if or_equal else 1) for each in found)
    return Tally(checks, text)


def ours(scores: Scores) -> bool:
    """Whether the scores are of our runs; some arithmetic is only about what is printed."""
    return isinstance(scores, OurScores)
