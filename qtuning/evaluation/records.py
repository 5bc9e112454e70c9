"""Local benchmark files: read whole and checked record by record before a model is loaded.

Layout: FOLDER/BENCHMARK/{train,validation,test}.jsonl.gz, one JSON object a line, keys as on the hub.
"""

import gzip
import zlib
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qtuning.errors import UserError
from qtuning.evaluation.scoring import boxed

Split = Literal["train", "validation", "test"]

EVALUATION_SPLIT: MappingProxyType[str, Split] = MappingProxyType(
    {
        "arc_easy": "test",
        "arc_challenge": "test",
        "gsm8k": "test",
        "squad": "validation",
        "triviaqa": "validation",
        "math": "test",
    }
)


class Record(BaseModel):
    """One item. Other keys are allowed and not read: they do not bear on the score."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Choices(Record):
    """Answers to choose from, and what they are called."""

    text: list[Annotated[str, Field(min_length=1)]] = Field(min_length=2)
    label: list[str]


class ArcRecord(Record):
    """ARC: a question with three to five choices."""

    question: str
    choices: Choices
    answerKey: str

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "ArcRecord":
        if len(self.choices.text) != len(self.choices.label):
            raise ValueError(f"{len(self.choices.text)} choices.text, but {len(self.choices.label)} choices.label")
        if self.answerKey not in self.choices.label:
            raise ValueError(f"answerKey {self.answerKey!r} is none of the labels {self.choices.label}")
        return self


class Gsm8kRecord(Record):
    """GSM8K: the answer is a solution that ends in "#### NUMBER"."""

    question: str
    answer: str = Field(pattern=r"#### *\S")


class Answers(Record):
    """Gold answers of SQuAD."""

    text: list[str] = Field(min_length=1)


class SquadRecord(Record):
    """SQuAD v1.1."""

    context: str
    question: str
    answers: Answers


class TriviaAnswer(Record):
    """An answer and the other ways to write it."""

    value: str
    aliases: list[str]


class TriviaqaRecord(Record):
    """TriviaQA without context."""

    question: str
    answer: TriviaAnswer


class MathRecord(Record):
    r"""MATH: the solution holds its answer in \boxed{}."""

    problem: str
    solution: str

    @model_validator(mode="after")
    def _has_an_answer(self) -> "MathRecord":
        if boxed(self.solution) is None:
            raise ValueError("solution: no answer in \\boxed{}")
        return self


SCHEMA: MappingProxyType[str, type[Record]] = MappingProxyType(
    {
        "arc_easy": ArcRecord,
        "arc_challenge": ArcRecord,
        "gsm8k": Gsm8kRecord,
        "squad": SquadRecord,
        "triviaqa": TriviaqaRecord,
        "math": MathRecord,
    }
)


def read_records(folder: Path, benchmark: str, split: Split) -> list[dict[str, Any]]:
    """All records of a split, reduced to the keys that are used. UserError names file and line of an unusable one."""
    path = Path(folder) / benchmark / f"{split}.jsonl.gz"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, and {benchmark} needs it;"
            f" give a folder that has {benchmark}/{path.name} with --config data_dir=DIR"
        )
    schema = SCHEMA[benchmark]
    records: list[dict[str, Any]] = []
    number = 0
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    records.append(schema.model_validate_json(line).model_dump())
    except ValidationError as error:
        raise UserError(f"{path}: line {number}: {_first_problem(error)}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: line {number + 1}: cannot be read ({error}); get the file anew") from None
    if not records:
        raise UserError(f"{path}: holds no records; get the file anew")
    return records


def _first_problem(error: ValidationError) -> str:
    """`answers.text: field required`."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return f"not valid JSON: {problem['ctx']['error']}"
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch":
        message = "must end in '#### NUMBER'"
    return f"{key}: {message[0].lower()}{message[1:]}" if key else message
