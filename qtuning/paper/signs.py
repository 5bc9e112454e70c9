"""Whether the difference between Q-Tuning and each method has the same sign in the paper and in our runs.

A small model cannot reproduce a number, but it can agree or disagree about which of two methods is better.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl

from qtuning.paper.published import MODEL_LABEL, PaperRow, Place, Published, changed_in, place_of
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.lines import Line
from qtuning.tables.page import Block, Column, Table

NOTES = (
    "Average score of Q-Tuning minus that of the method, in points; ours is the mean over the seeds. A method that "
    "prunes only samples, or only tokens, stands in the block of Q-Tuning's budget with its own share of them.",
    "Same sign: of our difference and the paper's, for the same model where the paper has it, else for all of its "
    "models. seeds disagree: our difference changes its sign between seeds. paper divided: its models differ in sign. "
    "–: a score is missing.",
    "A sign says nothing about size: where both are within noise, half of the signs agree by chance.",
)

Key = tuple[Place, str]
"""What our row and the paper's have in common: the place, and what is changed of the method."""

SIGN_SCHEMA: dict[str, pl.DataType] = {
    "experiment": pl.String(),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("method", "variant", "model", "paper_model"), pl.String()),
    **dict.fromkeys(("paper_difference", "difference", "lowest", "highest"), pl.Float64()),
    "seeds": pl.Int64(),
    "same_sign": pl.String(),
}
"""Columns of `tidy_signs`; lowest, highest: of our differences by seed."""


@dataclass(frozen=True)
class Sign:
    """Q-Tuning minus one method at one budget, with one model of ours.

    target, rival: rows of Q-Tuning and of the method. paper: difference by model of the paper that ours is compared
    with; ours: difference by seed, empty where a score is missing.
    """

    target: PaperRow
    rival: PaperRow
    model: str
    paper: dict[str, float]
    ours: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Our difference, over the seeds; None where a score is missing."""
        return sum(self.ours) / len(self.ours) if self.ours else None

    @property
    def same_sign(self) -> str:
        """Whether the two have the same sign (NOTES); a difference that is 0 as printed has neither."""
        if not self.ours or not self.paper:
            return "–"
        theirs, mine = ({np.sign(round(value, 2)) for value in side} for side in (self.paper.values(), self.ours))
        if len(theirs) > 1:
            return "paper divided"
        if len(mine) > 1:
            return "seeds disagree"
        return "yes" if mine == theirs else "no"


def compare_signs(summary: Summary, published: Published, table: int) -> list[Sign]:
    """One entry per budget of the paper that we have, method, and model of ours.

    A method is compared with Q-Tuning at the same share of samples and of tokens, where it prunes them at all. Only
    methods at default options, but for what the paper changes itself (tables 4, 5, 15).
    """
    theirs: dict[Key, dict[str, PaperRow]] = {}
    for row in published.rows(table):
        theirs.setdefault((row.place, row.line.variant), {})[row.model] = row
    ours = {(place_of(line), changed_in(line)): line for line in summary.lines}
    # what prunes nothing comes first, as in every table
    references = [key for key in ((("zero-shot",), ""), (("full",), "")) if key in theirs]
    signs = []
    for key, targets in theirs.items():
        target = next(iter(targets.values()))
        if not target.q_tuning or key not in ours:
            continue
        others = [other for other, rows in theirs.items() if _at_budget_of(target, next(iter(rows.values())))]
        for other in (*references, *others):
            rivals = theirs[other]
            for model in summary.models:
                paper = {
                    name: float(published.scores[targets[name]][AVERAGE] - published.scores[rivals[name]][AVERAGE])
                    for name in rivals
                    if name in targets and (name == model or model not in targets)
                }
                differences = _differences(summary, ours[key], ours.get(other), model)
                signs.append(Sign(target, next(iter(rivals.values())), model, paper, differences))
    return signs


def _at_budget_of(target: PaperRow, rival: PaperRow) -> bool:
    """Whether a pruning method spends what Q-Tuning does, of samples where it prunes them, and so of tokens."""
    if rival.setting != "pruned" or rival is target:
        return False
    samples = rival.sample_pruner == "none" or rival.sample_ratio == target.sample_ratio
    return samples and (rival.token_pruner == "none" or rival.token_ratio == target.token_ratio)


def _differences(summary: Summary, target: Line, rival: Line | None, model: str) -> tuple[float, ...]:
    """Q-Tuning minus the method by seed; empty for a hole."""
    mine = summary.entries.get((target, model, summary.overall))
    other = summary.entries.get((rival, model, summary.overall)) if rival is not None else None
    if not isinstance(mine, Entry) or not isinstance(other, Entry):
        return ()
    # the model without training has one score, which stands beside every seed
    theirs = other.values * len(mine.values) if other.seeds == ("",) else other.values
    return tuple(a - b for a, b in zip(mine.values, theirs, strict=True))


def sign_table(signs: Sequence[Sign], labels: dict[str, str]) -> Table:
    """The comparison as a table, a block per budget. labels: of our models."""
    papers = list(dict.fromkeys(name for sign in signs for name in sign.paper))
    columns = [
        *(Column(name, words=True) for name in ("Sample pruner", "Token pruner")),
        *(Column(MODEL_LABEL[name], "Paper") for name in papers),
    ]
    for model in dict.fromkeys(sign.model for sign in signs):
        columns += [Column(labels[model], "Ours"), Column("same sign", "Ours")]
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for (target, rival), found in groupby(signs, key=lambda sign: (sign.target, sign.rival)):
        by_model = list(found)
        paper = {name: difference for sign in by_model for name, difference in sign.paper.items()}
        fields = [*rival.labels, *(f"{paper[name]:+.2f}" if name in paper else "–" for name in papers)]
        for sign in by_model:
            fields += ["–" if sign.mean is None else f"{sign.mean:+.2f}", sign.same_sign]
        blocks.setdefault(target.block, []).append(tuple(fields))
    drawn = tuple(Block(title, tuple(rows)) for title, rows in blocks.items())
    title = "Q-Tuning against each method: does the sign agree?"
    return Table("signs", title, tuple(columns), drawn, notes=(count_signs(signs), *NOTES))


def count_signs(signs: Sequence[Sign]) -> str:
    """How many of the comparisons agree."""
    counts = Counter(sign.same_sign for sign in signs)
    meanings = {
        "seeds disagree": "where our seeds disagree",
        "paper divided": "where the paper's models do",
        "–": "with a score missing",
    }
    others = ", ".join(f"{counts[name]} {meaning}" for name, meaning in meanings.items() if counts[name])
    decided = counts["yes"] + counts["no"]
    text = f"Same sign in {counts['yes']} of {decided} comparisons that can be decided"
    return f"{text}; besides: {others}." if others else f"{text}."


def tidy_signs(signs: Sequence[Sign], experiment: str) -> pl.DataFrame:
    """One row per budget, method, model of ours and model of the paper."""
    rows = [
        {
            "experiment": experiment,
            "sample_ratio": sign.target.line.sample_ratio,
            "token_ratio": sign.target.line.token_ratio,
            "method": sign.rival.line.method,
            "variant": sign.rival.variant,
            "model": sign.model,
            "paper_model": name,
            "paper_difference": difference,
            "difference": sign.mean,
            "lowest": min(sign.ours, default=None),
            "highest": max(sign.ours, default=None),
            "seeds": len(sign.ours),
            "same_sign": sign.same_sign,
        }
        for sign in signs
        for name, difference in sign.paper.items()
    ]
    return pl.DataFrame(rows, schema=SIGN_SCHEMA).with_columns(pl.selectors.float().round(6))
