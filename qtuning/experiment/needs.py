"""What a method must know before it decides, and when. Without torch: `qtuning plan` asks it, too."""

from dataclasses import dataclass

from qtuning.experiment.cell import Column, Pruning, TrainSet
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.registry import Need

SCORES: frozenset[Need] = frozenset({"scores", "sequence-entropy"})
ATTENTION: frozenset[Need] = frozenset({"attention", "attention-rank"})
FORWARDS: frozenset[Need] = SCORES | ATTENTION | frozenset[Need]({"embeddings"})  # these take a forward of the model


@dataclass(frozen=True)
class Needs:
    """What a method must know.

    epoch: of the whole train set, before each epoch. batch: of each batch, before it is pruned. by_epoch: the sample
    pruner draws a smaller data set before each epoch, and batches hold only drawn samples. once: the draw of the first
    epoch holds for all. layer: whose attention counts, for pruners that look at attention.
    """

    epoch: frozenset[Need]
    batch: frozenset[Need]
    by_epoch: bool
    layer: int | None
    once: bool = False

    @property
    def all(self) -> frozenset[Need]:
        """At one time or another."""
        return self.epoch | self.batch


def needs_of(pruning: Pruning) -> Needs:
    """The needs of a method at its budget.

    At 100% of the tokens no token pruner is asked. At 100% of the samples no sample pruner is, except one by batch,
    which still gives the samples their roles.
    """
    sample, token = find_pruner(pruning.sample_pruner, "sample"), find_pruner(pruning.token_pruner, "token")
    by_epoch = sample.draws and pruning.updates == "as-defined"
    asked = pruning.sample_ratio < 1 or sample.scope == "batch"
    of_sample = sample.needs_with(pruning.sample_options) if asked else frozenset[Need]()
    of_token = token.needs_with(pruning.token_options) if pruning.token_ratio < 1 else frozenset[Need]()
    # of batches, which hold only drawn samples, not all samples would have scores
    remembered: frozenset[Need] = frozenset({"scores"} if by_epoch and "previous-scores" in of_token else ())
    layer = (pruning.sample_options | pruning.token_options).get("layer")
    return Needs(
        of_sample | remembered if by_epoch else frozenset(),
        of_token if by_epoch else of_token | of_sample,
        by_epoch,
        None if layer is None else int(layer),
        by_epoch and sample.scope == "once",
    )


def schedule_of(pruning: Pruning) -> str:
    """The schedule that batches are scored by: `fresh` where no batch is scored, and for an `auto` that nobody decided.

    A replay that scores none pools as what it replays did, because pools make the updates.
    """
    needs, scoring = needs_of(pruning).batch, pruning.scoring
    scored = needs & SCORES or (pruning.replay and scoring.schedule == "pool")
    return scoring.schedule if scored and scoring.schedule != "auto" else "fresh"


def missing_truth(pruning: Pruning, train_set: TrainSet) -> str | None:
    """What a method with the need `truth` asks and the train set does not say: kinds of samples, or wrong tokens.

    A sample pruner is taken to need the kinds, a token pruner the wrong tokens. None if nothing is lacking.
    """
    asked: dict[Column, bool] = {
        "kind": pruning.sample_ratio < 1 and "truth" in find_pruner(pruning.sample_pruner, "sample").needs,
        "errors": pruning.token_ratio < 1 and "truth" in find_pruner(pruning.token_pruner, "token").needs,
    }
    for column, needed in asked.items():
        if needed and column not in train_set.columns and train_set.planted is None:
            what = "what each sample is" if column == "kind" else "which tokens are wrong"
            return (
                f"needs to know {what}, and train set {train_set.name} does not say; name the column in its YAML, as "
                f"in `columns: {{{column}: {column}}}`, or plant flaws with `planted` (docs/data.md)"
            )
    return None
