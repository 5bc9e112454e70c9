"""Names of the pruners and their options; importable without torch, so that configuration stays fast.

A *method* is a sample pruner plus a token pruner, written `sample+token`. Two methods have a name of their own:
`full` (every sample, every token) and `q-tuning` (both stages of Q-Tuning).
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class NoOptions(BaseModel):
    """For pruners that have nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QTuningOptions(BaseModel):
    """Hyper-parameters of Q-Tuning (method.md, stages 1 and 2)."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    lambda_: float = Field(0.5, ge=0.0, le=1.0, alias="lambda", description="weight of the neighbours in s_t")


@dataclass(frozen=True)
class PrunerInfo:
    """What configuration needs to know of a pruner.

    scope: `epoch` (draws a smaller data set before each epoch), `batch` (keeps a part of every batch) or `none`
    (prunes nothing, so its ratio is always 1).
    needs_scores: whether a no-gradient forward of the whole batch is needed before it can decide.
    """

    name: str
    function: str  # "module:attribute"
    scope: Literal["none", "epoch", "batch"]
    needs_scores: bool
    options: type[BaseModel] = NoOptions


SAMPLE_PRUNERS: dict[str, PrunerInfo] = {
    info.name: info
    for info in (
        PrunerInfo("full", "qtuning.pruners.sample:keep_all", "none", False),
        PrunerInfo("random", "qtuning.pruners.sample:random_samples", "epoch", False),
        PrunerInfo("q-tuning", "qtuning.pruners.q_tuning:triage", "batch", True),
    )
}

TOKEN_PRUNERS: dict[str, PrunerInfo] = {
    info.name: info
    for info in (
        PrunerInfo("none", "qtuning.pruners.token:keep_all", "none", False),
        PrunerInfo("random", "qtuning.pruners.token:random_tokens", "batch", False),
        PrunerInfo("q-tuning", "qtuning.pruners.q_tuning:prune_tokens", "batch", True, QTuningOptions),
    )
}

NAMED_METHODS: dict[str, tuple[str, str]] = {
    "full": ("full", "none"),
    "q-tuning": ("q-tuning", "q-tuning"),
}
