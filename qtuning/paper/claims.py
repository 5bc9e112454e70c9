"""Published claims (`qtuning/assets/paper/claims.yaml`): what they say, and how to recompute it. docs/audit.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qtuning.errors import UserError
from qtuning.experiment.yaml_files import explain, load_yaml, nearest
from qtuning.paper.measured import Budget
from qtuning.paper.reference import PAPER, Published

Verdict = Literal["holds", "partly", "contradicted", "not testable"]
Versus = Literal["full", "best-baseline"]
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
"""A number in a claim's text; not the digits of a name (LLaMA2-7B, SmolLM2-1.7B)."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _budget(value: Any) -> Budget:
    """`[12.5, 50]` as YAML reads it; through text, so that 12.5 stays exact."""
    numbers = isinstance(value, list | tuple) and all(type(part) in (int, float) and 0 < part <= 100 for part in value)
    if not numbers or len(value) != 2:
        raise ValueError("must be a budget, [per cent of samples, per cent of tokens]")
    return Budget(*(Decimal(str(part)) for part in value))


Pair = Annotated[Any, BeforeValidator(_budget)]
Models = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Tables = Annotated[tuple[int, ...], BeforeValidator(_listed), Field(min_length=1)]
Figures = Annotated[tuple[float, ...], BeforeValidator(_listed), Field(min_length=1)]


class Recipe(BaseModel):
    """Base of `from`: how a claim is recomputed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Value(Recipe):
    """A score of Q-Tuning."""

    how: Literal["value"]
    table: int
    model: Models
    budget: Pair
    benchmark: str


class Change(Recipe):
    """How far Q-Tuning is above full data, or above the best of the baselines at its budget."""

    how: Literal["difference", "relative"]
    table: int
    model: Models
    budget: Pair
    benchmark: str
    versus: Versus


class Sign(Recipe):
    """Whether Q-Tuning is above full data, or above the best baseline, at every budget of every model."""

    how: Literal["sign-of-difference"]
    table: Tables
    benchmark: str
    versus: Versus


class Averages(Recipe):
    """Whether every average of a model's rows is the mean of the row's benchmarks."""

    how: Literal["recompute-averages"]
    table: int
    model: Models


class Compare(Recipe):
    """Whether rows of a pruner differ between two budgets; a pruner may be `any`."""

    how: Literal["compare-rows"]
    table: int
    sample_pruner: str
    token_pruner: str
    budgets: tuple[Pair, Pair]


AnyRecipe = Value | Change | Sign | Averages | Compare
RECIPES: dict[str, type[AnyRecipe]] = {
    how: recipe for recipe in get_args(AnyRecipe) for how in get_args(recipe.model_fields["how"].annotation)
}


class _Entry(BaseModel):
    """A claim as written; `from` is validated by its own `how`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    claim: str = Field(min_length=1)
    expected: Figures | None = None
    unit: str | None = None
    recipe: dict[str, Any] = Field(alias="from")
    verdict: Verdict


@dataclass(frozen=True)
class Figure:
    """A figure of a claim, as its text prints it: `36.5`, which stands for 36.45 to 36.55."""

    text: str

    @property
    def value(self) -> Fraction:
        """The printed number."""
        return Fraction(self.text)

    @property
    def rounding(self) -> Fraction:
        """Half a unit of its last digit."""
        return Fraction(1, 2 * 10 ** len(self.text.partition(".")[2]))


@dataclass(frozen=True)
class Claim:
    """A published claim. figures: one for each of `recipe.model`, empty for claims without a number. verdict: what the
    file says of it, which the audit compares with what it computes."""

    id: str
    text: str
    figures: tuple[Figure, ...]
    recipe: AnyRecipe
    verdict: Verdict


def read_claims(published: Published, path: Path = PAPER / "claims.yaml") -> list[Claim]:
    """Read a file of claims about `published`. UserError lists every problem with file, claim and key."""
    entries = load_yaml(Path(path))
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a list of claims, found {type(entries).__name__}")
    problems: list[str] = []
    claims: list[Claim] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: claim {entry['id'] if isinstance(entry, dict) and 'id' in entry else number}"
        try:
            claim = _claim(entry, where)
            _check_names(claim.recipe, published, where)
            if claim.id in {other.id for other in claims}:
                raise UserError(f"{where}: id = {claim.id!r}: is there twice")
            claims.append(claim)
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))
    return claims


def _claim(value: Any, where: str) -> Claim:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected keys and values, found {type(value).__name__}")
    try:
        entry = _Entry.model_validate(value)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, where, _Entry))) from None
    how = entry.recipe.get("how")
    if how not in RECIPES:
        raise UserError(f"{where}: from.how = {how!r}: unknown{nearest(str(how), RECIPES)}")
    schema = RECIPES[how]
    try:
        recipe = schema.model_validate(entry.recipe)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, f"{where}: from", schema))) from None
    return Claim(entry.id, entry.claim, _figures(entry, recipe, where), recipe, entry.verdict)


def _figures(entry: _Entry, recipe: AnyRecipe, where: str) -> tuple[Figure, ...]:
    """The expected figures as the claim's text prints them: their digits set the tolerance."""
    if not isinstance(recipe, Value | Change):
        if entry.expected is not None:
            raise UserError(f"{where}: expected: a claim of {recipe.how} has no figure of its own")
        return ()
    if entry.expected is None:
        raise UserError(f"{where}: expected: required, but not given")
    if len(entry.expected) != len(recipe.model):
        raise UserError(f"{where}: expected: {len(entry.expected)} figures for {len(recipe.model)} models")
    figures = []
    for expected in entry.expected:
        value = Fraction(str(expected))
        written = [text for text in NUMBER.findall(entry.claim) if Fraction(text) == abs(value)]
        if not written:
            raise UserError(
                f"{where}: expected = {expected:g}: the claim's text has no such figure, so how exactly it was stated "
                "is not known; quote the claim with its figure"
            )
        figures.append(Figure(f"{'-' if value < 0 else ''}{max(written, key=len)}"))
    return tuple(figures)


def _check_names(recipe: AnyRecipe, published: Published, where: str) -> None:
    """A name that the scores do not have is a slip of the pen; a budget that they do not have was not published."""
    tables = sorted(published.train_sets)
    for table in recipe.table if isinstance(recipe, Sign) else (recipe.table,):
        if table not in tables:
            raise UserError(f"{where}: from.table = {table}: not among the published tables {tables}")
        rows = [row for row in published.rows() if row.table == table]
        _known(getattr(recipe, "model", ()), [row.model for row in rows], f"{where}: from.model")
        benchmarks = [benchmark for row in rows for benchmark in published.scores[row]]
        if (benchmark := getattr(recipe, "benchmark", None)) is not None:
            _known((benchmark,), benchmarks, f"{where}: from.benchmark")
        for key in ("sample_pruner", "token_pruner"):
            if (pruner := getattr(recipe, key, "any")) != "any":
                _known((pruner,), [getattr(row, key) for row in rows], f"{where}: from.{key}")


def _known(names: Sequence[str], valid: Sequence[str], where: str) -> None:
    for name in names:
        if name not in valid:
            raise UserError(f"{where} = {name!r}: unknown{nearest(name, dict.fromkeys(valid))}")
