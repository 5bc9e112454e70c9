"""The pruned step as a mixin for transformers' Trainer and TRL's SFTTrainer.

Trainer fetches all micro-batches of one optimizer update at once (`get_batch_samples`), with the number of target
tokens that will divide their summed loss. The mixin scores, prunes and cuts the micro-batches there, and returns the
number of kept tokens over all processes instead. Weights do not change between these micro-batches. The rest of the
user's trainer stays as it is.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning
from qtuning.integrations.journal import COUNTS, PruningJournal
from qtuning.integrations.padded import Batch, TargetMap, cut, find_targets
from qtuning.integrations.refusals import find_method, require_prunable
from qtuning.integrations.rows import (
    NUMBERS,
    ROW,
    NumberedCollator,
    column_of,
    draw_shown_rows,
    pack_with_numbers,
    with_numbers,
)
from qtuning.integrations.scoring import check_apart, check_head, inputs_of, score_batch
from qtuning.model.packed import evaluating
from qtuning.pruners.base import Candidates, keep_prunable
from qtuning.pruners.method import Method, Selection, select_together
from qtuning.scoring.scores import BatchScores
from qtuning.train.decision import Verdicts, mean_by_key, trace_rows
from qtuning.train.seeding import generator
from qtuning.train.token_scores import encode

NOTHING = Selection(keep_prunable(torch.zeros(0, dtype=torch.bool)), torch.zeros(0, dtype=torch.bool), 0, 0)


class Pruned(Trainer):
    """Mixin, to stand before the trainer's class: `class PrunedSFTTrainer(Pruned, SFTTrainer): ...`.

    pruning: `{"method": ..., "budget": "25x50", "options": {...}, "seed": 0}`, checked as an experiment is, or a
    Pruning; None trains as the trainer does without the mixin. Every method selects inside the batch (reading A11,
    `matched-updates`). The trace and metrics are written below `output_dir` (journal.py). Raises UserError for methods
    and trainers that cannot be pruned.
    """

    _signature_columns: Any  # transformers writes None first, and the columns later

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        *more: Any,
        pruning: Mapping[str, Any] | Pruning | None,
        **kwargs: Any,
    ) -> None:
        self._method: Method | None = None
        if pruning is None:
            super().__init__(model, args, data_collator, train_dataset, *more, **kwargs)
            return
        self._method, seed = find_method(pruning)
        super().__init__(model, args, data_collator, with_numbers(train_dataset), *more, **kwargs)
        require_prunable(self)
        self._pruner_seed = self.args.seed if seed is None else seed
        self._checked = False  # whether head and samples are apart shows at the first batch
        self._journal = PruningJournal(self._method.pruning)
        self.add_callback(self._journal)
        self._count = len(train_dataset) if hasattr(train_dataset, "__len__") else 0
        self._shown: frozenset[int] | None = None  # drawn at the first update
        self._empty: list[bool] = []  # of the micro-batches still to be trained: whether no process keeps anything

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        """TRL's preparation. Its packing would lose the numbers of the samples, so that is called with them."""
        prepare = super()._prepare_dataset  # type: ignore[misc]
        numbers = column_of(dataset) if packing and dataset_name == "train" else None
        # TRL itself refuses to pack without max_length, and we refuse `wrapped`
        if self._method is None or numbers is None or args.max_length is None or args.packing_strategy == "wrapped":
            return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)
        uncut = copy.copy(args)
        uncut.max_length = None  # packing cuts what is too long, by its own strategy
        prepared = prepare(dataset, processing_class, uncut, False, formatting_func, dataset_name)
        return pack_with_numbers(prepared, numbers, args)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The trainer's own, whose batches also say which samples they hold."""
        if self._method is None:
            return super().get_train_dataloader()
        self._set_signature_columns_if_needed()
        collator, columns = self.data_collator, self._signature_columns
        # what a trainer removes as unused must come as far as the collator; of the batches for evaluation it still goes
        self._signature_columns = [*columns, *NUMBERS]
        self.data_collator = NumberedCollator(collator, NUMBERS if self.args.remove_unused_columns else (ROW,))
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self._signature_columns = collator, columns

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The pruned micro-batches of one update, and the number of kept targets over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches or self._method is None:
            return batches, items
        batches = self._prune(self._method, batches)
        items = self._get_num_items_in_batch(batches, device)
        # an update that keeps nothing (A10, `none`) has a loss of 0, not of 0 / 0
        return batches, items.clamp(min=1) if isinstance(items, Tensor) else items

    def _prune(self, method: Method, batches: Sequence[Batch]) -> list[Batch]:
        """Score, select and cut every micro-batch under the current weights, and note what was decided."""
        on_device: list[Any] = [self._prepare_input(batch) for batch in batches]
        rows: list[Tensor | None] = [batch.pop(ROW, None) for batch in on_device]
        maps = [find_targets(batch) for batch in on_device]
        numbers = [_numbers(*pair) for pair in zip(rows, maps, strict=True)]
        candidates = [*self._candidates(method, on_device, maps, numbers)]
        selections = self._select(method, candidates)
        pruned = []
        for batch, target_map, selection in zip(on_device, maps, selections, strict=True):
            if selection.samples.weights is not None:
                raise UserError(f"{method.pruning.method}: this trainer cannot weight the losses of samples")
            kept = torch.zeros_like(target_map.targets)
            kept[target_map.targets] = selection.tokens.to(kept.device)
            pruned.append(cut(batch, target_map, kept))
        self._note(method, numbers, candidates, selections)
        return pruned

    def _candidates(
        self,
        method: Method,
        batches: Sequence[Batch],
        maps: Sequence[TargetMap],
        numbers: Sequence[Tensor | None],
    ) -> Iterator[Candidates]:
        """What the pruners may know of each micro-batch. Samples without a number get their place in the update."""
        seen, processes = 0, self.accelerator.num_processes
        for batch, target_map, known in zip(batches, maps, numbers, strict=True):
            lengths = target_map.lengths
            places = (seen + torch.arange(len(lengths))) * processes + self.accelerator.process_index
            seen += len(lengths)
            yield Candidates(
                places if known is None else known,
                lengths,
                scores=self._score(method, batch, target_map),
                prompts=target_map.prompts,
                epoch=self._epoch,
                epochs=self.state.num_train_epochs,
            )

    @property
    def _epoch(self) -> int:
        return int(self.state.epoch or 0)

    def _score(self, method: Method, batch: Batch, target_map: TargetMap) -> BatchScores | None:
        """Scores under the current model, in evaluation mode and the trainer's own precision; None if unneeded."""
        needs, model = method.needs.batch, self.accelerator.unwrap_model(self.model)
        with evaluating(model), self.accelerator.autocast():
            if not self._checked and len(target_map.samples):
                if needs:
                    check_head(model, batch, target_map)
                if target_map.packed:
                    check_apart(model, batch, target_map)
                self._checked = True
            if not needs:
                return None
            return score_batch(model, inputs_of(batch, target_map), target_map, "sequence-entropy" in needs)

    def _select(self, method: Method, parts: Sequence[Candidates]) -> list[Selection]:
        """One decision a micro-batch, or one for all of the update (reading A9, `global`)."""
        places = self._places(len(parts))
        if method.pruning.selection == "device":
            pairs = zip(parts, places, strict=True)
            return [method.select(part, self._rng(place)) if len(part) else NOTHING for part, place in pairs]
        everyone = sorted(gather_object([*zip(places, parts, strict=True)]), key=lambda pair: pair[0])
        if not any(len(part) for _, part in everyone):
            return [NOTHING] * len(parts)
        chosen = select_together(method, [part for _, part in everyone], self._rng(0))
        return [selection for (place, _), selection in zip(everyone, chosen, strict=True) if place in places]

    def _places(self, count: int) -> list[int]:
        """The places of this process's micro-batches among those of the update, of all processes."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        return [index * processes + process for index in range(count)]

    def _rng(self, place: int) -> torch.Generator:
        """Made from the number of the update, so that a resumed run draws what it would have drawn."""
        return generator(self._pruner_seed, "batch", self.state.global_step, place)

    def _note(
        self,
        method: Method,
        numbers: Sequence[Tensor | None],
        candidates: Sequence[Candidates],
        selections: Sequence[Selection],
    ) -> None:
        """Tell the journal what all processes decided in this update."""
        if self._shown is None:
            self._shown = draw_shown_rows(self.train_dataset, self._count) if method.needs.batch else frozenset()
        update, masks = self.state.global_step, method.pruning.token_ratio < 1
        mine = []
        for place, known, part, selection in zip(
            self._places(len(candidates)), numbers, candidates, selections, strict=True
        ):
            rows = []
            if len(part):
                verdicts, losses = _verdicts(part, selection)
                labels = [None] * len(part) if known is None else known.tolist()
                lengths = part.lengths.tolist()
                rows = trace_rows(update, self._epoch, labels, lengths, verdicts, losses, {}, masks, self._shown)
            chosen = selection.samples
            samples = (len(part), int(chosen.kept.sum()), selection.asked_samples)
            counted = (*samples, part.tokens, int(selection.tokens.sum()), selection.asked_tokens)
            mine.append((place, rows, counted, chosen.log if len(part) else {}))
        everyone = sorted(gather_object(mine), key=lambda found: found[0])
        counts = {place: dict(zip(COUNTS, counted, strict=True)) for place, _, counted, _ in everyone}
        record = {key: sum(counted[key] for counted in counts.values()) for key in COUNTS}
        record |= {f"selection/{key}": v for key, v in mean_by_key([log for *_, log in everyone]).items()}
        self._journal.add(
            {"update": update, "epoch": self._epoch, **record}, [row for _, rows, *_ in everyone for row in rows]
        )
        processes = self.accelerator.num_processes
        self._empty = [
            not any(counts[place]["tokens_kept"] for place in counts if place // processes == index)
            for index in range(len(candidates))
        ]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, without what TRL notes of the entropy and accuracy of a micro-batch that keeps nothing."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self._method is not None and model.training and self._empty and self._empty.pop(0):
            noted = getattr(self, "_metrics", {}).get("train", {})
            for key in {"entropy", "mean_token_accuracy"} & noted.keys():
                noted[key].pop()
                if not noted[key]:
                    del noted[key]
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Also what was seen, kept and asked for since the last training log, and how, over all processes."""
        if self._method is not None and "loss" in logs:
            logs.update(self._journal.logs())
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._method is not None:
            self._journal.flush(self.state.global_step)
        super()._save_checkpoint(model, trial)


def _numbers(rows: Tensor | None, target_map: TargetMap) -> Tensor | None:
    """[b] int64, CPU: the numbers of the samples that have targets, if they are known."""
    return None if rows is None else rows.cpu()[target_map.samples.cpu()]


def _verdicts(part: Candidates, selection: Selection) -> tuple[Verdicts, dict[int, float]]:
    """A selection as the trace wants it, and the mean NLL of each sample's kept tokens, by its place.

    Training's own losses are not known here; those of scoring are the same but for dropout.
    """
    scores, chosen = part.scores, selection.samples
    verdicts = Verdicts(
        role=chosen.role,
        quadrant=chosen.quadrant,
        supplement=chosen.supplement,
        tokens=selection.tokens,
        sizes=torch.zeros(len(part), dtype=torch.int64),
        ppl=None if scores is None else scores.ppl,
        ent=None if scores is None else scores.ent,
        weights=None,
        token_nll=None if scores is None else encode(scores.nll),
        token_entropy=None if scores is None else encode(scores.entropy),
    )
    if scores is None:
        return verdicts, {}
    lengths = part.lengths.tolist()
    pairs = zip(scores.nll.split(lengths), selection.tokens.split(lengths), strict=True)
    return verdicts, {row: float(nll[kept].mean()) for row, (nll, kept) in enumerate(pairs) if bool(kept.any())}
