"""The pruned step as a mixin for transformers' Trainer and TRL's SFTTrainer.

Trainer fetches all micro-batches of one optimizer update at once (`get_batch_samples`), with the number of target
tokens that will divide their summed loss. The mixin scores, prunes and cuts the micro-batches there, and returns the
number of kept tokens over all processes instead. Weights do not change between these micro-batches. The rest of the
user's trainer stays as it is.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from transformers import Trainer

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning, Readings, Scoring
from qtuning.experiment.methods import make_pruning as pruning_of
from qtuning.experiment.needs import SCORES
from qtuning.experiment.schema import BudgetEntry, MethodEntry, Ratios, question_budgets
from qtuning.experiment.yaml_files import validate
from qtuning.integrations.padded import Batch, TargetMap, cut, find_targets, numbers_of
from qtuning.integrations.scoring import check_padded_forward, score_padded
from qtuning.model.packed import evaluating
from qtuning.pruners.base import Candidates, keep_prunable
from qtuning.pruners.method import Method, Selection, method_of, select_together
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator

SHARDED = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA}
NOTHING = Selection(keep_prunable(torch.zeros(0, dtype=torch.bool)), torch.zeros(0, dtype=torch.bool), 0, 0)
COUNTS = ("samples_kept", "samples_asked", "tokens_kept", "tokens_asked")


class PrunedEntry(MethodEntry):
    """What `pruning=` may say: a method as in an experiment, its budget, and a seed."""

    extreme: bool = Field(False, description="a budget of at most 1% of the samples and 1% of the tokens is meant")
    budget: BudgetEntry
    seed: int | None = Field(None, ge=0, description="of the pruners' random choices; null: the trainer's own")

    @field_validator("budget")
    @classmethod
    def _budget_is_meant(cls, budget: Ratios, info: ValidationInfo) -> Ratios:
        question_budgets([budget], info.data.get("extreme", False))
        return budget


class Pruned(Trainer):
    """Mixin, to stand before the trainer's class: `class PrunedSFTTrainer(Pruned, SFTTrainer): ...`.

    pruning: `{"method": ..., "budget": "25x50", "options": {...}, "seed": 0}`, checked as an experiment is, or a
    Pruning. Every method selects inside the batch (reading A11, `matched-updates`). Raises UserError for methods and
    trainers that cannot be pruned.
    """

    def __init__(self, *args: Any, pruning: Mapping[str, Any] | Pruning, **kwargs: Any) -> None:
        self._method, seed = _method_of(pruning)
        super().__init__(*args, **kwargs)
        _require_prunable(self)
        self._pruner_seed = self.args.seed if seed is None else seed
        self._checked = False  # whether the head can be called by itself shows at the first batch
        self._counts = Counter[str]()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The pruned micro-batches of one update, and the number of kept targets over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, items
        batches = self._prune(batches)
        items = self._get_num_items_in_batch(batches, device)
        # an update that keeps nothing (A10, `none`) has a loss of 0, not of 0 / 0
        return batches, items.clamp(min=1) if isinstance(items, Tensor) else items

    def _prune(self, batches: Sequence[Batch]) -> list[Batch]:
        """Score, select and cut every micro-batch under the current weights."""
        on_device: list[Any] = [self._prepare_input(batch) for batch in batches]
        maps = [find_targets(batch) for batch in on_device]
        selections = self._select([*self._candidates(on_device, maps)])
        pruned = []
        for batch, target_map, selection in zip(on_device, maps, selections, strict=True):
            if selection.samples.weights is not None:
                raise UserError(f"{self._method.pruning.method}: this trainer cannot weight the losses of samples")
            kept = torch.zeros_like(target_map.targets)
            kept[target_map.targets] = selection.tokens.to(kept.device)
            pruned.append(cut(batch, target_map, kept))
        self._count(selections)
        return pruned

    def _candidates(self, batches: Sequence[Batch], maps: Sequence[TargetMap]) -> Iterator[Candidates]:
        """What the pruners may know of each micro-batch. Samples without a number get their place in the update."""
        seen, processes = 0, self.accelerator.num_processes
        for batch, target_map in zip(batches, maps, strict=True):
            lengths, numbers = target_map.lengths, numbers_of(batch, target_map)
            if numbers is None:
                numbers = (seen + torch.arange(len(lengths))) * processes + self.accelerator.process_index
            seen += len(lengths)
            yield Candidates(
                numbers,
                lengths,
                scores=self._score(batch, target_map),
                prompts=target_map.prompts,
                epoch=int(self.state.epoch or 0),
                epochs=self.state.num_train_epochs,
            )

    def _score(self, batch: Batch, target_map: TargetMap) -> BatchScores | None:
        """Scores under the current model, in evaluation mode and the trainer's own precision; None if unneeded."""
        needs = self._method.needs.batch
        if not needs:
            return None
        inputs = {
            key: value
            for key, value in batch.items()
            if isinstance(value, Tensor) and value.shape == target_map.real.shape and key != "labels"
        }
        model = self.accelerator.unwrap_model(self.model)
        with evaluating(model), self.accelerator.autocast():
            if not self._checked and len(target_map.rows):
                check_padded_forward(model, inputs, target_map)
                self._checked = True
            return score_padded(model, inputs, target_map, "sequence-entropy" in needs)

    def _select(self, parts: Sequence[Candidates]) -> list[Selection]:
        """One decision a micro-batch, or one for all of the update (reading A9, `global`)."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        places = [index * processes + process for index in range(len(parts))]
        if self._method.pruning.selection == "device":
            pairs = zip(parts, places, strict=True)
            return [self._method.select(part, self._rng(place)) if len(part) else NOTHING for part, place in pairs]
        everyone = sorted(gather_object([*zip(places, parts, strict=True)]), key=lambda pair: pair[0])
        if not any(len(part) for _, part in everyone):
            return [NOTHING] * len(parts)
        chosen = select_together(self._method, [part for _, part in everyone], self._rng(0))
        return [selection for (place, _), selection in zip(everyone, chosen, strict=True) if place in places]

    def _rng(self, place: int) -> torch.Generator:
        """Made from the number of the update, so that a resumed run draws what it would have drawn."""
        return generator(self._pruner_seed, "batch", self.state.global_step, place)

    def _count(self, selections: Sequence[Selection]) -> None:
        counted = [
            [int(chosen.samples.kept.sum()), chosen.asked_samples, int(chosen.tokens.sum()), chosen.asked_tokens]
            for chosen in selections
        ]
        total = self.accelerator.reduce(torch.tensor(counted, device=self.args.device).sum(dim=0), reduction="sum")
        self._counts.update(dict(zip(COUNTS, total.tolist(), strict=True)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also what was kept and asked for since the last training log, over all processes."""
        if "loss" in logs:
            logs.update({f"qtuning/{key}": float(self._counts[key]) for key in COUNTS})
            self._counts.clear()
        super().log(logs, start_time)


def _method_of(asked: Mapping[str, Any] | Pruning) -> tuple[Method, int | None]:
    """The method that `pruning=` names, and its seed if it says one; UserError with every problem of it."""
    seed = None
    if not isinstance(asked, Pruning):
        entry = validate(PrunedEntry, asked, "pruning")
        if entry.options.get("updates", "matched-updates") != "matched-updates":
            raise UserError(
                f"pruning: options.updates = {entry.options['updates']!r}: this trainer selects inside each batch; "
                "leave it out, or write matched-updates"
            )
        asked, seed = pruning_of(entry, entry.budget, Readings(updates="matched-updates")), entry.seed
    if asked.pruned_tokens == "remove":
        raise UserError("pruning: options.pruned_tokens = 'remove': this trainer can only mask tokens; write mask")
    if asked.scoring != Scoring():
        raise UserError("pruning: options.scoring: this trainer scores each batch freshly; leave it out")
    method = method_of(asked.model_copy(update={"updates": "matched-updates"}))
    lacking = sorted(method.needs.batch - SCORES)
    if lacking:
        raise UserError(
            f"pruning: method = {asked.method!r}: needs {', '.join(lacking)}, which this trainer does not know; choose "
            "a method that needs scores at most (docs/trainers.md), or run an experiment of qtuning's own"
        )
    return method, seed


def _require_prunable(trainer: Trainer) -> None:
    """UserError if the trainer packs samples, shards the model, or does not divide its loss by the target tokens."""
    args = trainer.args
    if getattr(args, "packing", False) or getattr(args, "padding_free", False):
        raise UserError("args: packing and padding_free put several samples in a row; switch both off to prune samples")
    liger = {"fused_linear_cross_entropy": True, "cross_entropy": False} | (args.liger_kernel_config or {})
    if args.use_liger_kernel and (liger["fused_linear_cross_entropy"] or liger["cross_entropy"]):
        raise UserError(
            "args.use_liger_kernel: Liger's losses are not supported; write liger_kernel_config="
            "{'cross_entropy': False, 'fused_linear_cross_entropy': False}"
        )
    if not (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func) or not trainer._loss_shifts_labels:
        raise UserError(
            f"{type(trainer.model).__name__}: its loss does not take num_items_in_batch, or is no causal language "
            "model's; pruning needs a loss that is divided by the number of kept tokens"
        )
    sharing = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    if trainer.accelerator.distributed_type in SHARDED or sharing > 1 or args.n_gpu > 1:
        raise UserError(
            "pruning works on one device, or on several with a whole model on each (DDP: accelerate launch, torchrun); "
            "not with FSDP, DeepSpeed, DataParallel or tensor, context and sequence parallelism"
        )
