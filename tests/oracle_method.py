"""Q-Tuning as docs/method.md tells it, in whole numbers and fractions, one sample and one token at a time.

Slow, and independent of the package: nothing here is rounded, so that a tie is a tie. Readings go by the names of the
configuration. Where the paper decides nothing, this does: of equal scores the sample with the lower number is the
better; of equal s the sample with the lower number, then the earlier token, stays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Number = int | Fraction

DEFAULTS = {
    "quadrants": "figure",  # A1
    "survivors": "keep-low",  # A2
    "neighbours": "sum",  # A3
    "entropy": "response",  # A4
    "thresholds": "two-tails",  # A5
    "surplus": "keep",  # A6
    "counted": "sample",  # A7
    "supplement": "min-max",  # A10
    "may_go": "any",  # A13
    "quantile": "linear",  # A14
    "supplemented": "nearer",  # A15
    "kept_samples": "round",  # A16
    "search": "fixed",  # A17
    "drop_in": "Q1+Q3",
    "prune_in": "Q2",
}

PRESETS = {
    "q-tuning": {},
    "q-tuning-budget": {"surplus": "trim", "counted": "response", "search": "tolerance"},
    "q-tuning-history": {"entropy": "sequence", "surplus": "keep", "counted": "sequence", "search": "tolerance"},
    "q-tuning-third-party": {
        "neighbours": "mean", "thresholds": "lean", "surplus": "keep", "supplement": "none", "counted": "sample",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A sample of a batch. tokens: PPL_it of its response; sequence_ent: Ent_i over all positions; prompt: tokens."""

    number: int
    ppl: Number
    ent: Number
    sequence_ent: Number
    tokens: Sequence[Number]
    prompt: int


@dataclass
class Decision:
    """What is decided of a batch, by the numbers of the samples.

    quadrant: 0 between the lines. role: of the kept samples: "Q2", "Q4" or "outside". added: by the supplement. tied:
    whether the rule for equal scores decided who stays. tokens: (number, position) of those that keep their loss.
    uncertain: a sample lies exactly on a line that rounding may move.
    """

    quadrant: dict[int, int] = field(default_factory=dict)
    role: dict[int, str] = field(default_factory=dict)
    added: set[int] = field(default_factory=set)
    trimmed: int = 0
    tied: bool = False
    kept_share: Fraction = Fraction(0)
    tokens: set[tuple[int, int]] = field(default_factory=set)
    uncertain: bool = False


def exact(ratio: float) -> Fraction:
    """A ratio as it is written: 0.7 is 7/10."""
    return Fraction(repr(ratio))


def size_of_the_kept_set(ratio: Fraction, count: int, reading: str) -> int:
    share = ratio * count
    return max(1, round(share) if reading == "round" else share.numerator // share.denominator)


# Stage 1


def quantile(ordered: Sequence[Number], level: Fraction, reading: str) -> Number:
    if reading == "lower-step":
        for place, value in enumerate(ordered, 1):
            if Fraction(place, len(ordered)) >= level:
                return value
    position = level * (len(ordered) - 1)
    below = position.numerator // position.denominator
    if position == below:
        return ordered[below]
    return ordered[below] + (position - below) * (ordered[below + 1] - ordered[below])


def lines_of(values: Iterable[Number], level: Fraction, thresholds: str, reading: str) -> tuple[Number, Number]:
    ordered = sorted(values)
    low, high = quantile(ordered, level, reading), quantile(ordered, 1 - level, reading)
    if thresholds == "midpoint":
        middle = Fraction(low + high) / 2
        return middle, middle
    return low, high


def quadrant_of(error: str, uncertainty: str, naming: str, thresholds: str) -> int:
    if error == "high" and uncertainty == "high":
        return 1 if naming == "figure" else 2
    if error == "high" and uncertainty == "low":
        return 2 if naming == "figure" else 1
    if error == "low" and uncertainty == "low":
        return 3
    if error == "low" and uncertainty == "high":
        return 4
    if thresholds != "lean":
        return 0
    if error == "high" and uncertainty == "middle":
        return 2
    if (error, uncertainty) in {("middle", "low"), ("low", "middle")}:
        return 3
    return 4


def side(value: Number, lines: tuple[Number, Number]) -> str:
    low, high = lines
    if value > high:
        return "high"
    return "low" if value <= low else "middle"


def supplement_scores(values: Sequence[Number], reading: str) -> list[Fraction]:
    """n(.): min-max over the batch, or ranks."""
    if reading == "rank":
        if len(values) == 1:
            return [Fraction(0)]
        return [
            (sum(other < value for other in values) + Fraction(sum(other == value for other in values) - 1, 2))
            / (len(values) - 1)
            for value in values
        ]
    least, most = min(values), max(values)
    return [Fraction(value - least) / (most - least) if most > least else Fraction(0) for value in values]


def decide(
    batch: Sequence[Point],
    sample_ratio: float,
    token_ratio: float,
    lambda_: float = 0.5,
    readings: Mapping[str, str] = DEFAULTS,
    draw: Callable[[set[int], int], set[int]] | None = None,
) -> Decision:
    """Both stages. draw: whom the supplement `random` takes, of a pool, so many."""
    asked = {**DEFAULTS, **readings}
    r_sample, r_token = exact(sample_ratio), exact(token_ratio)
    found = Decision()
    triage(found, batch, r_sample, asked, draw)
    prune(found, batch, r_sample, r_token, exact(lambda_), asked)
    return found


def triage(
    found: Decision,
    batch: Sequence[Point],
    r_sample: Fraction,
    asked: Mapping[str, str],
    draw: Callable[[set[int], int], set[int]] | None,
) -> None:
    errors = {point.number: point.ppl for point in batch}
    doubts = {p.number: p.sequence_ent if asked["entropy"] == "sequence" else p.ent for p in batch}
    stays = {2: "Q2", 4: "Q4"}
    if "Q1" not in asked["drop_in"]:
        stays[1] = "outside"
    if "Q3" not in asked["drop_in"]:
        stays[3] = "outside"

    # lines 5 to 16
    low, high = Fraction(0), Fraction(49, 100)
    for _ in range(10):
        level = (low + high) / 2
        of_error = lines_of(errors.values(), level, asked["thresholds"], asked["quantile"])
        of_doubt = lines_of(doubts.values(), level, asked["thresholds"], asked["quantile"])
        for n in errors:
            where = side(errors[n], of_error), side(doubts[n], of_doubt)
            found.quadrant[n] = quadrant_of(*where, asked["quadrants"], asked["thresholds"])
        if asked["thresholds"] == "midpoint":
            for values, (line, _) in ((errors, of_error), (doubts, of_doubt)):
                found.uncertain |= line in values.values() and len(set(values.values())) > 1
        found.kept_share = Fraction(sum(q in stays for q in found.quadrant.values()), len(batch))
        if asked["search"] == "tolerance" and abs(found.kept_share - r_sample) <= Fraction(1, 100):
            break
        if found.kept_share < r_sample:
            low = level
        else:
            high = level

    # line 17
    found.role = {n: stays[q] for n, q in found.quadrant.items() if q in stays}
    wanted = size_of_the_kept_set(r_sample, len(batch), asked["kept_samples"])
    n_error = dict(zip(errors, supplement_scores(list(errors.values()), asked["supplement"]), strict=True))
    n_doubt = dict(zip(doubts, supplement_scores(list(doubts.values()), asked["supplement"]), strict=True))
    supp = {n: max(n_error[n] - n_doubt[n], n_doubt[n] - n_error[n]) for n in errors}

    def best(pool: Iterable[int], count: int) -> set[int]:
        ordered = sorted(pool, key=lambda n: (-supp[n], n))
        taken, left = ordered[:count], ordered[count:]
        found.tied = bool(taken and left) and supp[taken[-1]] == supp[left[0]]
        return set(taken)

    if asked["surplus"] == "trim" and len(found.role) > wanted:
        found.trimmed = len(found.role) - wanted
        chosen = best(found.role, wanted)
        found.role = {n: role for n, role in found.role.items() if n in chosen}

    # lines 18 to 21
    # 100% of the samples are all samples, under A10 `none`, too
    if len(found.role) < wanted and (asked["supplement"] != "none" or r_sample == 1):
        pool, missing = set(errors) - set(found.role), wanted - len(found.role)
        if asked["supplement"] == "random":
            assert draw is not None
            found.added = draw(pool, missing)
        else:
            found.added = best(pool, missing)
        for n in found.added:
            nearer = "Q2" if n_error[n] > n_doubt[n] else "Q4"
            found.role[n] = nearer if asked["supplemented"] == "nearer" else "outside"


# Stage 2


def prune(
    found: Decision,
    batch: Sequence[Point],
    r_sample: Fraction,
    r_token: Fraction,
    weight: Fraction,
    asked: Mapping[str, str],
) -> None:
    losing = set() if asked["prune_in"] == "none" else set(asked["prune_in"].split("+"))
    alive = {point.number: set(range(len(point.tokens))) for point in batch if point.number in found.role}
    if r_token == 1:
        losing = set()
    scores: dict[tuple[int, int], Number] = {}
    for point in batch:
        if found.role.get(point.number) not in losing:
            continue
        for t, own in enumerate(point.tokens):
            before = point.tokens[t - 1] if t else 0
            after = point.tokens[t + 1] if t + 1 < len(point.tokens) else 0
            around = before + after if asked["neighbours"] == "sum" else Fraction(before + after) / 2
            median = middle_of(point.tokens)
            if asked["may_go"] == "any" or (own > median and Fraction(before + after) / 2 > median):
                scores[point.number, t] = (1 - weight) * own + weight * around
    sign = -1 if asked["survivors"] == "keep-low" else 1
    queue = sorted(scores, key=lambda token: (sign * scores[token], -token[0], -token[1]))

    if asked["counted"] == "sample":
        for point in batch:
            mine = [t for n, t in queue if n == point.number]
            keep = size_of_the_kept_set(r_token, len(point.tokens), "floor")
            for t in mine[: len(point.tokens) - keep]:
                alive[point.number].remove(t)
    elif losing:
        prompts = {p.number: p.prompt if asked["counted"] == "sequence" else 0 for p in batch}
        everything = sum(len(p.tokens) + prompts[p.number] for p in batch)
        allowed = max(1, round(everything * r_sample * r_token))
        for n, t in queue:
            response = sum(map(len, alive.values()))
            if response == 1 or response + sum(prompts[kept] for kept in alive) <= allowed:
                break
            alive[n].remove(t)
    found.tokens = {(n, t) for n, places in alive.items() for t in places}


def middle_of(values: Sequence[Number]) -> Number:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else Fraction(ordered[half - 1] + ordered[half]) / 2
