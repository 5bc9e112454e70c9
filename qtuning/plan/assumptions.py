"""What a plan assumes where nothing has been measured: `configs/planning.yaml`, where every key is documented."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from qtuning.errors import UserError
from qtuning.experiment.base import Config
from qtuning.experiment.cell import Evaluation
from qtuning.experiment.strict_yaml import read_yaml
from qtuning.experiment.yaml_files import validate

FILE = "planning.yaml"
Source = Literal["public", "mini-world"]


class TrainSetGuess(Config):
    """Size of a train set that has not been prepared."""

    rows: int = Field(gt=0)
    prompt_tokens: float = Field(gt=0, description="mean, template included, before the cutoff")
    response_tokens: float = Field(gt=0, description="mean, before the cutoff")
    spread: float = Field(ge=0, description="standard deviation of response lengths over their mean")


class BenchmarkGuess(Config):
    """Size of a benchmark; either `choices`, or `new_tokens` and `steps`."""

    items: int = Field(gt=0)
    paper_items: int | None = Field(None, gt=0, description="under the protocol `paper`; null: as many")
    prompt_tokens: float = Field(gt=0)
    choices: int | None = Field(None, gt=1)
    answer_tokens: float = Field(0.0, ge=0, description="of one choice, or of a gold answer")
    example_tokens: float = Field(0.0, ge=0, description="of each example in the prompt")
    new_tokens: int = Field(0, ge=0, description="the benchmark's own limit of a generation")
    steps: float = Field(0.0, ge=0, description="tokens generated until every row of a batch has stopped")
    item_seconds: float = Field(0.0, ge=0, description="marking one answer")


class EffectGuess(Config):
    """Spread of scores, for the smallest detectable difference."""

    seed_sd: dict[Source, float] = Field(description="points of the average score, over seeds")
    correlation: float = Field(ge=0, lt=1, description="between two models' answers to one item")


class Assumptions(Config):
    """All of planning.yaml."""

    train_sets: dict[str, TrainSetGuess]
    benchmarks: dict[Source, dict[str, BenchmarkGuess]]
    effect: EffectGuess

    def train_set(self, name: str) -> TrainSetGuess:
        """The entry of a train set, else `default`; UserError where there is neither."""
        guess = self.train_sets.get(name, self.train_sets.get("default"))
        if guess is None:
            raise UserError(f"{FILE}: train_sets.{name}: required, since the train set has not been prepared yet")
        return guess

    def benchmark(self, name: str, evaluation: Evaluation) -> BenchmarkGuess:
        """The entry of a benchmark; UserError where there is none."""
        section = _section(evaluation)
        if name not in self.benchmarks.get(section, {}):
            raise UserError(f"{FILE}: benchmarks.{section}.{name}: required, since an experiment asks for it")
        return self.benchmarks[section][name]

    def seed_sd(self, evaluation: Evaluation) -> float:
        """Points of the average score, over seeds; UserError where it is not given."""
        section = _section(evaluation)
        if section not in self.effect.seed_sd:
            raise UserError(f"{FILE}: effect.seed_sd.{section}: required, since an experiment is evaluated there")
        return self.effect.seed_sd[section]


def _section(evaluation: Evaluation) -> Source:
    return "mini-world" if evaluation.source == "mini-world" else "public"


def read_assumptions(configs: Path) -> Assumptions:
    """Read `configs/planning.yaml`; UserError with every problem."""
    path = Path(configs) / FILE
    return validate(Assumptions, read_yaml(path), str(path))
