"""The configuration: every key that a YAML file may hold, with its type, its default and what it means.

`grid.py` reads the YAML files into these classes and expands experiments into cells.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from qtuning.experiment.registry import NAMED_METHODS

Dtype = Literal["float32", "bfloat16"]
Template = Literal["plain", "alpaca", "chat"]
Column = Literal["instruction", "input", "output", "messages", "errors"]
Scorer = Literal["chunked", "reference", "liger"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
PrunerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:-]*$", max_length=128)]


class Config(BaseModel):
    """Base class: refuses unknown keys and infinities, is immutable, accepts aliases as well as field names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )


class HubSource(Config):
    """A model or data set on the Hugging Face hub; a model may also be a local folder of the same layout."""

    kind: Literal["hub"] = "hub"
    id: str = Field(min_length=1, description="owner/name, or a local folder for a model")
    revision: str = Field("main", description="branch, tag or commit; pin a commit for exact reproduction")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")


class ShippedModelSource(Config):
    """The base model of the mini world, shipped in the package (`python -m mini_world pretrain` makes it anew)."""

    kind: Literal["shipped"]
    asset: str = Field("mini", description="folder under qtuning/assets")


class GgufSource(Config):
    """A GGUF file that comes with an installed Python package. It is converted once to safetensors."""

    kind: Literal["gguf"]
    package: str = Field(description="import name; its assemble(FILE) writes the GGUF file")
    install: str = Field(description="what to install when it is missing, for the error message")


class FileSource(Config):
    """A JSON, JSONL (.gz) or Parquet file: under `data_dir`, of the mini world in the package, or anywhere (`path`)."""

    kind: Literal["data-dir", "mini-world", "path"]
    file: str = Field(description="path of the file, relative to the folder that `kind` names (`path`: as given)")


class Labelled(Config):
    """An entry with a name, which is that of its file, and a label for tables."""

    name: Name
    label: str = Field("", description="how tables call it; default: the name")

    @model_validator(mode="before")
    @classmethod
    def _name_is_label(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("label"):
            return values | {"label": values.get("name", "")}
        return values


class Model(Labelled):
    """A base model (configs/models/NAME.yaml)."""

    source: HubSource | ShippedModelSource | GgufSource = Field(discriminator="kind")
    parameters: int | None = Field(None, gt=0, description="approximate parameter count, for plans before loading")
    dtype: Dtype = Field("float32", description="dtype of the weights under LoRA; full fine-tuning: training.dtype")
    template: Template = Field("alpaca", description="how a prompt is written, data/templates.py")
    lora_targets: Literal["all-linear"] | tuple[str, ...] = Field("all-linear", description="modules that get LoRA")


class TrainSet(Labelled):
    """A supervised fine-tuning set (configs/train_sets/NAME.yaml)."""

    source: HubSource | FileSource = Field(discriminator="kind")
    local: str | None = Field(None, description="file below data_dir that replaces `source` when data_dir is given")
    format: Literal["alpaca", "chat"] = Field("alpaca", description="alpaca: columns; chat: a list of messages")
    columns: dict[Column, str] = Field(
        default_factory=dict,
        description="names of the columns where they differ from the format's own; errors: the column that lists what "
        "is wrong in the response, [start, end] in characters each, for `localisation`",
    )
    bad_rows: float = Field(0.01, ge=0, le=1, description="share of unusable rows above which preparation stops")


class Lora(Config):
    """LoRA (peft). Rank, alpha and dropout are not published; these are our choice (method.md, Hyper-parameters)."""

    r: int = Field(8, gt=0)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class Training(Config):
    """How a cell is trained. Defaults: method.md, Hyper-parameters."""

    tuning: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    epochs: int = Field(3, gt=0)
    batch_size: int = Field(8, gt=0, description="samples per device and forward: the selection batch (A9)")
    accumulation: int = Field(1, gt=0, description="batches per optimizer update")
    processes: int = Field(1, gt=0, description="data-parallel processes; must agree with the accelerate config")
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the updates with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradient clipping; null: off")
    cutoff: int = Field(1024, gt=1, description="tokens per sample; a longer response is cut")
    dtype: Dtype | None = Field(
        None,
        description="dtype of the weights; null: the model's under LoRA, float32 in full fine-tuning, where bfloat16 "
        "weights would round small updates away",
    )
    mixed_precision: Literal["no", "bf16"] = Field("no", description="autocast; weights keep the model's dtype")
    gradient_checkpointing: bool = False


class Readings(Config):
    """The readings of method.md (Ambiguities) that concern every method; the first of each list is the default."""

    selection: Literal["device", "global"] = Field(
        "device", description="A9: selection batch: of each device, or of all ranks and accumulation steps together"
    )
    pruned_tokens: Literal["mask", "remove"] = Field(
        "mask", description="A8: pruned tokens stay as context, or are taken out of the sequence"
    )
    updates: Literal["as-defined", "matched-updates"] = Field(
        "as-defined", description="A11: `matched-updates` makes epoch-level pruners select inside each batch"
    )
    passes: Literal["once", "twice"] = Field(
        "once", description="A12: `twice` draws a random r_sample of each batch from what an epoch-level pruner kept"
    )


class Scoring(Config):
    """When, how precisely and by which model samples are scored (docs/scoring.md). The defaults are exact.

    Keys that were added later are left out of a cell's configuration at their defaults, so that older cells keep their
    names.
    """

    schedule: Literal["fresh", "reuse-graph", "pool", "stale", "proxy"] = Field(
        "fresh",
        description="fresh: each batch under the current weights; reuse-graph: the same, and the kept samples are "
        "trained through the forward that scored them; pool: the batches of `batches` updates at once, whose kept "
        "samples are then trained in fewer, full batches; stale: the train set every `epochs` epochs; proxy: the train "
        "set once, under another model",
    )
    epochs: int = Field(1, gt=0, description="stale: how many epochs the scores of a train set are used")
    batches: int = Field(
        1,
        gt=0,
        exclude_if=lambda value: value == 1,
        description="pool: selection batches, of each process and accumulation step, that are scored at once",
    )
    precision: Literal["training", "bfloat16"] = Field(
        "training", description="of the scoring forward: that of training, or bfloat16 autocast"
    )
    impl: Scorer = Field(
        "chunked",
        exclude_if=lambda value: value == "chunked",
        description="of the head: chunked; reference: float32 logits of all positions at once; liger: Liger-Kernel",
    )
    compare_every: int | None = Field(
        None, gt=0, description="every so many updates, score freshly as well and log how far the decisions agree"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Scoring":
        if (self.schedule == "pool") != (self.batches > 1):
            raise ValueError("batches: schedule pool takes 2 or more of them, and no other schedule takes any")
        if self.schedule == "reuse-graph" and self.precision != "training":
            raise ValueError("precision: reuse-graph scores in the forward of training; leave it out")
        if self.schedule != "stale" and self.epochs != 1:
            raise ValueError(f"epochs: only stale scores are used for epochs; leave it out under {self.schedule}")
        if self.exact and self.compare_every is not None:
            raise ValueError(f"compare_every: {self.schedule} in training's precision is exact; leave it out")
        return self

    @property
    def tabled(self) -> bool:
        """Whether the whole train set is scored at once, under other weights than those that then train on it."""
        return self.schedule in ("stale", "proxy")

    @property
    def exact(self) -> bool:
        """Whether every decision is the one that fresh scores give."""
        return self.schedule in ("fresh", "reuse-graph") and self.precision == "training"

    @property
    def label(self) -> str:
        """The schedule with its number, and the scorer where it is not the default: `pool 4`, `fresh, liger`."""
        number = {"stale": f" {self.epochs}", "pool": f" {self.batches}"}.get(self.schedule, "")
        return f"{self.schedule}{number}" + ("" if self.impl == "chunked" else f", {self.impl}")


class Pruning(Readings):
    """A method at a budget: which samples and which tokens may contribute to the gradient."""

    sample_pruner: PrunerName
    token_pruner: PrunerName
    sample_ratio: float = Field(gt=0, le=1, description="r_sample")
    token_ratio: float = Field(gt=0, le=1, description="r_token")
    sample_options: dict[str, Any] = Field(default_factory=dict)
    token_options: dict[str, Any] = Field(default_factory=dict)
    sample_version: str = Field("1", description="version of the pruner's code: another version is another cell")
    token_version: str = "1"
    reference: Model | None = Field(None, description="reference model of pruners that need one (rho-1)")
    # left out of a cell's configuration at their defaults, so that older cells keep their names
    scoring: Scoring = Field(Scoring(), exclude_if=lambda value: value == Scoring())
    proxy: Model | None = Field(None, exclude_if=lambda value: value is None, description="model of `proxy` scoring")

    @property
    def method(self) -> str:
        """`full`, `q-tuning` or `sample+token`."""
        pair = (self.sample_pruner, self.token_pruner)
        return next((name for name, named in NAMED_METHODS.items() if named == pair), "+".join(pair))

    @property
    def budget(self) -> str:
        """`25x50`: per cent of the samples x per cent of the tokens."""
        return f"{100 * self.sample_ratio:g}x{100 * self.token_ratio:g}"


class Seeds(Config):
    """The seeds of a training. One per source of randomness: every pruner sees the same data in the same order."""

    data: int = Field(ge=0, description="order of the samples")
    pruner: int = Field(ge=0, description="random choices of the pruners and their ties")
    init: int = Field(ge=0, description="initialisation of LoRA, and dropout")


class Cell(Config):
    """One trained model: everything that determines its weights, and nothing else.

    A cell without `training` is the base model itself (zero-shot). Whoever changes the code so that cells end with
    other weights raises `semantics`, which makes finished cells out of date.
    """

    semantics: int = 1
    model: Model
    train_set: TrainSet | None = None
    limit_train: int | None = Field(None, gt=0, description="use only so many samples: a fixed random draw")
    pruning: Pruning | None = None
    training: Training | None = None
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> "Cell":
        parts = (self.train_set, self.pruning, self.training, self.seeds)
        if len({part is None for part in parts}) != 1:
            raise ValueError("train_set, pruning, training and seeds are given together or not at all (zero-shot)")
        return self

    @property
    def dtype(self) -> Dtype:
        """The dtype of the weights in training."""
        if self.training is not None and self.training.dtype is not None:
            return self.training.dtype
        full = self.training is not None and self.training.tuning == "full"
        return "float32" if full else self.model.dtype

    @property
    def zero_shot(self) -> bool:
        """True for the base model without training."""
        return self.training is None


class Evaluation(Config):
    """Which benchmarks a cell answers, and how. A score belongs to one evaluation."""

    benchmarks: tuple[Name, ...] = Field(min_length=1)
    source: Literal["hub", "data-dir", "mini-world"] = Field("hub", description="where the questions come from")
    backend: Literal["hf"] = "hf"
    batch_size: int = Field(8, gt=0, description="fixed: scores move with it")
    dtype: Dtype = "float32"
    max_length: int = Field(2048, gt=0, description="tokens of prompt and answer")
    limit: int | None = Field(None, gt=0, description="first so many items of each benchmark")
    fewshot: int | None = Field(None, ge=0, description="examples in the prompt; null: each benchmark's own number")
    max_new_tokens: int | None = Field(None, gt=0, description="longest generation; null: each benchmark's own")
    chat_template: bool = Field(False, description="wrap prompts in the model's chat template")


def parse_budget(value: Any) -> Any:
    """`"25x50"` (per cent) -> {"sample_ratio": 0.25, "token_ratio": 0.5}; a mapping is returned as it is.

    Numbers are refused with an explanation: YAML reads an unquoted `0x50` as the number 80.
    """
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


class MethodEntry(Config):
    """A method with options: `{method: q-tuning, options: {lambda: 0.3}}`."""

    method: str
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of its pruners; any of Readings; `scoring` (Scoring); reference, proxy: NAME of a model",
    )


MethodItem = Annotated[MethodEntry, BeforeValidator(lambda v: {"method": v} if isinstance(v, str) else v)]
SeedEntry = Annotated[
    Seeds, BeforeValidator(lambda v: {"data": v, "pruner": v, "init": v} if isinstance(v, int) else v)
]


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
    limit_train: int | None = Field(None, gt=0)
    zero_shot: bool = True
    keep_weights: bool = False


class Scale(Labelled, Changes):
    """The changes that make a smaller edition of an experiment (configs/scales/NAME.yaml); `label` goes into its title.

    The edition is called EXPERIMENT-NAME. It exists if `scales` of the experiment names the scale.
    """


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


NO_CHANGES = BeforeValidator(lambda value: {} if value is None else value)


class Experiment(Config):
    """A grid (configs/experiments/NAME.yaml): every combination of its axes is a cell."""

    name: Name
    title: str
    models: tuple[str, ...] = Field(min_length=1)
    train_sets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[MethodItem, ...] = Field(min_length=1)
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
    limit_train: int | None = Field(None, gt=0)
    zero_shot: bool = Field(True, description="also evaluate each model without training")
    localisation: bool = Field(
        False, description="also compare pruned tokens with the planted errors of the train set (docs/experiments.md)"
    )
    keep_weights: bool = Field(False, description="keep full weights after evaluation (adapters always stay)")
    scales: dict[Name, Annotated[EditionChanges, NO_CHANGES]] = Field(
        default_factory=dict,
        description="its editions: names of configs/scales, each with what it changes here beyond what it says itself",
    )
