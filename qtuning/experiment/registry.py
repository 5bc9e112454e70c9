"""The built-in pruners: names, options and needs. Needs no torch, so that reading a configuration stays fast.

A *method* is a sample pruner plus a token pruner, written `sample+token`. Some methods have a name of their own: `full`
(every sample, every token), `q-tuning` (both stages of Q-Tuning) with its presets (presets.py), and the controls, which
know what is wrong with the data. lookup.py also finds pruners that users write.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from qtuning.experiment.presets import PRESETS

Need = Literal[
    "scores",
    "sequence-entropy",
    "attention",
    "attention-rank",
    "reference",
    "token-influence",
    "losses",
    "previous-scores",
    "instructions",
    "ratings",
    "embeddings",
    "influence",
    "truth",
    "trace",
]
PrunerKind = Literal["sample", "token"]
Scope = Literal["none", "once", "epoch", "batch"]
Amount = Literal["asked", "least", "each", "own"]


REFERENCE: frozenset[Need] = frozenset({"reference", "token-influence"})
"""Needs that take a reference model."""


class NoOptions(BaseModel):
    """Options of a pruner that has none, and the base class of all others."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def needs(self) -> frozenset[Need]:
        """What a pruner needs under these options, beyond what it always needs."""
        return frozenset()

    def amount(self) -> Amount:
        """How much a pruner keeps under these options (PrunerInfo.amount)."""
        return "asked"


class TriageOptions(NoOptions):
    """Q-Tuning, Stage 1: the readings of method.md, Ambiguities; the first of each list is the default."""

    quadrants: Literal["figure", "text"] = Field("figure", description="A1: which high-error quadrant is kept")
    entropy: Literal["response", "sequence"] = Field("response", description="A4: positions Ent_i averages over")
    thresholds: Literal["two-tails", "midpoint", "lean"] = Field("two-tails", description="A5: the lines on the plane")
    quantile: Literal["linear", "lower-step"] = Field("linear", description="A14: the quantiles that the lines are")
    search: Literal["fixed", "tolerance"] = Field("fixed", description="A17: when the search for the lines ends")
    surplus: Literal["keep", "trim"] = Field("keep", description="A6: when more than K are inside the thresholds")
    supplement: Literal["min-max", "rank", "random", "none"] = Field("min-max", description="A10: when fewer are")
    supplemented: Literal["nearer", "whole"] = Field("nearer", description="A15: a supplemented sample in Stage 2")
    drop_in: Literal["Q1+Q3", "Q1", "Q3"] = Field("Q1+Q3", description="quadrants that lose samples (tables 4, 15)")

    def needs(self) -> frozenset[Need]:
        """Entropy over the whole sequence needs a forward that also predicts the prompt."""
        return frozenset({"sequence-entropy"} if self.entropy == "sequence" else ())

    def amount(self) -> Amount:
        """Algorithm 1 keeps a surplus; without a supplement nothing is promised."""
        return "own" if self.supplement == "none" else "asked" if self.surplus == "trim" else "least"


class TokenPruningOptions(NoOptions):
    """Q-Tuning, Stage 2: lambda, the readings of method.md, Ambiguities, and the switch of tables 4 and 15."""

    lambda_: float = Field(0.5, ge=0.0, le=1.0, alias="lambda", description="weight of the neighbours in s_t")
    survivors: Literal["keep-low", "keep-high"] = Field("keep-low", description="A2: which tokens of Q2 survive, by s")
    neighbours: Literal["sum", "mean"] = Field("sum", description="A3: the neighbour term of s_t")
    counted: Literal["sample", "response", "sequence"] = Field("sample", description="A7: tokens the budget is of")
    may_go: Literal["any", "both-high"] = Field("any", description="A13: which tokens of Q2 may go")
    prune_in: Literal["Q2", "none", "Q2+Q4", "Q4"] = Field(
        "Q2", description="quadrants that lose tokens (tables 4, 15)"
    )

    def amount(self) -> Amount:
        """The budget of the batch is met only where it is counted, and where enough tokens may go."""
        if self.prune_in != "Q2" or self.may_go == "both-high" or self.counted == "sequence":
            return "own"
        return "each" if self.counted == "sample" else "asked"


class InfoBatchOptions(NoOptions):
    """InfoBatch: how far the two groups may be thinned apart, and when annealing begins."""

    prune_at_most: float = Field(
        0.75, ge=0, lt=1, description="largest share of the samples below the mean loss that goes before others go too"
    )
    anneal: float = Field(0.875, ge=0, le=1, description="share of the epochs after which the data is full again")


class DeitaOptions(NoOptions):
    """Deita: when a sample is too near to a kept one."""

    threshold: float = Field(0.9, gt=-1, le=1, description="cosine of the embeddings above which a sample is skipped")


class DS2Options(NoOptions):
    """DS2: who judges a rating, and how sure a correction must be."""

    neighbours: int = Field(10, ge=2, description="nearest neighbours that judge a rating and measure diversity")
    confidence: float = Field(0.5, ge=0, le=1, description="least share of the neighbours for a corrected rating")


class RankedOptions(NoOptions):
    """Token pruners that keep the highest values of the whole batch, or of each sample."""

    within: Literal["batch", "sample"] = Field("batch", description="where tokens compete")


class ExcessOptions(NoOptions):
    """Rho-1: where tokens compete."""

    within: Literal["batch", "sample", "Q2"] = Field(
        "batch", description="where tokens compete; Q2: each Q2-like sample keeps r_token of its own, others stay whole"
    )

    def amount(self) -> Amount:
        """In Q2 the share of every sample that may lose tokens."""
        return "each" if self.within == "Q2" else "asked"


class CleaningOptions(NoOptions):
    """TokenCleaning: which end of the ranking by token influence is kept."""

    keep: Literal["highest", "lowest"] = Field("highest", description="highest: as published; lowest: the reverse")


def _not_zero(layer: int) -> int:
    if layer == 0:
        raise ValueError("layers are numbered from 1, or from -1 backwards")
    return layer


Layer = Annotated[int, AfterValidator(_not_zero)]


class FastVOptions(NoOptions):
    """FastV as the Q-Tuning paper describes it: the layer whose attention counts."""

    layer: Layer = Field(-1, description="number of the layer, from 1; negative: from the end, -1 is the last")
    within: Literal["batch", "sample"] = Field("sample", description="where tokens compete")

    @field_validator("layer")
    @classmethod
    def _not_the_original(cls, layer: int) -> int:
        if layer == 2:  # one decision must have one name
            raise ValueError("layer 2 is FastV's own definition; write fastv-original")
        return layer


class FastVOriginalOptions(NoOptions):
    """FastV as its own paper defines it: layer 2."""

    layer: Literal[2] = Field(2, description="the layer of Chen et al.; fastv takes any other")
    within: Literal["batch", "sample"] = Field("sample", description="where tokens compete")


class RaterOptions(NoOptions):
    """SparseVLM: the layer whose attention counts."""

    layer: Layer = Field(2, description="number of the layer, from 1; negative: from the end, -1 is the last")
    within: Literal["batch", "sample"] = Field("sample", description="where tokens compete")


class RankOptions(NoOptions):
    """SparseVLM as its own paper defines it: the rank of the attention matrix sets the amount."""

    layer: Layer = Field(2, description="number of the layer, from 1; negative: from the end, -1 is the last")
    scale: float = Field(1.0, gt=0, le=1, description="share of the redundant tokens that goes (their lambda)")


class LastLayerOptions(NoOptions):
    """The repository history's SparseVLM."""

    layer: Layer = Field(-1, description="number of the layer, from 1; negative: from the end, -1 is the last")


@dataclass(frozen=True)
class PrunerInfo:
    """What the configuration knows of a pruner.

    scope: `once` (draws a smaller data set before training), `epoch` (before each epoch), `batch` (keeps a part of
    every batch) or `none` (prunes nothing, so its ratio is always 1). needs: what must be known of the candidates.
    version: part of the identity of cells; raised by hand when a change of the code changes decisions; for plug-ins
    the digest of their code. budget: `asked`; `train-set` for a token pruner that meets it over the whole train set and
    not in every batch; `own` for one that sets its amount itself. label: how tables call it. evolving: whether its
    reference model is updated over parts of the train set. control: whether it knows what a method has to find out, or
    what another one decided, so that it is no method to be ranked but a mark on the scale (docs/pruners.md, Controls).
    """

    name: str
    function: str  # "module:attribute"
    scope: Scope
    needs: frozenset[Need] = frozenset()
    options: type[NoOptions] = NoOptions
    version: str = "1"
    budget: Literal["asked", "train-set", "own"] = "asked"
    label: str = ""
    evolving: bool = False
    control: bool = False

    @property
    def draws(self) -> bool:
        """Whether it draws a smaller data set from the whole train set, as defined."""
        return self.scope in ("once", "epoch")

    def needs_with(self, options: Mapping[str, object]) -> frozenset[Need]:
        """Needs of the pruner with these options."""
        return self.needs | self.options.model_validate(options).needs()

    def amount_with(self, options: Mapping[str, object]) -> Amount:
        """How much the pruner keeps with these options.

        `asked`: what the budget says. `least`: that or more. `each`: the share r_token of every sample that may lose
        tokens. `own`: another amount in every batch.
        """
        return "own" if self.budget != "asked" else self.options.model_validate(options).amount()


def _info(name: str, function: str, scope: Scope, *needs: Need, **others: Any) -> PrunerInfo:
    return PrunerInfo(name, f"qtuning.pruners.{function}", scope, frozenset(needs), **{"label": name, **others})


SAMPLE_PRUNERS: dict[str, PrunerInfo] = {
    info.name: info
    for info in (
        _info("full", "sample:keep_all", "none"),
        _info("random", "sample:random_samples", "epoch"),
        _info("longest", "sample:without_longest", "epoch"),
        _info("entropy", "sample:highest_entropy", "epoch", "scores"),
        _info("infobatch", "infobatch:largest_losses", "epoch", "losses", label="InfoBatch"),
        _info("ppl-high", "sample:highest_ppl", "epoch", "scores", label="PPL high"),
        _info("ppl-low", "sample:lowest_ppl", "epoch", "scores", label="PPL low"),
        _info("ppl-mid", "sample:middle_ppl", "epoch", "scores", label="PPL mid"),
        _info("q-tuning", "q_tuning:triage", "batch", "scores", options=TriageOptions, label="Q-Tuning"),
        _info("longest-original", "sample:longest_responses", "epoch"),
        _info(
            "infobatch-original",
            "infobatch:infobatch",
            "epoch",
            "losses",
            options=InfoBatchOptions,
            label="InfoBatch-original",
        ),
        _info("random-once", "sample:random_samples", "once"),
        _info("alpagasus", "once:alpagasus", "once", "ratings", label="Alpagasus"),
        _info("deita", "once:deita", "once", "ratings", "embeddings", options=DeitaOptions, label="Deita"),
        _info("less", "once:less", "once", "influence", label="LESS"),
        _info("ds2", "ds2:ds2", "once", "ratings", "embeddings", options=DS2Options, label="DS2"),
        _info("longest-history", "history:shortest_instructions", "epoch", "instructions"),
        _info("entropy-history", "history:lowest_character_entropy", "epoch", "instructions"),
        _info("infobatch-history", "history:infobatch_subsampled", "epoch", "losses", label="InfoBatch-history"),
        _info("oracle", "controls:oracle", "epoch", "truth", control=True),
        _info("adversary", "controls:adversary", "epoch", "truth", control=True),
        _info("no-noise", "controls:no_noise", "epoch", "truth", control=True),
        _info("no-redundant", "controls:no_redundant", "epoch", "truth", control=True),
        _info("replay", "replay:recorded_samples", "batch", "trace", budget="own", control=True),
        _info("replay-random", "replay:random_samples", "batch", "trace", budget="own", control=True),
    )
}

TOKEN_PRUNERS: dict[str, PrunerInfo] = {
    info.name: info
    for info in (
        _info("none", "token:keep_all", "none"),
        _info("random", "token:random_tokens", "batch"),
        _info("ppl", "token:lowest_loss", "batch", "scores", options=RankedOptions, label="PPL"),
        _info("fastv", "attention:fastv", "batch", "attention", options=FastVOptions, label="FastV"),
        _info(
            "sparsevlm",
            "attention:sparsevlm",
            "batch",
            "attention",
            options=RaterOptions,
            label="SparseVLM",
        ),
        _info("rho-1", "token:excess_loss", "batch", "scores", "reference", options=ExcessOptions, label="Rho-1"),
        _info(
            "token-cleaning",
            "token:most_influenced",
            "batch",
            "token-influence",
            options=CleaningOptions,
            budget="train-set",
            label="TokenCleaning",
        ),
        _info(
            "self-evolving",
            "token:most_influenced",
            "batch",
            "token-influence",
            options=CleaningOptions,
            budget="train-set",
            label="TokenCleaning, self-evolving",
            evolving=True,
        ),
        _info("q-tuning", "q_tuning:prune_tokens", "batch", "scores", options=TokenPruningOptions, label="Q-Tuning"),
        _info("ppl-original", "token:highest_loss", "batch", "scores", options=RankedOptions, label="PPL-original"),
        _info(
            "fastv-original",
            "attention:fastv",
            "batch",
            "attention",
            options=FastVOriginalOptions,
            label="FastV-original",
        ),
        _info(
            "sparsevlm-original",
            "attention:sparsevlm_by_rank",
            "batch",
            "attention",
            "attention-rank",
            options=RankOptions,
            budget="own",
            label="SparseVLM-original",
        ),
        _info(
            "sparsevlm-history",
            "history:sparsevlm_by_rank",
            "batch",
            "attention",
            "attention-rank",
            options=LastLayerOptions,
            budget="own",
            label="SparseVLM-history",
        ),
        _info("oracle-tokens", "controls:oracle_tokens", "batch", "truth", control=True),
        _info("adversary-tokens", "controls:adversary_tokens", "batch", "truth", control=True),
        _info("replay", "replay:recorded_tokens", "batch", "trace", budget="own", control=True),
        _info("replay-random", "replay:random_tokens", "batch", "trace", budget="own", control=True),
    )
}

NAMED_METHODS: dict[str, tuple[str, str]] = {
    "full": ("full", "none"),
    **dict.fromkeys(PRESETS, ("q-tuning", "q-tuning")),
    **{name: (name, "random") for name, info in SAMPLE_PRUNERS.items() if "truth" in info.needs},
    **{name: ("random", name) for name, info in TOKEN_PRUNERS.items() if "truth" in info.needs},
}
"""Each with its (sample pruner, token pruner)."""


def is_control(sample_pruner: str, token_pruner: str) -> bool:
    """Whether a method with these pruners is a control. False for names that are not built in."""
    pairs = (SAMPLE_PRUNERS, sample_pruner), (TOKEN_PRUNERS, token_pruner)
    return any(name in known and known[name].control for known, name in pairs)
