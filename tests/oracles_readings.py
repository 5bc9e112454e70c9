"""Q-Tuning with all its readings (method.md, Ambiguities), slow and plain: lists, floats and fractions, one sample and
one token at a time. Keywords and their values are those of the options in registry.py.

What method.md leaves open, and how it is decided here:
- Equal scores: the sample with the lower number is kept first. Equal s: the sample with the lower number, then the
  earlier position, goes first.
- A1 `text`: high PPL and high Ent is Q2 (kept, loses tokens), high PPL and low Ent is Q1 (dropped); Q3 and Q4, the
  thresholds, the bisection and the supplement's score stay as they are: one switch, one change.
- A4 `sequence`: only another Ent_i; the caller passes it.
- A5 `midpoint`: one line an axis, halfway between quantile(a) and quantile(1-a); high means above the line. The same
  bisection on a; Q1..Q4 cover the batch.
- A6 `trim`: the K of best score w_i stay; `no-trim`: all stay.
- A10 `rank`: n(.) = (average rank from 0) / (B - 1), 0 where B = 1. `random`: drawn uniformly from the samples outside
  Q2 and Q4. `none`: nothing is added. Trimming uses the w of min-max, except under `rank`. The role of an added sample
  goes by the sign of the tilt n(PPL) - n(Ent), of min-max except under `rank`; above 0 is Q2-like.
- A7 `response`: round(N r_sample r_token) of the N response tokens of the whole batch, dropped samples included, at
  least 1; samples that lose nothing stay whole even if that overspends. `sequence`: the same of all tokens, where the
  prompts of kept samples count as kept. `per-sample`: each sample that loses tokens keeps max(1, round(r_token |T_i|)).
- Table 4, `prune_in`: the roles that lose tokens: Q2-like, Q4-like, both, or nothing.
- The batch never loses its last response token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from oracles import quantile, scaled

Number = float | Fraction
Token = tuple[int, int]  # number of the sample, position in its response


# Stage 1


def lines(values: Sequence[float], level: float, thresholds: str) -> tuple[float, float]:
    """(low, high): up to `low` is low, above `high` is high."""
    low, high = quantile(values, level), quantile(values, 1 - level)
    return (low, high) if thresholds == "two-tails" else ((low + high) / 2, (low + high) / 2)


def places(
    ppl: Sequence[float], ent: Sequence[float], level: float, quadrants: str = "figure", thresholds: str = "two-tails"
) -> list[int]:
    """1..4 of each sample; 0 where it is neither low nor high on one axis."""
    number = {("high", "high"): 1, ("high", "low"): 2, ("low", "low"): 3, ("low", "high"): 4}
    if quadrants == "text":
        number[("high", "high")], number[("high", "low")] = 2, 1
    error, uncertainty = lines(ppl, level, thresholds), lines(ent, level, thresholds)

    def side(value: float, low: float, high: float) -> str:
        assert low <= high
        return "high" if value > high else "low" if value <= low else "between"

    return [number.get((side(p, *error), side(e, *uncertainty)), 0) for p, e in zip(ppl, ent, strict=True)]


@dataclass
class Search:
    """Where the bisection ended. quadrants: of each sample; kept: the share in Q2 and Q4."""

    level: float
    quadrants: list[int]
    kept: float
    iterations: int
    converged: bool


def search(
    ppl: Sequence[float], ent: Sequence[float], ratio: float, quadrants: str = "figure", thresholds: str = "two-tails"
) -> Search:
    """Bisection of the common level in [0, 0.49]: at most 10 trials, until the kept share is within 0.01 of `ratio`."""
    least, most = 0.0, 0.49
    for trial in range(1, 11):
        level = (least + most) / 2
        found = places(ppl, ent, level, quadrants, thresholds)
        kept = (found.count(2) + found.count(4)) / len(found)
        if abs(kept - ratio) <= 0.01:
            return Search(level, found, kept, trial, True)
        if kept < ratio:
            least = level
        else:
            most = level
    return Search(level, found, kept, 10, False)


def ranked(values: Sequence[float]) -> list[Fraction]:
    """Average rank from 0, divided by B - 1; 0 for one value alone."""
    if len(values) == 1:
        return [Fraction(0)]
    return [
        Fraction(2 * sum(other < value for other in values) + sum(other == value for other in values) - 1)
        / (2 * (len(values) - 1))
        for value in values
    ]


@dataclass
class Triage:
    """What stage 1 decides. inside: roles of the samples that the thresholds leave in; added: of those the supplement
    brings. Under A10 `random`, added is empty and `missing` samples are to be drawn from the pool."""

    search: Search
    inside: dict[int, str]
    added: dict[int, str]
    pool: dict[int, str]
    missing: int


def triage(
    ppl: Sequence[float],
    ent: Sequence[float],
    numbers: Sequence[int],
    ratio: float,
    *,
    quadrants: str = "figure",
    thresholds: str = "two-tails",
    surplus: str = "trim",
    supplement: str = "min-max",
) -> Triage:
    """Roles ("prune" or "whole") by sample number."""
    wanted = max(1, round(ratio * len(numbers)))
    found = search(ppl, ent, ratio, quadrants, thresholds)
    error: Sequence[Number] = ranked(ppl) if supplement == "rank" else scaled(ppl)
    uncertainty: Sequence[Number] = ranked(ent) if supplement == "rank" else scaled(ent)
    tilt = {n: e - u for n, e, u in zip(numbers, error, uncertainty, strict=True)}  # type: ignore[operator]
    quadrant = dict(zip(numbers, found.quadrants, strict=True))

    def best_first(group: Iterable[int]) -> list[int]:
        # max(t, -t) is the score w_i
        return sorted(group, key=lambda n: (-max(tilt[n], -tilt[n]), n))

    inside = best_first(n for n in numbers if quadrant[n] in (2, 4))
    outside = best_first(n for n in numbers if quadrant[n] not in (2, 4))
    if surplus == "trim":
        inside = inside[:wanted]
    missing = 0 if supplement == "none" else max(0, wanted - len(inside))
    pool = {n: "prune" if tilt[n] > 0 else "whole" for n in outside}
    return Triage(
        found,
        {n: "prune" if quadrant[n] == 2 else "whole" for n in inside},
        {} if supplement == "random" else {n: pool[n] for n in outside[:missing]},
        pool,
        missing,
    )


# Stage 2


def smoothed(ppl: Sequence[float], lambda_: float, neighbours: str = "sum") -> list[float]:
    """s_t of one response: (1 - lambda) PPL_t + lambda (PPL_{t-1} + PPL_{t+1}), `mean`: half of the sum (A3)."""
    padded = [0.0, *ppl, 0.0]
    result = []
    for before, own, after in zip(padded[:-2], padded[1:-1], padded[2:], strict=True):
        around = before + after if neighbours == "sum" else (before + after) / 2
        result.append((1 - lambda_) * own + lambda_ * around)
    return result


def surviving_tokens(
    responses: Mapping[int, Sequence[float]],
    prompts: Mapping[int, int],
    roles: Mapping[int, str],
    sample_ratio: float,
    token_ratio: float,
    *,
    lambda_: float = 0.5,
    survivors: str = "keep-low",
    neighbours: str = "sum",
    counted: str = "response",
    prune_in: str = "Q2",
) -> set[Token]:
    """The tokens that keep their loss. responses: token perplexities of every sample of the batch, kept or not;
    prompts: their prompt tokens; roles: of the kept samples only."""
    alive = {(n, t) for n in roles for t in range(len(responses[n]))}
    losing = {"Q2": {"prune"}, "Q4": {"whole"}, "Q2+Q4": {"prune", "whole"}, "nothing": set[str]()}[prune_in]
    score = {(n, t): s for n in roles for t, s in enumerate(smoothed(responses[n], lambda_, neighbours))}
    sign = -1 if survivors == "keep-low" else 1
    goes_first = sorted((key for key in alive if roles[key[0]] in losing), key=lambda key: (sign * score[key], key))
    left = {n: len(responses[n]) for n in roles}
    for number, position in goes_first:
        if counted == "per-sample":
            if left[number] <= max(1, round(token_ratio * len(responses[number]))):
                continue
        else:
            total, kept = sum(map(len, responses.values())), sum(left.values())
            if counted == "sequence":
                total, kept = total + sum(prompts.values()), kept + sum(prompts[n] for n in roles)
            if kept <= max(1, round(total * sample_ratio * token_ratio)) or sum(left.values()) == 1:
                break
        alive.remove((number, position))
        left[number] -= 1
    return alive
