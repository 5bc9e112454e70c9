"""What `pruning=` may say, and which methods and trainers cannot be pruned."""

from collections.abc import Mapping
from typing import Any

from accelerate.utils import DistributedType
from pydantic import Field, ValidationInfo, field_validator
from transformers import Trainer

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning, Readings, Scoring
from qtuning.experiment.methods import make_pruning as pruning_of
from qtuning.experiment.needs import SCORES
from qtuning.experiment.schema import BudgetEntry, MethodEntry, Ratios, question_budgets
from qtuning.experiment.yaml_files import validate
from qtuning.pruners.method import Method, method_of

SHARDED = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA}


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


def find_method(asked: Mapping[str, Any] | Pruning) -> tuple[Method, int | None]:
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


def require_prunable(trainer: Trainer) -> None:
    """UserError if the trainer cuts samples up, shards the model, or does not divide its loss by the target tokens."""
    args = trainer.args
    if getattr(args, "packing", False) and getattr(args, "packing_strategy", "") == "wrapped":
        raise UserError("args.packing_strategy = 'wrapped': it cuts samples up, and they see each other; write 'bfd'")
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
