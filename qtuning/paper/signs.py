"""Whether the difference between Q-Tuning and each method has the same sign in the paper and in our runs.

A small model cannot reproduce a number, but it can agree or disagree about which of two methods is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from qtuning.paper.published import MODEL_LABEL, PaperRow, Place, Published, place_of
from qtuning.statistics.summary import AVERAGE, Entry, Summary
from qtuning.store.lines import Line
from qtuning.tables.labels import percent
from qtuning.tables.page import Block, Column, Field, Table

SameSign = Literal["yes", "no", "seeds disagree", "paper divided", "–"]

NOTES = (
    "Average score of Q-Tuning minus that of the method, in points; ours is the mean over the seeds.",
    "Same sign: of our difference and the paper's, for the same model where the paper has it, else for all of its "
    "models. seeds disagree: our difference changes its sign between seeds. paper divided: its models differ in sign. "
    "–: a score is missing.",
    "A sign says nothing about size: where both are within noise, half of the signs agree by chance.",
)

SIGN_SCHEMA: dict[str, pl.DataType] = {
    "experiment": pl.String(),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("method", "model", "paper_model"), pl.String()),
    **dict.fromkeys(("paper_difference", "difference", "lowest", "highest"), pl.Float64()),
    "seeds": pl.Int64(),
    "same_sign": pl.String(),
}
"""Columns of `tidy_signs`; lowest, highest: of our differences by seed."""


@dataclass(frozen=True)
class Sign:
    """Q-Tuning minus one method at one budget (shares of samples and tokens), with one model of ours.

    rival: the method. paper: difference by model of the paper that ours is compared with; ours: difference by seed.
    """

    budget: tuple[float, float]
    rival: PaperRow
    model: str
    paper: dict[str, float]
    ours: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Our difference, over the seeds; None where a score is missing."""
        return sum(self.ours) / len(self.ours) if self.ours else None

    @property
    def same_sign(self) -> SameSign:
        """Whether the two have the same sign; a difference that is 0 as printed has neither."""
        if not self.ours or not self.paper:
            return "–"
        theirs, mine = ({_sign(value) for value in values} for values in (self.paper.values(), self.ours))
        if len(theirs) > 1:
            return "paper divided"
        if len(mine) > 1:
            return "seeds disagree"
        return "yes" if mine == theirs else "no"


def compare_signs(summary: Summary, published: Published, table: int) -> list[Sign]:
    """One entry per budget of the paper that we have, method, and model of ours; only methods at default options."""
    theirs: dict[Place, dict[str, PaperRow]] = {}
    for row in published.rows(table):
        theirs.setdefault(row.place, {})[row.model] = row
    ours = {place_of(line): line for line in summary.lines if not line.variant}
    # what prunes nothing comes first, as in every table
    references = [place for place in (("zero-shot",), ("full",)) if place in theirs]
    signs = []
    for target in theirs:
        if target[2:] != ("q-tuning", "q-tuning") or target not in ours:
            continue
        for rival in (*references, *(place for place in theirs if place[:2] == target[:2] and place != target)):
            for model in summary.models:
                paper = {
                    name: float(published.scores[theirs[target][name]][AVERAGE] - published.scores[row][AVERAGE])
                    for name, row in theirs[rival].items()
                    if name in theirs[target] and (name == model or model not in theirs[target])
                }
                differences = _differences(summary, ours[target], ours.get(rival), model)
                signs.append(Sign(target[:2], next(iter(theirs[rival].values())), model, paper, differences))
    return signs


def sign_table(signs: Sequence[Sign], labels: dict[str, str]) -> Table:
    """The comparison as a table, a block per budget. labels: of our models."""
    papers = list(dict.fromkeys(name for sign in signs for name in sign.paper))
    blocks: dict[tuple[float, float], dict[Place, list[Sign]]] = {}
    for sign in signs:
        blocks.setdefault(sign.budget, {}).setdefault(sign.rival.place, []).append(sign)
    columns = [
        *(Column(name, words=True) for name in ("Sample pruner", "Token pruner")),
        *(Column(MODEL_LABEL.get(name, name), "Paper") for name in papers),
    ]
    for model in dict.fromkeys(sign.model for sign in signs):
        columns += [Column(labels[model], "Ours"), Column("same sign", "Ours")]
    drawn = tuple(
        Block(
            f"Samples {percent(samples)} x Tokens {percent(tokens)}",
            tuple(_fields(found, papers) for found in block.values()),
        )
        for (samples, tokens), block in blocks.items()
    )
    title = "Q-Tuning against each method: does the sign agree?"
    return Table("signs", title, tuple(columns), drawn, notes=(count_signs(signs), *NOTES))


def count_signs(signs: Sequence[Sign]) -> str:
    """How many of the comparisons agree."""
    answers = [sign.same_sign for sign in signs]
    meanings: dict[SameSign, str] = {
        "seeds disagree": "where our seeds disagree",
        "paper divided": "where the paper's models do",
        "–": "with a score missing",
    }
    others = [f"{answers.count(name)} {meaning}" for name, meaning in meanings.items() if name in answers]
    agreeing, decided = answers.count("yes"), answers.count("yes") + answers.count("no")
    text = f"Same sign in {agreeing} of {decided} comparisons that can be decided"
    return f"{text}; besides: {', '.join(others)}." if others else f"{text}."


def tidy_signs(signs: Sequence[Sign], experiment: str) -> pl.DataFrame:
    """One row per budget, method, model of ours and model of the paper."""
    rows = [
        {
            "experiment": experiment,
            "sample_ratio": sign.budget[0],
            "token_ratio": sign.budget[1],
            "method": "+".join(map(str, sign.rival.place[2:] or sign.rival.place)),
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


def _differences(summary: Summary, target: Line, rival: Line | None, model: str) -> tuple[float, ...]:
    """Q-Tuning minus the method by seed; empty for a hole."""
    mine = summary.entries.get((target, model, summary.overall))
    other = summary.entries.get((rival, model, summary.overall)) if rival is not None else None
    if not isinstance(mine, Entry) or not isinstance(other, Entry):
        return ()
    # the model without training has one score, which stands beside every seed
    theirs = other.values * len(mine.values) if other.seeds == ("",) else other.values
    return tuple(a - b for a, b in zip(mine.values, theirs, strict=True))


def _sign(difference: float) -> int:
    rounded = round(difference, 2)
    return (rounded > 0) - (rounded < 0)


def _fields(found: Sequence[Sign], papers: Sequence[str]) -> tuple[Field, ...]:
    """The row of one method: the paper's differences, then for each of our models the difference and the answer."""
    paper = {name: difference for sign in found for name, difference in sign.paper.items()}
    fields: list[Field] = [*found[0].rival.labels]
    fields += [f"{paper[name]:+.2f}" if name in paper else "–" for name in papers]
    for sign in found:
        fields += ["–" if sign.mean is None else f"{sign.mean:+.2f}", sign.same_sign]
    return tuple(fields)
