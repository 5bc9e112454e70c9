"""The keys that a YAML file of an experiment or a scale may hold, each with its type, its default and what it means.

`cell.py` has the keys of a cell. `grid.py` reads the YAML files into these classes and expands experiments into cells.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from qtuning.experiment.base import Config, Name
from qtuning.experiment.cell import Colour, Evaluation, Labelled, MethodLabel, Readings, Seeds, Training
from qtuning.experiment.metrics import MetricName


def parse_budget(value: Any) -> Any:
    """`"25x50"` (per cent) -> {"sample_ratio": 0.25, "token_ratio": 0.5}; a mapping is returned as it is.

    Numbers are refused with an explanation: YAML reads an unquoted `0x50` as the number 80.
    """
    if isinstance(value, list):
        raise ValueError("is no budget; write per cent of samples x per cent of tokens, e.g. 25x50")
    if not isinstance(value, str | int | float):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f"read by YAML as a {'truth value' if isinstance(value, bool) else 'number'}, which is no budget; write "
            'SAMPLESxTOKENS in quotes, each in per cent above 0, e.g. "25x50"'
        )
    number = r"\s*(\d+(?:\.\d+)?)\s*"
    match = re.fullmatch(f"{number}x{number}", str(value))
    if match is None:
        raise ValueError(f"{value!r} is no budget; write per cent of samples x per cent of tokens, e.g. 25x50")
    # 33.3 / 100 is 0.33299999999999996, but "33.3x50" and the ratio 0.333 must be one cell
    samples, tokens = (round(float(percent) / 100, 12) for percent in match.groups())
    if wrong := [name for name, ratio in (("samples", samples), ("tokens", tokens)) if not 0 < ratio <= 1]:
        raise ValueError(f"per cent of {' and of '.join(wrong)} must be above 0 and at most 100")
    return {"sample_ratio": samples, "token_ratio": tokens}


class Ratios(Config):
    """A budget: (r_sample, r_token), each in (0, 1]."""

    sample_ratio: float = Field(gt=0, le=1)
    token_ratio: float = Field(gt=0, le=1)


BudgetEntry = Annotated[Ratios, BeforeValidator(parse_budget)]
EXTREME = 0.01
"""Where both ratios of a budget are at most this, it was most likely written in shares and not in per cent."""


def question_budgets(budgets: Iterable[Ratios], extreme: bool) -> None:
    """ValueError for a budget that is most likely meant a hundred times larger. extreme: it is meant as it is."""
    for budget in () if extreme else budgets:
        if max(budget.sample_ratio, budget.token_ratio) <= EXTREME:
            samples, tokens = (f"{100 * ratio:g}" for ratio in (budget.sample_ratio, budget.token_ratio))
            meant = "x".join(f"{10_000 * ratio:g}" for ratio in (budget.sample_ratio, budget.token_ratio))
            raise ValueError(f"{samples}% x {tokens}%: did you mean {meant}? If not, write `extreme: true` beside it")


def _in_quotes(value: Any) -> Any:
    if value is None:  # where it is not given at all, nobody asks
        raise ValueError('write it in quotes, as in "#0072B2": for YAML, # begins a comment')
    return value


class MethodEntry(Config):
    """A method with options: `{method: q-tuning, options: {lambda: 0.3}}`."""

    method: str
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of its pruners; any of Readings; `scoring` (Scoring); reference, proxy: NAME of a model",
    )
    budgets: tuple[BudgetEntry, ...] = Field((), description="those of the experiment's that it has; none: all")
    label: MethodLabel | None = Field(None, description="what tables, figures, reports and dashboards call it")
    colour: Annotated[Colour | None, BeforeValidator(_in_quotes)] = Field(
        None, description='of it in figures and reports, e.g. "#0072B2"'
    )


def _method(value: Any) -> Any:
    if isinstance(value, int | float | list):
        raise ValueError("is no method; write its name, or {method: NAME, options: {...}}")
    return {"method": value} if isinstance(value, str) else value


def _seed(value: Any) -> Any:
    if isinstance(value, str | float | list):
        raise ValueError("is no seed; write a whole number in decimal digits, or {data: 0, pruner: 0, init: 0}")
    if isinstance(value, int) and value < 0:
        raise ValueError("is no seed; write 0 or a number above")
    return {"data": value, "pruner": value, "init": value} if isinstance(value, int) else value


MethodItem = Annotated[MethodEntry, BeforeValidator(_method)]
SeedEntry = Annotated[Seeds, BeforeValidator(_seed)]


class Primary(Config):
    """The comparisons that an experiment is made for. They are corrected together; all others are exploratory."""

    metric: MetricName = Field("headline", description="headline: each benchmark's own (docs/results.md has the list)")
    comparisons: Annotated[tuple[tuple[str, str], ...], BeforeValidator(lambda v: () if v == "default" else v)] = Field(
        (),
        description="pairs [METHOD, RIVAL], compared at each budget on the average of the benchmarks; `default`: each "
        "method with a name of its own that is no control with random+random (docs/statistics.md)",
    )


class EvaluationChanges(Evaluation):
    """Changes to an evaluation: only the keys that are written count."""

    benchmarks: tuple[Name, ...] = ()


class Changes(Config):
    """What a scale changes in an experiment; everything else stays as it is.

    Mappings (`training`, `readings`, `evaluation`) are merged key by key, lists are replaced.
    """

    models: tuple[str, ...] = Field((), min_length=1)
    train_sets: tuple[str, ...] = Field((), min_length=1)
    methods: tuple[MethodItem, ...] = Field((), min_length=1)
    budgets: tuple[BudgetEntry, ...] = Field((), min_length=1)
    seeds: tuple[SeedEntry, ...] = Field((), min_length=1)
    training: Training = Training()
    trainings: tuple[Training, ...] = Field((), min_length=1)
    readings: Readings = Readings()
    evaluation: EvaluationChanges | None = Field(
        None, description="of experiments that have one; a scale gives none to the others"
    )
    primary: Primary = Primary()
    limit_train: int | None = Field(None, gt=0)
    zero_shot: bool = True
    keep_weights: bool = False


class Scale(Labelled, Changes):
    """The changes that make a smaller edition of an experiment (configs/scales/NAME.yaml); `label` goes into its title.

    The edition is called EXPERIMENT-NAME. It exists if `scales` of the experiment names the scale.
    """

    controls: bool = Field(
        False,
        description="also run random pruning, oracle and adversary at each budget (of tokens where all samples stay); "
        "needs train sets whose samples are of known kinds",
    )


class EditionChanges(Changes):
    """What the `scales` block of an experiment changes beyond the scale itself."""

    title: str = Field("", description="without the scale's label, which follows it; default: the experiment's own")


class Composite(Config):
    """Several experiments in one table (configs/experiments/NAME.yaml with `parts`): the union of their cells.

    Its editions are those that all of its parts have.
    """

    name: Name
    title: str
    parts: tuple[str, ...] = Field(min_length=1, description="names of experiments, in the order of the table")
    primary: Primary | None = Field(None, description="default: that of its parts, if they agree")


class Alias(Config):
    """An earlier name of an experiment (configs/experiments/NAME.yaml with `alias`): the same cells and editions.

    The title says what the experiment is called now.
    """

    name: Name
    alias: str = Field(min_length=1, description="the name that it has now")


NO_CHANGES = BeforeValidator(lambda value: {} if value is None else value)


class Experiment(Config):
    """A grid (configs/experiments/NAME.yaml): every combination of its axes is a cell."""

    name: Name
    title: str
    models: tuple[str, ...] = Field(min_length=1)
    train_sets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[MethodItem, ...] = Field(min_length=1)
    extreme: bool = Field(False, description="budgets of at most 1% of the samples and 1% of the tokens are meant")
    budgets: tuple[BudgetEntry, ...] = Field(min_length=1)
    seeds: tuple[SeedEntry, ...] = Field(min_length=1)
    training: Training = Training()
    trainings: tuple[Training, ...] = Field(
        (Training(),),
        min_length=1,
        description="an axis: settings that go before those of `training`, of which only those that are written count",
    )
    readings: Readings = Field(Readings(), description="of every method that does not say otherwise in its options")
    evaluation: Evaluation | None = Field(None, description="null: the cells are trained, but answer no benchmark")
    primary: Primary = Field(Primary(), description="the comparisons that it is made for (docs/statistics.md)")
    limit_train: int | None = Field(None, gt=0)
    zero_shot: bool = Field(True, description="also evaluate each model without training")
    localisation: bool = Field(
        False, description="also compare pruned tokens with the planted errors of the train set (docs/experiments.md)"
    )
    observe: bool = Field(
        False,
        description="also score 100 fixed training samples during training, and record which tokens are pruned "
        "(docs/experiments.md); changes no weights",
    )
    measure: bool = Field(
        False, description="also train every cell once more with the machine to itself, for a table of time and memory"
    )
    keep_weights: bool = Field(False, description="keep full weights after evaluation (adapters always stay)")
    scales: dict[Name, Annotated[EditionChanges, NO_CHANGES]] = Field(
        default_factory=dict,
        description="its editions: names of configs/scales, each with what it changes here beyond what it says itself",
    )

    @field_validator("budgets")
    @classmethod
    def _budgets_are_meant(cls, budgets: tuple[Ratios, ...], info: ValidationInfo) -> tuple[Ratios, ...]:
        question_budgets(budgets, info.data.get("extreme", False))
        return budgets
