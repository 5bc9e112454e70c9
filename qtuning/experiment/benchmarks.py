"""The benchmarks: everything that the project knows of each, in one record. Imports neither torch nor lm-eval.

A new benchmark is a record here and, where lm-eval has no task that fits, a file in `evaluation/tasks`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Split = Literal["train", "validation", "test"]
Protocol = Literal["standard", "paper"]


class Item(BaseModel):
    """One question with its answers. Keys that do not bear on the score are allowed and not read.

    The optional key `cluster` names items that are not independent: in the mini world, two wordings of one fact.
    """

    model_config = ConfigDict(strict=True, extra="ignore")


class Choices(Item):
    """Answers to choose from, and what they are called."""

    text: list[Annotated[str, Field(min_length=1)]] = Field(min_length=2)
    label: list[str]


class ArcItem(Item):
    """ARC: a question with three to five choices."""

    question: str
    choices: Choices
    answerKey: str
    cluster: str | None = None

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "ArcItem":
        if len(self.choices.text) != len(self.choices.label):
            raise ValueError(f"{len(self.choices.text)} choices.text, but {len(self.choices.label)} choices.label")
        if self.answerKey not in self.choices.label:
            raise ValueError(f"answerKey {self.answerKey!r} is none of the labels {self.choices.label}")
        return self


class Gsm8kItem(Item):
    """GSM8K: the answer is a solution that ends in "#### NUMBER"."""

    question: str
    answer: str = Field(pattern=r"#### *\S")


class SquadAnswers(Item):
    """Gold answers of SQuAD."""

    text: list[str] = Field(min_length=1)


class SquadItem(Item):
    """SQuAD v1.1."""

    context: str
    question: str
    answers: SquadAnswers


class TriviaAnswer(Item):
    """An answer and the other ways to write it."""

    value: str
    aliases: list[str]


class TriviaItem(Item):
    """TriviaQA without context."""

    question: str
    answer: TriviaAnswer
    cluster: str | None = None


class MathItem(Item):
    r"""MATH: the solution holds its answer in \boxed{}."""

    problem: str
    solution: str

    @model_validator(mode="after")
    def _has_an_answer(self) -> "MathItem":
        if boxed(self.solution) is None:
            raise ValueError("solution: no answer in \\boxed{}")
        return self


def boxed(text: str) -> str | None:
    r"""Content of the last \boxed{} in `text`; None if there is none, or if it is not closed.

    Reads what lm-eval's `last_boxed_only_string` reads: also \fbox{}, and "\boxed 5", which ends at a dollar sign.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0].strip()
    start = text.rfind("\\boxed" if "\\boxed" in text else "\\fbox")
    if start < 0:
        return None
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if text[end] == "}" and depth == 0:
            return text[text.index("{", start) + 1 : end].strip()
    return None


_QUESTION = ("question", "question")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    metric: the one that stands for it in tables; others are stored beside it. hub_id, subsets, revision: its data
    set on the Hugging Face hub, which of its configurations (none: it has only one), and the commit; hub_id None: it is
    not on the hub. split:
    whose items are asked. paper: the split that the protocol `paper` asks instead, and of it only questions with four
    choices, as OpenCompass does (arXiv 2509.23873v2: 567 and 295 items). item: what an item must hold. texts: the texts
    of an item that contamination compares, as (part, key of the item). fewshot: examples in a prompt. chance: the score
    of guessing, as a fraction; None where answers are free text. averaged: whether averages over benchmarks count it.
    cluster: the key of an item whose value names its cluster. subject: the key of an item whose value names its subject
    or article, over which a draw (evaluation.limit) spreads. drawn_cluster: the key that names clusters of drawn items.
    """

    name: str
    label: str
    metric: str
    hub_id: str | None
    split: Split
    item: type[Item]
    subsets: tuple[str, ...] = ()
    revision: str = "main"
    paper: Split | None = None
    # choices and short gold answers are not among them: they are words that any text may hold
    texts: tuple[tuple[str, str], ...] = (_QUESTION,)
    fewshot: int = 0
    chance: float | None = None
    averaged: bool = True
    cluster: str = "cluster"
    subject: str | None = None
    drawn_cluster: str = "cluster"

    def asked_split(self, protocol: Protocol) -> Split:
        """The split whose items are asked."""
        return self.paper if protocol == "paper" and self.paper is not None else self.split

    def is_asked(self, item: Mapping[str, Any], protocol: Protocol) -> bool:
        """Whether an item of that split is asked."""
        return protocol != "paper" or self.paper is None or len(item["choices"]["text"]) == 4


_ALL = (
    # nearly all ARC questions have four choices; a handful have three or five
    Benchmark(
        "arc_easy",
        "ARC-E",
        "acc",
        "allenai/ai2_arc",
        "test",
        ArcItem,
        ("ARC-Easy",),
        revision="210d026faf9955653af8916fad021475a3f00453",
        paper="validation",
        chance=1 / 4,
    ),
    Benchmark(
        "arc_challenge",
        "ARC-C",
        "acc",
        "allenai/ai2_arc",
        "test",
        ArcItem,
        ("ARC-Challenge",),
        revision="210d026faf9955653af8916fad021475a3f00453",
        paper="validation",
        chance=1 / 4,
    ),
    Benchmark(
        "gsm8k",
        "GSM8K",
        "exact_match,flexible-extract",  # models tuned on instructions rarely write "#### 18", as strict-match demands
        "openai/gsm8k",
        "test",
        Gsm8kItem,
        subsets=("main",),
        revision="740312add88f781978c0658806c59bc2815b9866",
        texts=(_QUESTION, ("solution", "answer")),
        fewshot=5,  # lm-eval's own number
    ),
    Benchmark(
        "squad",
        "SQuAD",
        "f1",
        "rajpurkar/squad",
        "validation",
        SquadItem,
        revision="7b6d24c440a36b6815f21b70d25016731768db1f",
        texts=(_QUESTION, ("context", "context")),
        cluster="context",
        subject="title",
        drawn_cluster="title",  # a draw has seldom two questions of one passage, but many of one article
    ),
    Benchmark(
        "triviaqa",
        "TriviaQA",
        "exact_match",
        "mandarjoshi/trivia_qa",
        "validation",
        TriviaItem,
        ("rc.nocontext",),
        revision="0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
    ),
    Benchmark(
        "math",
        "MATH",
        "exact_match",
        "EleutherAI/hendrycks_math",
        "test",
        MathItem,
        subsets=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
        texts=(("question", "problem"), ("solution", "solution")),
        subject="type",
    ),
    # of the mini world only: what the base model knew before it was trained, to see what training makes it forget
    Benchmark("retention", "Retention", "acc", None, "test", ArcItem, chance=1 / 4, averaged=False),
)
BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})


def label_of(name: str) -> str:
    """How tables call a benchmark; one that is not ours, in the store of another version, goes by its name."""
    return BENCHMARKS[name].label if name in BENCHMARKS else name


def averaged(names: Iterable[str]) -> tuple[str, ...]:
    """Those of these benchmarks that an average over benchmarks counts, in their order; one that is not ours counts."""
    return tuple(name for name in names if name not in BENCHMARKS or BENCHMARKS[name].averaged)
