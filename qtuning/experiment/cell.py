"""What a cell is made of: model, train set, training, pruning, seeds; and how it is evaluated.

Every key has its type, its default and what it means. `schema.py` has the keys of experiments around it.
"""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from qtuning.experiment.auxiliary import Influence, Part, TrainedReference
from qtuning.experiment.base import Config, Name
from qtuning.experiment.benchmarks import Protocol
from qtuning.experiment.presets import preset_of
from qtuning.experiment.registry import NAMED_METHODS
from qtuning.experiment.training import Dtype as Dtype
from qtuning.experiment.training import Lora as Lora
from qtuning.experiment.training import Training as Training
from qtuning.experiment.truth import Planted

Template = Literal["plain", "alpaca", "chat"]
RatingColumn = Literal["rating", "complexity", "quality"]
Role = Literal["system", "user", "assistant"]
Column = Literal["instruction", "input", "output", "system", "history", "messages", "role", "content", "kind", "errors",
                 "rating", "complexity", "quality"]  # fmt: skip
Scorer = Literal["chunked", "reference", "liger"]
MAX_ROW_BYTES = 2**20
VLLM_SEQUENCES = 256  # most sequences that vLLM has running at once: fixed, since scores move with it


def _one_label(label: str) -> str:
    # matplotlib leaves labels that begin with _ out of legends, and sets what is between $ as mathematics
    if label.startswith("_") or "$" in label or label != " ".join(label.split()) or not 0 < len(label) <= 60:
        raise ValueError("write at most 60 characters on one line, none of them $, and no _ at the beginning")
    return label


def _hexadecimal(colour: str) -> str:
    if re.fullmatch("#[0-9A-Fa-f]{6}", colour) is None:
        raise ValueError('write six hexadecimal digits in quotes, as in "#0072B2"')
    return colour


MethodLabel = Annotated[str, AfterValidator(_one_label)]
Colour = Annotated[str, AfterValidator(_hexadecimal)]
PrunerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:-]*$", max_length=128)]


class HubSource(Config):
    """A model or data set on the Hugging Face hub; a model may also be a local folder of the same layout."""

    kind: Literal["hub"] = "hub"
    id: str = Field(min_length=1, description="owner/name, or a local folder for a model")
    revision: str = Field("main", description="commit, or a branch or tag, resolved to a commit when it is fetched")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")

    @field_validator("id")
    @classmethod
    def _no_address(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(f"write {'/'.join(value.rstrip('/').split('/')[-2:])}, without the address of the hub")
        return value


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
    """A file of rows: under `data_dir`, of the mini world in the package, or anywhere (`path`).

    Several files that are one set are named by a pattern (`data/train-*.parquet`) or by their folder.

    With `draws` it stands for several files, of which each cell reads one. So noise can be drawn anew with every seed.
    """

    kind: Literal["data-dir", "mini-world", "path"]
    file: str = Field(
        description="path, pattern or folder, relative to the folder that `kind` names (`path`: as given)"
    )
    draws: int | None = Field(
        None,
        gt=0,
        exclude_if=lambda value: value is None,
        description="how many files there are; in a cell, {draw} in `file` is its data seed modulo draws",
    )

    @model_validator(mode="after")
    def _draws_have_a_place(self) -> "FileSource":
        if ("{draw}" in self.file) != (self.draws is not None):
            missing = "{draw} in file" if self.draws is not None else "draws, the number of files"
            raise ValueError(f"file = {self.file!r}, draws = {self.draws}: {missing} is missing")
        return self

    def drawn(self, seed: int) -> "FileSource":
        """The one file that cells of this data seed read."""
        if self.draws is None:
            return self
        return FileSource(kind=self.kind, file=self.file.replace("{draw}", str(seed % self.draws)))


def _path_of_text(value: Any) -> Any:
    """A text stands for a file of that path."""
    return {"kind": "path", "file": value} if isinstance(value, str) else value


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

    @property
    def takes_gpus(self) -> bool:
        """Whether its jobs take GPUs where there are some: all models but those that the package ships.

        These train in seconds on a CPU, and give the same numbers everywhere.
        """
        return not isinstance(self.source, ShippedModelSource)


class TrainSet(Labelled):
    """A supervised fine-tuning set (configs/train_sets/NAME.yaml)."""

    source: Annotated[
        Annotated[HubSource | FileSource, Field(discriminator="kind")], BeforeValidator(_path_of_text)
    ] = Field(description="where its rows are; a text is the path of a file")
    local: str | None = Field(None, description="file below data_dir that replaces `source` when data_dir is given")
    format: Literal["alpaca", "chat", "sharegpt", "prompt-completion"] = Field(
        "alpaca",
        description="alpaca: columns, or what the keys of a row show; chat, sharegpt: a list of messages (role, "
        "content; from, value); prompt-completion: two texts or lists of messages",
    )
    columns: dict[Column, str] = Field(
        default_factory=dict,
        description="names of the columns where they differ from the format's own; kind: the column that says what "
        "each sample is (truth.py), for controls; errors: the column that lists what is wrong in the response, [start, "
        "end] in characters each, for controls and `localisation`; rating, complexity, quality: columns of numbers, of "
        "the file that `ratings` names or else of the data",
    )
    roles: dict[str, Role] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="whose turn it is, for names of roles that data.forms does not know: {student: user}",
    )
    ignore: tuple[str, ...] = Field(
        (),
        exclude_if=lambda value: not value,
        description="keys of rows or messages that have a meaning and shall have none, e.g. [tools]",
    )
    max_row_bytes: int = Field(
        MAX_ROW_BYTES,
        gt=0,
        exclude_if=lambda value: value == MAX_ROW_BYTES,
        description="rows with more bytes of text (UTF-8) are unusable",
    )
    bad_rows: float = Field(0.01, ge=0, le=1, description="share of unusable rows above which preparation stops")
    ratings: Annotated[FileSource | None, BeforeValidator(_path_of_text)] = Field(
        None,
        exclude_if=lambda value: value is None,
        description="file with a row for each row of the data, in order, and columns rating, complexity, quality",
    )

    planted: Planted | None = Field(
        None, exclude_if=lambda value: value is None, description="flaws that preparation plants in it (docs/data.md)"
    )

    @model_validator(mode="after")
    def _planted_alone(self) -> "TrainSet":
        if self.planted is not None and (stated := [*sorted({"kind", "errors"} & set(self.columns))]):
            raise ValueError(f"planted: columns.{stated[0]} already says what its samples are; leave one of them out")
        if self.planted is not None and self.rated:
            raise ValueError("planted: ratings are of the samples without the planted flaws; leave one of them out")
        return self

    @model_validator(mode="after")
    def _ratings_of_the_draw(self) -> "TrainSet":
        draws, rated = getattr(self.source, "draws", None), self.ratings
        if rated is not None and rated.draws != draws:
            raise ValueError(f"ratings: draws = {rated.draws}: must be those of source ({draws})")
        if self.local is not None and "{draw}" in self.local:
            raise ValueError("local: one file; only a source can have draws")
        return self

    def drawn(self, seed: int) -> "TrainSet":
        """The train set of cells with this data seed: of several draws, one."""
        parts = {"source": self.source, "ratings": self.ratings, "planted": self.planted}
        return self.model_copy(
            update={key: part.drawn(seed) for key, part in parts.items() if isinstance(part, FileSource | Planted)}
        )

    @property
    def rated(self) -> bool:
        """Whether ratings are given, in a file or in columns of the data."""
        return self.ratings is not None or bool(set(get_args(RatingColumn)) & set(self.columns))

    def without_ratings(self) -> "TrainSet":
        """The same set for methods that need no ratings: whoever adds ratings does not train those again."""
        columns = {name: column for name, column in self.columns.items() if name not in get_args(RatingColumn)}
        return self.model_copy(update={"ratings": None, "columns": columns}) if self.rated else self


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
    kept_samples: Literal["round", "floor"] = Field(
        "round",
        exclude_if=lambda value: value == "round",
        description="A16: how r_sample * B becomes the number of samples to keep; at least 1",
    )


class Scoring(Config):
    """When, how precisely and by which model samples are scored (docs/scoring.md). The defaults are exact.

    Keys that were added later are left out of a cell's configuration at their defaults, so that older cells keep their
    names.
    """

    schedule: Literal["auto", "fresh", "reuse-graph", "pool", "stale", "proxy"] = Field(
        "auto",
        description="fresh: each batch under the current weights; reuse-graph: the same, and the kept samples are "
        "trained through the forward that scored them; auto: reuse-graph where LoRA is trained on a GPU that has the "
        "memory and that it makes faster, else fresh; pool: the batches of `batches` updates at once, whose kept "
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

    @model_validator(mode="before")
    @classmethod
    def _auto_alone(cls, values: Any) -> Any:
        """With any other key, `auto` is `fresh`: so such cells keep the names that they had before there was `auto`."""
        if not isinstance(values, dict) or values.get("schedule", "auto") != "auto":
            return values
        fields = cls.model_fields
        others = (key for key in values if key != "schedule" and key in fields and values[key] != fields[key].default)
        return values | {"schedule": "fresh"} if any(True for _ in others) else values

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
        return self.schedule in ("auto", "fresh", "reuse-graph") and self.precision == "training"

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
    reference: Model | TrainedReference | None = Field(None, description="of pruners that need one (rho-1)")
    # left out of a cell's configuration at their defaults, so that older cells keep their names
    scoring: Scoring = Field(Scoring(), exclude_if=lambda value: value == Scoring())
    proxy: Model | None = Field(None, exclude_if=lambda value: value is None, description="model of `proxy` scoring")
    influence: Influence | None = Field(None, exclude_if=lambda value: value is None, description="LESS: how it is had")
    replay: "Pruning | None" = Field(
        None, exclude_if=lambda value: value is None, description="replay pruners: the method whose trace is replayed"
    )

    @property
    def method(self) -> str:
        """The method's own name (`full`, the preset that a Q-Tuning is, a control), or `sample+token`."""
        pair = (self.sample_pruner, self.token_pruner)
        if pair == NAMED_METHODS["q-tuning"]:
            readings = {key: getattr(self, key) for key in Readings.model_fields}
            return preset_of(self.sample_options | self.token_options | readings)
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
    part: Part | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="of a reference model: the part of the train set that it is trained on; a part above 0 goes on "
        "from the weights of the one before (references.py)",
    )
    # how the experiment wants its method called and drawn: no part of a cell's identity (ids.py)
    label: MethodLabel | None = Field(None, exclude_if=lambda value: value is None)
    colour: Colour | None = Field(None, exclude_if=lambda value: value is None)

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
    protocol: Protocol = Field(
        "standard",
        description="which items are asked. standard: lm-eval's splits; paper: ARC's validation splits, of them the "
        "questions with four choices (567 and 295), as OpenCompass asks. In the mini world both are one",
    )
    backend: Literal["hf", "vllm"] = Field("hf", description="what computes the answers (docs/evaluation.md)")
    batch_size: int = Field(8, gt=0, description=f"fixed: scores move with it; vllm: always {VLLM_SEQUENCES}")
    dtype: Dtype = "float32"
    max_length: int = Field(2048, gt=0, description="tokens of prompt and answer")
    limit: int | None = Field(None, gt=0, description="so many items of each benchmark, drawn (docs/evaluation.md)")
    limit_seed: int | None = Field(
        None, ge=0, exclude_if=lambda value: value is None, description="of that draw; default 0; no limit: none"
    )
    fewshot: int | None = Field(None, ge=0, description="examples in the prompt; null: each benchmark's own number")
    max_new_tokens: int | None = Field(None, gt=0, description="longest generation; null: each benchmark's own")
    chat_template: bool = Field(False, description="wrap prompts in the model's chat template")
    likelihoods: bool = Field(
        True,
        description="also the likelihood metrics of every item: nll, nll_answer, bits_per_character, p_gold, choice",
    )

    @model_validator(mode="before")
    @classmethod
    def _equal_scores_have_one_name(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if (values.get("source"), values.get("protocol")) == ("mini-world", "paper"):
            values = values | {"protocol": "standard"}  # the mini world has one split
        if values.get("backend") == "vllm":
            values = values | {"batch_size": VLLM_SEQUENCES}
        if "limit" in values or "limit_seed" in values:
            drawn = values.get("limit") is not None
            values = values | {"limit_seed": (values.get("limit_seed") or 0) if drawn else None}
        return values
