"""Names and paths of everything below `results/` (docs/results.md).

A name ends in the hash of a canonical configuration. Equal work has equal names, so it is done once, whichever
experiments ask for it.
"""

from dataclasses import dataclass
from pathlib import Path

from qtuning.experiment.cell import Cell, Evaluation, Lora, Model, Pruning, TrainSet
from qtuning.experiment.lookup import find_pruner
from qtuning.experiment.needs import needs_of
from qtuning.experiment.registry import REFERENCE, SAMPLE_PRUNERS, TOKEN_PRUNERS
from qtuning.files import canonical_json, short_hash

AUXILIARY = ("reference", "proxy")
"""Roles of the models that a cell may need beside its own (rho-1, proxy scoring)."""


def slug(*parts: str) -> str:
    """The parts as one name that is readable, and safe in paths and shells."""
    return "-".join(parts).lower().replace(":", ".")


def canonical(cell: Cell) -> Cell:
    """The same cell, with everything that cannot change its weights at its default.

    These are: labels, colours, parameter counts, the share of bad rows allowed; ratings that the method does not need;
    LoRA settings in full fine-tuning; all but the source of a model that is not trained; the selection batch (A9) if an
    update consists of one batch; a pruner that is asked to keep everything. Equal weights must be one cell, and editing
    a label must not train anything again.
    """
    defaults = {"label": cell.model.name, "parameters": None}
    if cell.training is None or cell.train_set is None:
        return Cell(semantics=cell.semantics, model=Model(name=cell.model.name, source=cell.model.source))
    samples = cell.training.update_samples or cell.training.batch_size
    training = cell.training.model_copy(update={"dtype": cell.dtype, "update_samples": samples})
    if training.tuning == "full":
        training = training.model_copy(update={"lora": Lora()})
        defaults["lora_targets"] = "all-linear"
    train_set = used_train_set(cell).model_copy(update={"label": cell.train_set.name, "local": None, "bad_rows": 0.01})
    model = cell.model.model_copy(update=defaults | {"dtype": "float32"})
    assert cell.pruning is not None
    pruning = _canonical_pruning(cell.pruning)
    if samples == training.batch_size:
        pruning = _by_device(pruning)
    changes = {"model": model, "train_set": train_set, "training": training, "pruning": pruning}
    return cell.model_copy(update=changes | {"label": None, "colour": None})


def _by_device(pruning: Pruning) -> Pruning:
    """The same pruning, which selects in the batch of each device (A9), as does what it replays."""
    replayed = None if pruning.replay is None else _by_device(pruning.replay)
    return pruning.model_copy(update={"selection": "device", "replay": replayed})


def _canonical_pruning(pruning: Pruning) -> Pruning:
    """The same pruning, with pruners that are never asked replaced by `none` and `full`.

    At a ratio of 1 no token pruner is asked, and no sample pruner that draws from the whole train set. Q-Tuning's, told
    to prune tokens in no quadrant, does what is done at a ratio of 1. A token pruner that sets its amount itself does
    so at every ratio below 1, so all such ratios are one.
    """
    changes: dict[str, object] = {}
    if pruning.replay is not None:
        changes["replay"] = _canonical_pruning(pruning.replay)
    token = find_pruner(pruning.token_pruner, "token")
    if pruning.token_ratio == 1 or (token.name == "q-tuning" and pruning.token_options.get("prune_in") == "none"):
        changes |= {"token_pruner": "none", "token_options": {}, "token_version": TOKEN_PRUNERS["none"].version}
        changes |= {"token_ratio": 1.0, "pruned_tokens": "mask"}
    elif token.budget == "own" and pruning.replay is None:
        changes["token_ratio"] = 0.5
    if pruning.sample_ratio == 1 and find_pruner(pruning.sample_pruner, "sample").draws:
        changes |= {"sample_pruner": "full", "sample_options": {}, "sample_version": SAMPLE_PRUNERS["full"].version}
        changes["influence"] = None
    reference = pruning.reference
    if pruning.token_ratio == 1 and token.needs & REFERENCE:
        changes["reference"] = None
    elif isinstance(reference, Model):
        changes["reference"] = Model(name=reference.name, source=reference.source)
    if pruning.proxy is not None:
        changes["proxy"] = Model(name=pruning.proxy.name, source=pruning.proxy.source)
    return pruning.model_copy(update=changes)


def used_train_set(cell: Cell) -> TrainSet:
    """The train set of a cell as its method uses it: with ratings only where it needs them."""
    assert cell.train_set is not None and cell.pruning is not None
    return cell.train_set if "ratings" in needs_of(cell.pruning).all else cell.train_set.without_ratings()


def cell_id(cell: Cell) -> str:
    """Folder name of a cell: a readable slug, and 8 hex digits of its canonical configuration."""
    cell = canonical(cell)
    digest = short_hash(cell.model_dump(mode="json", by_alias=True))
    if cell.zero_shot:
        return slug(cell.model.name, "zero-shot", digest)
    assert cell.pruning and cell.train_set and cell.seeds
    parts = [cell.model.name, cell.train_set.name, cell.pruning.method]
    if cell.pruning.budget != "100x100":
        parts.append(cell.pruning.budget)
    if cell.part is not None:
        parts.append(f"part{cell.part.number}")
    return slug(*parts, f"s{cell.seeds.data}", digest)


def cell_json(cell: Cell) -> str:
    """The canonical configuration of a cell, as its folder stores it."""
    return canonical_json(canonical(cell).model_dump(mode="json", by_alias=True))


def evaluation_json(evaluation: Evaluation) -> str:
    """The canonical configuration of an evaluation."""
    return canonical_json(evaluation.model_dump(mode="json"))


def evaluation_id(evaluation: Evaluation) -> str:
    """Folder name of an evaluation inside a cell."""
    return f"evaluation-{short_hash(evaluation.model_dump(mode='json'))}"


def model_id(model: Model) -> str:
    """Folder name of a base model: only where the model comes from matters."""
    return slug(model.name, short_hash(model.source.model_dump(mode="json")))


def pair_id(cell: Cell) -> str:
    """Folder name of the tokenised train set of a cell, which all cells of one model and train set share."""
    assert cell.train_set is not None and cell.training is not None
    identity = {
        "train_set": used_train_set(cell).model_dump(mode="json", exclude={"label", "local", "bad_rows"}),
        "model": cell.model.source.model_dump(mode="json"),
        "template": cell.model.template,
        "cutoff": cell.training.cutoff,
        "limit": cell.limit_train,
    }
    return slug(cell.train_set.name, cell.model.name, short_hash(identity))


@dataclass(frozen=True)
class ResultPaths:
    """Paths below the results folder `root`."""

    root: Path

    def configuration(self, identity: str) -> Path:
        """File with the canonical configuration of a cell, model, pair or evaluation."""
        return self.root / "configurations" / f"{identity}.json"

    def cell(self, cell: Cell) -> Path:
        """Folder of a cell."""
        return self.root / "cells" / cell_id(cell)

    def state(self, cell: Cell) -> Path:
        """Folder of a cell's resume state; outside the cell, because Snakemake deletes outputs of restarted jobs."""
        return self.root / "state" / cell_id(cell)

    def model(self, cell: Cell) -> Path:
        """Folder of a base model made ready."""
        return self.root / "models" / model_id(cell.model)

    def auxiliary(self, cell: Cell, role: str) -> Path | None:
        """Folder of an auxiliary model of a cell: its `reference` (rho-1) or `proxy` (scoring).

        None: it has none, or the workflow trains it (references.py).
        """
        model = None if cell.pruning is None else getattr(cell.pruning, role)
        return self.root / "models" / model_id(model) if isinstance(model, Model) else None

    def samples(self, cell: Cell) -> Path:
        """Folder of a validated, tokenised train set."""
        return self.root / "train_sets" / pair_id(cell)

    def evaluation(self, cell: Cell, evaluation: Evaluation) -> Path:
        """Folder of a cell's scores."""
        return self.cell(cell) / evaluation_id(evaluation)

    @property
    def hub(self) -> Path:
        """Folder of what is known of fetched repositories (hub/fetch.py)."""
        return self.root / "hub"

    def replies(self, cell: Cell, evaluation: Evaluation) -> Path:
        """File of what a model that ran elsewhere replied to the questions of an evaluation (vLLM), not yet marked."""
        return self.root / "replies" / cell_id(cell) / f"{evaluation_id(evaluation)}.replies.json"

    def asked(self, cell: Cell, evaluation: Evaluation) -> Path:
        """File that says that a model has replied. It stays when the replies are marked, and go."""
        return self.root / "replies" / cell_id(cell) / f"{evaluation_id(evaluation)}.json"

    def influence(self, identity: str) -> Path:
        """Folder of a measurement of influence (influence.py)."""
        return self.root / "influence" / identity

    def training_lock(self, cell: Cell) -> Path:
        """Lock file of the training of a cell."""
        return self.state(cell).with_name(f"{cell_id(cell)}.lock")

    def lock(self, identity: str) -> Path:
        """Lock file of the job of that name."""
        return self.root / "locks" / f"{identity}.lock"
