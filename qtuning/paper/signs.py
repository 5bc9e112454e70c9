"""Do the paper's findings have the same direction here? Q-Tuning above or below each method, in the paper and in ours.

A small model cannot reproduce a number, but it can agree or disagree about which method is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from qtuning.paper.published import LABEL, place, published_labels, published_place
from qtuning.tables.labels import named, percent
from qtuning.tables.page import Block, Column, Field, Table
from qtuning.tables.summary import AVERAGE, Entry, Line, Summary, summarise

Verdict = Literal["yes", "no", "seeds disagree", "paper divided", "–"]

NOTES = (
    "Average score of Q-Tuning minus that of the method, in points; ours is the mean over the seeds.",
    "Same sign: of our difference and the paper's, for the same model where the paper has it, else for all of its "
    "models. seeds disagree: our difference changes its sign between seeds. paper divided: its models differ in sign. "
    "–: a score is missing.",
    "A sign says nothing about size: where both are within noise, half of the signs agree by chance.",
)


@dataclass(frozen=True)
class Sign:
    """Q-Tuning against one method at one budget, with one model of ours.

    row: a published row of the method. paper: model -> difference, of the models it is compared with; ours: by seed.
    """

    sample_ratio: float
    token_ratio: float
    row: dict[str, Any]
    model: str
    paper: dict[str, float]
    ours: tuple[float, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether the two have the same sign; a difference that is 0 as printed has neither."""
        if not self.ours or not self.paper:
            return "–"
        theirs = {_sign(difference) for difference in self.paper.values()}
        mine = {_sign(difference) for difference in self.ours}
        if len(theirs) > 1:
            return "paper divided"
        if len(mine) > 1:
            return "seeds disagree"
        return "yes" if mine == theirs else "no"


def compare_signs(summary: Summary, published: Sequence[dict[str, Any]]) -> list[Sign]:
    """One entry per published budget that we have, method, and model of ours; empty where we have no such budget.

    published: rows of one table. Only rows with default options and readings take part.
    """
    theirs: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in published:
        if row["benchmark"] == AVERAGE:
            theirs.setdefault(published_place(row), {})[row["model"]] = row
    ours = {place(line): line for line in summary.lines if not line.variant}
    signs = []
    for budget in dict.fromkeys(key[:2] for key in theirs if len(key) > 1):
        target = (*budget, "q-tuning", "q-tuning")
        # what prunes nothing first (its key is a name alone), as in every table
        rivals = [key for key in theirs if len(key) == 1]
        rivals = [*sorted(rivals, reverse=True), *(key for key in theirs if key[:2] == budget and key != target)]
        if target not in theirs or target not in ours:
            continue
        for rival in rivals:
            for model in summary.models:
                paper = {
                    name: theirs[target][name]["score"] - row["score"]
                    for name, row in theirs[rival].items()
                    if name in theirs[target] and (name == model or model not in theirs[target])
                }
                row = next(iter(theirs[rival].values()))
                differences = _differences(summary, ours[target], ours.get(rival), model)
                signs.append(Sign(budget[0], budget[1], row, model, paper, differences))
    return signs


def sign_table(scores: pl.DataFrame, summary: Summary, published: Sequence[dict[str, Any]]) -> Table | None:
    """The comparison as a table, a block per budget; None where there is nothing to compare."""
    signs = compare_signs(summary, published)
    if not signs:
        return None
    labels = named(scores, "model")
    papers = list(dict.fromkeys(name for sign in signs for name in sign.paper))
    blocks: dict[tuple[float, float], dict[tuple[Any, ...], list[Sign]]] = {}
    for sign in signs:
        block = blocks.setdefault((sign.sample_ratio, sign.token_ratio), {})
        block.setdefault(published_place(sign.row), []).append(sign)
    columns = (
        Column("Sample pruner", words=True),
        Column("Token pruner", words=True),
        *(Column(LABEL.get(name, name), "Paper") for name in papers),
        *(
            column
            for model in summary.models
            for column in (Column(labels[model], "Ours"), Column("same sign", "Ours"))
        ),
    )
    drawn = tuple(
        Block(
            f"Samples {percent(samples)} x Tokens {percent(tokens)}",
            tuple(_row(found, papers) for found in block.values()),
        )
        for (samples, tokens), block in blocks.items()
    )
    return Table(
        "signs", "Q-Tuning against each method: does the sign agree?", columns, drawn, notes=(count(signs), *NOTES)
    )


def count(signs: Sequence[Sign]) -> str:
    """How many of the comparisons agree."""
    verdicts = [sign.verdict for sign in signs]
    decided = verdicts.count("yes") + verdicts.count("no")
    others = ", ".join(
        f"{verdicts.count(verdict)} {meaning}"
        for verdict, meaning in (
            ("seeds disagree", "where our seeds disagree"),
            ("paper divided", "where the paper's models do"),
            ("–", "with a score missing"),
        )
        if verdict in verdicts
    )
    text = f"Same sign in {verdicts.count('yes')} of {decided} comparisons that can be decided"
    return f"{text}; besides: {others}." if others else f"{text}."


def tidy_signs(scores: pl.DataFrame, published: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """One row per budget, method, model of ours and model of the paper."""
    summary = summarise(scores)
    rows = [
        {
            "experiment": scores["experiment"][0],
            "sample_ratio": sign.sample_ratio,
            "token_ratio": sign.token_ratio,
            "method": _method(sign.row),
            "model": sign.model,
            "paper_model": name,
            "paper_difference": difference,
            "difference": sum(sign.ours) / len(sign.ours) if sign.ours else None,
            "lowest": min(sign.ours, default=None),
            "highest": max(sign.ours, default=None),
            "seeds": len(sign.ours),
            "same_sign": sign.verdict,
        }
        for sign in compare_signs(summary, published)
        for name, difference in sign.paper.items()
    ]
    return pl.DataFrame(rows, schema=CSV_SCHEMA).with_columns(pl.selectors.float().round(6))


CSV_SCHEMA: dict[str, pl.DataType] = {
    "experiment": pl.String(),
    **dict.fromkeys(("sample_ratio", "token_ratio"), pl.Float64()),
    **dict.fromkeys(("method", "model", "paper_model"), pl.String()),
    **dict.fromkeys(("paper_difference", "difference", "lowest", "highest"), pl.Float64()),
    "seeds": pl.Int64(),
    "same_sign": pl.String(),
}
"""Columns of the CSV of signs, in order; lowest and highest: of our differences by seed."""


def _differences(summary: Summary, target: Line, rival: Line | None, model: str) -> tuple[float, ...]:
    """Q-Tuning minus the method by seed; the model without training is the same for every seed. Empty for a hole."""
    mine = summary.entries.get((target, model, summary.overall))
    other = summary.entries.get((rival, model, summary.overall)) if rival is not None else None
    if not isinstance(mine, Entry) or not isinstance(other, Entry):
        return ()
    theirs = other.values * len(mine.values) if other.seeds == ("",) else other.values
    return tuple(a - b for a, b in zip(mine.values, theirs, strict=True))


def _sign(difference: float) -> int:
    rounded = round(difference, 2)
    return (rounded > 0) - (rounded < 0)


def _method(row: dict[str, Any]) -> str:
    """full, zero-shot or sample+token."""
    if row["setting"] != "pruned":
        return str(published_place(row)[0])
    return f"{row['sample_pruner']}+{row['token_pruner']}"


def _row(found: Sequence[Sign], papers: Sequence[str]) -> tuple[Field, ...]:
    paper = {name: difference for sign in found for name, difference in sign.paper.items()}
    fields: list[Field] = [*published_labels(found[0].row)]
    fields += [f"{paper[name]:+.2f}" if name in paper else "–" for name in papers]
    for sign in found:
        mean = sum(sign.ours) / len(sign.ours) if sign.ours else None
        fields += ["–" if mean is None else f"{mean:+.2f}", sign.verdict]
    return tuple(fields)
