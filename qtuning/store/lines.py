"""Rows of the store -> lines. A *line* becomes a row of a table: a method with its options at a budget, over all seeds.

Cells that differ only in their seeds and their model belong to one line. Tables have a row per line; the statistics
compare lines.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, product
from operator import attrgetter
from typing import Any, Literal

import polars as pl

from qtuning.errors import UserError
from qtuning.experiment.cell import Readings
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.registry import is_control
from qtuning.store.schema import COST_COLUMNS, SELECTION_COLUMNS

RANDOM, FULL, ZERO_SHOT = "random+random", "full", "zero-shot"
"""The methods that others are compared with: random pruning, no pruning, no training."""

Control = Literal["oracle", "adversary"]
"""The best and the worst selection; every method should lie between."""

Part = Literal["sample", "token", "method"]
"""Whose option it is: the sample pruner's, the token pruner's, or a reading that concerns both."""

PARTS: tuple[Part, ...] = ("sample", "token", "method")

MOST_NAMED = 2
"""An experiment that varies more options of one method than these has them named only where they differ."""

Options = dict[Part, dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """One method at one budget on one train set.

    sample_ratio and token_ratio are None for the zero-shot model. options: JSON text, as in the store. training: what
    an experiment varies in training, e.g. `batch_size=16`, or empty. variant: that, and the options that differ from
    the method's defaults, e.g. `lambda=0.3`, or empty. named: options that a label names even at their defaults,
    because other lines of the method in the experiment set them. label, colour: what the experiment calls the method,
    and draws it in, if it says so. These three are not part of the line's identity.
    """

    train_set: str
    method: str
    sample_pruner: str
    token_pruner: str
    sample_ratio: float | None
    token_ratio: float | None
    options: str
    variant: str
    training: str = ""
    named: tuple[tuple[Part, str], ...] = field(default=(), compare=False)
    label: str | None = field(default=None, compare=False)
    colour: str | None = field(default=None, compare=False)

    @property
    def reference(self) -> bool:
        """Whether nothing is pruned: the full data set, or no training at all."""
        return self.method in (FULL, ZERO_SHOT)

    @property
    def control(self) -> bool:
        """Whether the line knows the truth about the train set, so that it competes with nobody."""
        return is_control(self.sample_pruner, self.token_pruner)

    def columns(self) -> dict[str, Any]:
        """The line's columns in every frame that has a row per line; a frame's schema picks those it has."""
        return {name: value for name, value in vars(self).items() if name not in ("named", "label")}

    def shown_options(self) -> Options:
        """The options that differ from the defaults, and those in `named` at whatever value."""
        if not self.options:
            return {}
        found = changed_options(self.method, self.sample_pruner, self.token_pruner, self.options)
        chosen = json.loads(self.options)
        for part, key in self.named:
            if key in chosen[part]:
                found[part][key] = chosen[part][key]
        return found


Seeds = dict[str, dict[str, Any]]
"""Seed -> a row of its cell, which carries the cell's costs."""

Cells = dict[tuple[Line, str], Seeds]
"""(line, model) -> its cells."""


def line_of(row: Mapping[str, Any], train_set: str) -> Line:
    """The line that a row of the store belongs to. train_set: that of the table, for the zero-shot model."""
    if row["method"] == ZERO_SHOT:
        return Line(train_set, ZERO_SHOT, "", "", None, None, "", "")
    names = ("method", "sample_pruner", "token_pruner", "sample_ratio", "token_ratio", "options")
    training = row.get("training") or ""
    pruners = row["sample_pruner"], row["token_pruner"]
    chosen = option_text(changed_options(row["method"], *pruners, row["options"]).values())
    return Line(
        train_set,
        **{name: row[name] for name in names},
        variant=", ".join(text for text in (training, chosen) if text),
        training=training,
        label=row.get("method_label"),
        colour=row.get("method_colour"),
    )


def in_table_order(lines: Sequence[Line], train_sets: Sequence[str]) -> list[Line]:
    """By train set; within it what prunes nothing, then the budgets as configured; pairs grouped by their sample
    pruner, then Q-Tuning, controls last. Each line gets to know what all the lines of its method vary (`named`)."""
    methods: dict[str, list[tuple[str, str, str]]] = {}
    for line in lines:
        if line.options:
            methods.setdefault(line.method, []).append((line.sample_pruner, line.token_pruner, line.options))
    named = {method: varied(method, dict.fromkeys(rows)) for method, rows in methods.items()}
    samples = list(dict.fromkeys(line.sample_pruner for line in lines))
    tokens = list(dict.fromkeys(line.token_pruner for line in lines))
    budgets = list(dict.fromkeys((line.sample_ratio, line.token_ratio) for line in lines))
    trainings = list(dict.fromkeys(line.training for line in lines))

    def key(line: Line) -> tuple[Any, ...]:
        budget = -1 if line.reference else budgets.index((line.sample_ratio, line.token_ratio))
        return (
            train_sets.index(line.train_set),
            budget,
            line.control,
            line.method != ZERO_SHOT,
            line.method in PRESETS,
            samples.index(line.sample_pruner),
            tokens.index(line.token_pruner),
            trainings.index(line.training),
        )

    return [replace(line, named=named.get(line.method, ())) for line in sorted(lines, key=key)]


def cells_by_line(table: pl.DataFrame) -> Cells:
    """The cells of each trained line and model, in table order; a cell that the table lacks is there without any cost.

    table: rows of one experiment, of scores.parquet or of cells.parquet.
    """
    trained = table.filter(pl.col("seed").is_not_null()).unique("cell", keep="first", maintain_order=True)
    seeds, train_sets, models = (
        trained[name].unique(maintain_order=True).to_list() for name in ("seed", "train_set", "model")
    )
    found: Cells = {}
    for row in trained.iter_rows(named=True):
        found.setdefault((line_of(row, row["train_set"]), row["model"]), {})[row["seed"]] = row
    measured = (*COST_COLUMNS, *SELECTION_COLUMNS)
    for by_seed in found.values():
        absent = next(iter(by_seed.values())) | {"cell": "", "status": "not run"} | dict.fromkeys(measured)
        for seed in seeds:
            by_seed.setdefault(seed, absent | {"seed": seed})
    order = in_table_order(list(dict.fromkeys(line for line, _ in found)), train_sets)
    return {(line, model): found[line, model] for line in order for model in models if (line, model) in found}


def random_at_budget(line: Line, lines: Sequence[Line]) -> Line | None:
    """The line that differences are taken from: random samples and random tokens at the same budget.

    Trained in the same way, and under the line's own readings (an experiment may have them for all its methods), else
    under the default ones. Where a ratio is 1, a pruner that prunes nothing is as good as a random one.
    """
    samples = ["random", "full"] if line.sample_ratio == 1 else ["random"]
    return _of_pruners(line, lines, samples, "random")


def control_at_budget(line: Line, lines: Sequence[Line], control: Control) -> Line | None:
    """The oracle or the adversary at a line's budget, trained as it was: that of samples with random tokens, or, where
    all samples are kept, that of tokens."""
    if line.sample_ratio == 1:
        return _of_pruners(line, lines, ["random", "full"], f"{control}-tokens")
    return _of_pruners(line, lines, [control], "random")


def method_at_budget(line: Line, lines: Sequence[Line], method: str) -> Line | None:
    """The line of another method at the same budget, trained as it was: under its own readings, else the default."""
    return None if line.reference else _alike(line, [other for other in _beside(line, lines) if other.method == method])


def _of_pruners(line: Line, lines: Sequence[Line], samples: Sequence[str], token: str) -> Line | None:
    """The line at the same budget that has one of the sample pruners, the first that there is, and a token pruner."""
    if line.reference:
        return None
    tokens = [token, "none"] if line.token_ratio == 1 else [token]
    same, pairs = _beside(line, lines), product(samples, tokens)
    rivals = [other for pair in pairs for other in same if (other.sample_pruner, other.token_pruner) == pair]
    return _alike(line, rivals)


def _beside(line: Line, lines: Sequence[Line]) -> list[Line]:
    """The lines of the same train set and budget that are trained in the same way."""
    place = attrgetter("train_set", "sample_ratio", "token_ratio", "training")
    return [other for other in lines if place(other) == place(line)]


def _alike(line: Line, rivals: Sequence[Line]) -> Line | None:
    """Of these, the one with the readings of the line, else the one with all options at their defaults."""
    alike, plain = _with_readings_of(line, rivals), _plain(rivals)
    if line in alike and plain:  # a reading of random pruning itself, against random pruning as it is
        return plain[0]
    return next(chain(alike, plain), None)


def full_data_of(line: Line, lines: Sequence[Line]) -> Line | None:
    """The full-data line that a line is compared with, trained as it was: under its own readings, else the default."""
    same = (line.train_set, FULL, line.training)
    full = [other for other in lines if (other.train_set, other.method, other.training) == same]
    return next(chain(_with_readings_of(line, full), _plain(full), full), None)


def _with_readings_of(line: Line, lines: Sequence[Line]) -> list[Line]:
    readings = json.loads(line.options)["method"]
    return [other for other in lines if json.loads(other.options)["method"] == readings]


def _plain(lines: Sequence[Line]) -> list[Line]:
    """The lines whose options are all at their defaults."""
    return [line for line in lines if line.variant == line.training]


def changed_options(method: str, sample_pruner: str, token_pruner: str, options: str) -> Options:
    """The options and readings (`options` of a row of the store) that differ from their defaults, by whose they are.

    The defaults of a preset of Q-Tuning (presets.py) are its readings.
    """
    chosen = json.loads(options)
    preset = PRESETS[method].readings if method in PRESETS else {}
    defaults = {
        part: {key: preset.get(key, value) for key, value in known.items()}
        for part, known in (
            ("sample", _defaults(sample_pruner, "sample")),
            ("token", _defaults(token_pruner, "token")),
            ("method", Readings().model_dump(mode="json", by_alias=True)),
        )
    }
    return {part: dict(item for item in chosen[part].items() if item not in defaults[part].items()) for part in PARTS}


def varied(method: str, lines: Iterable[tuple[str, str, str]]) -> tuple[tuple[Part, str], ...]:
    """The options that lines of one method, (sample pruner, token pruner, options) each, set differently from its
    defaults; nothing where that is more than `MOST_NAMED` options, which would drown the label of a line."""
    changed = [changed_options(method, *line) for line in lines]
    found = dict.fromkeys((part, key) for options in changed for part, values in options.items() for key in values)
    return tuple(found) if len(found) <= MOST_NAMED else ()


def option_text(parts: Iterable[Mapping[str, Any]]) -> str:
    """`lambda=0.3, selection=global`, by name; options of two pruners may have one name."""
    pairs = sorted(
        (key, value if isinstance(value, str) else json.dumps(value))
        for values in parts
        for key, value in values.items()
    )
    return ", ".join(f"{key}={value}" for key, value in pairs)


@cache
def _defaults(name: str, kind: Literal["sample", "token"]) -> dict[str, Any]:
    """Default values by the names that a configuration uses.

    Empty for a plug-in that is not installed where the store is drawn: all its options are then shown.
    """
    try:
        found: dict[str, Any] = find_pruner(name, kind).options().model_dump(mode="json", by_alias=True)
    except UserError:
        return {}
    return found
