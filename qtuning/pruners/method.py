"""A method: a sample pruner and a token pruner at a budget, applied to one batch or to several together.

Here are also the readings that concern every method (A9, A11, A12, A16), and the checks of what a pruner returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning
from qtuning.experiment.lookup import bind_options, find_pruner
from qtuning.experiment.needs import Needs, needs_of
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, PrunerInfo
from qtuning.pruners.base import (
    DROPPED,
    EXEMPT,
    PRUNABLE,
    WHOLE,
    Budget,
    Candidates,
    SampleSelection,
    draw,
    keep_prunable,
    sample_budget,
)
from qtuning.pruners.habits import watch, watch_unknown

Part = TypeVar("Part")


@dataclass(frozen=True)
class Selection:
    """The decision on a batch. samples: by the sample pruner. tokens: [N] bool, the tokens that have a loss.

    asked_samples, asked_tokens: how many the budget asked for.
    """

    samples: SampleSelection
    tokens: Tensor
    asked_samples: int
    asked_tokens: int


@dataclass(frozen=True)
class Method:
    """A pruning configuration with its pruners found."""

    pruning: Pruning
    needs: Needs
    sample: PrunerInfo
    token: PrunerInfo
    prune_samples: Callable[..., SampleSelection]
    prune_tokens: Callable[..., Tensor]

    def select_epoch(self, candidates: Candidates, rng: torch.Generator) -> SampleSelection:
        """The samples of the whole train set that the coming epoch holds."""
        return self._samples(candidates, rng) if self.needs.by_epoch else _everything(candidates)

    def select(self, candidates: Candidates, rng: torch.Generator) -> Selection:
        """Prune one batch. If the samples were drawn before the epoch, all are kept, and only tokens are pruned.

        A token pruner keeps r_token of the response tokens of the kept samples; what Q-Tuning's is of says reading A7.
        A12 `twice`: a random share r_sample of the kept samples is kept, so that r_sample^2 of the data trains.
        """
        pruning = self.pruning
        if self.needs.by_epoch:
            samples, ratio = _everything(candidates), 1.0
        else:
            samples, ratio = self._samples(candidates, rng), pruning.sample_ratio
        size = pruning.kept_samples
        asked = sample_budget(ratio, len(candidates), size)
        if pruning.passes == "twice":
            kept = samples.kept.nonzero().flatten()
            asked = sample_budget(pruning.sample_ratio, len(kept), size)
            role = samples.role.clone()
            role[kept[draw(candidates.numbers[kept], rng)][asked:]] = DROPPED
            samples = replace(samples, role=role, supplement=samples.supplement & (role != DROPPED))
            ratio *= pruning.sample_ratio
        budget = Budget.of(ratio, pruning.token_ratio, len(candidates), candidates.tokens, size)
        if pruning.token_ratio == 1 or not bool(samples.kept.any()):
            # a token ratio of 1 asks for all tokens of the kept samples, however long these samples are
            return Selection(samples, samples.kept[candidates.owner], asked, budget.tokens)
        ours = budget
        if self.token.name != "q-tuning":  # whose readings of A7 count otherwise
            held = int(candidates.lengths[samples.kept].sum())
            ours = replace(budget, tokens=sample_budget(pruning.token_ratio, held))
        mask = self.prune_tokens(candidates, samples, ours, rng)
        check_tokens(self.token, mask, candidates, samples)
        if self.token.name not in TOKEN_PRUNERS:
            samples = replace(samples, log={**samples.log, **watch_unknown(candidates)})
        return Selection(samples, mask, asked, budget.tokens)

    def _samples(self, candidates: Candidates, rng: torch.Generator) -> SampleSelection:
        # at 100% there is nothing to decide; a pruner by batch still gives the samples their roles
        if self.pruning.sample_ratio == 1 and self.sample.scope != "batch":
            return _everything(candidates)
        ratios = self.pruning.sample_ratio, self.pruning.token_ratio
        budget = Budget.of(*ratios, len(candidates), candidates.tokens, self.pruning.kept_samples)
        selection = self.prune_samples(candidates, budget, rng)
        check_samples(self.sample, selection, candidates)
        if self.sample.name not in SAMPLE_PRUNERS:
            habits = watch(self.prune_samples, candidates, budget, selection.kept)
            selection = replace(selection, log={**selection.log, **habits})
        if selection.weights is None or self.needs.by_epoch:
            return selection
        # A11, `matched-updates`: InfoBatch's weights make the sum over the kept samples stand for all samples. By epoch
        # there are fewer updates, and larger gradients make up for them. Inside a batch there are as many updates as
        # with all data, and the loss is a mean, so the weights must have the mean 1 over the kept samples
        share = float(selection.kept.double().mean())
        return replace(selection, weights=selection.weights * share)


def concatenate(parts: Sequence[Part]) -> Part:
    """The samples of several batches as one: for reading A9, `global`, for pools, and for the train set.

    Tensors and dataclasses of tensors are laid end to end. Anything else is taken from the first part.
    """
    first: Any = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))  # type: ignore[arg-type, return-value]
    if is_dataclass(first):
        joined = {f.name: concatenate([getattr(part, f.name) for part in parts]) for f in fields(first)}
        first = replace(first, **joined)  # type: ignore[type-var]
    return first  # type: ignore[no-any-return]


def select_together(method: Method, parts: Sequence[Candidates], rng: torch.Generator) -> list[Selection]:
    """One decision on the samples of several batches (reading A9, `global`), handed back batch by batch.

    The budget is that of the whole: what was asked stands in the first batch, and 0 in the others.
    """
    whole = method.select(concatenate(parts), rng)
    masks = whole.tokens.split([part.tokens for part in parts])
    columns = ("role", "quadrant", "supplement") + ("weights",) * (whole.samples.weights is not None)
    split = [getattr(whole.samples, column).split([len(part) for part in parts]) for column in columns]
    return [
        Selection(
            replace(whole.samples, **dict(zip(columns, mine, strict=True))),
            mask,
            whole.asked_samples * (index == 0),
            whole.asked_tokens * (index == 0),
        )
        for index, (mask, *mine) in enumerate(zip(masks, *split, strict=True))
    ]


def check_samples(info: PrunerInfo, selection: SampleSelection, candidates: Candidates) -> None:
    """UserError if a sample pruner's answer cannot be used. Only built-in pruners may keep nothing (A10, `none`)."""
    if not isinstance(selection, SampleSelection):
        raise UserError(f"pruner {info.name}: must return a SampleSelection, not {type(selection).__name__}")
    count = len(candidates)
    _require(info, "role", selection.role, count, torch.int8)
    _require(info, "quadrant", selection.quadrant, count, torch.int8)
    _require(info, "supplement", selection.supplement, count, torch.bool)
    roles = torch.tensor([DROPPED, EXEMPT, PRUNABLE, WHOLE], dtype=torch.int8)
    if not bool(torch.isin(selection.role, roles).all()):
        raise UserError(
            f"pruner {info.name}: role must be DROPPED (0), EXEMPT (1), PRUNABLE (2) or WHOLE (4) of each sample"
        )
    if selection.weights is not None:
        _require(info, "weights", selection.weights, count, torch.float32, torch.float64)
        if not bool((selection.weights.isfinite() & (selection.weights >= 0)).all()):
            raise UserError(f"pruner {info.name}: weights must be finite and not negative")
    if not all(isinstance(value, int | float) for value in selection.log.values()):
        raise UserError(f"pruner {info.name}: log must hold plain numbers, not tensors")
    if info.name not in SAMPLE_PRUNERS and not bool(selection.kept.any()):
        raise UserError(f"pruner {info.name}: keeps none of {count} samples; keep at least one (budget.samples)")


def check_tokens(info: PrunerInfo, mask: Tensor, candidates: Candidates, selection: SampleSelection) -> None:
    """UserError if a token pruner's mask cannot be used: wrong shape, tokens of dropped samples, nothing kept."""
    owner = candidates.owner
    _require(info, "the mask", mask, len(owner), torch.bool)
    if bool((mask > selection.kept[owner]).any()):
        raise UserError(f"pruner {info.name}: keeps tokens of samples that are not selected; see selection.kept")
    if not bool(mask.any()):
        raise UserError(f"pruner {info.name}: keeps none of {len(owner)} tokens; keep at least one (budget.tokens)")


def _require(info: PrunerInfo, what: str, column: object, count: int, *dtypes: torch.dtype) -> None:
    """UserError unless `column` is a [count] tensor of one of the dtypes."""
    if isinstance(column, Tensor) and column.shape == (count,) and column.dtype in dtypes:
        return
    found = f"{column.dtype} {list(column.shape)}" if isinstance(column, Tensor) else type(column).__name__
    allowed = " or ".join(map(str, dtypes))
    raise UserError(f"pruner {info.name}: {what} must be a {allowed} tensor [{count}], not {found}")


def _everything(candidates: Candidates) -> SampleSelection:
    return keep_prunable(torch.ones(len(candidates), dtype=torch.bool))


def method_of(pruning: Pruning) -> Method:
    """Find the pruners of a method. UserError if one is unknown, or if its code has changed since the cell was made."""
    sample, token = find_pruner(pruning.sample_pruner, "sample"), find_pruner(pruning.token_pruner, "token")
    layers = [options["layer"] for options in (pruning.sample_options, pruning.token_options) if "layer" in options]
    if len(set(layers)) > 1:
        raise UserError(
            f"{pruning.method}: options.layer = {' and '.join(map(str, layers))}: the sample and the token pruner "
            "look at attention of different layers; name one layer for both"
        )
    for info, version in ((sample, pruning.sample_version), (token, pruning.token_version)):
        if info.version != version:
            raise UserError(
                f"pruner {info.name} is version {info.version}, but the cell was made for {version}; start the "
                "workflow again (its cells are then other cells)"
            )
    return Method(
        pruning,
        needs_of(pruning),
        sample,
        token,
        bind_options(sample, pruning.sample_options, "sample"),
        bind_options(token, pruning.token_options, "token"),
    )
