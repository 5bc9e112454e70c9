"""What reference models say of the tokens of a train set: their loss (Rho-1), and token influence (TokenCleaning).

The reference is a model of configs/models, or a cell that the workflow has trained (experiment/references.py). All is
computed before training, under models that do not learn, so a resumed training computes the same again.

Token influence (Pang et al., ICML 2025, arXiv 2502.01968) is the loss under the base model minus the loss under the
reference, tuned on a part of the data. Tokens that the tuning helped most are taken to be informative. They are ranked
over the whole train set. A self-evolving reference scores the first part, on which it was tuned first, and the next
one; then it goes on over the tokens that were kept of that part, scores the next part, and so on. There, tokens are
ranked within each part, as in the paper.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.auxiliary import Part
from qtuning.experiment.cell import Cell
from qtuning.experiment.finished import MARKER, WEIGHTS, check_outputs, marker_of
from qtuning.experiment.ids import cell_id
from qtuning.experiment.references import references_of
from qtuning.pruners.base import ranking
from qtuning.scoring.scores import NonFinite
from qtuning.train.candidates import load_for_scoring, score_all, score_with_auxiliary
from qtuning.train.cost import Cost
from qtuning.train.seeding import generator


@dataclass(frozen=True)
class TokenReferences:
    """What is known of each sample's response tokens, per sample [|T_i|] float64; None for what is not needed.

    nll: under the reference. influence: place of each token among all of the train set (or of its part), in (0, 1) from
    the most influenced to the least.
    """

    nll: Sequence[Tensor] | None = None
    influence: Sequence[Tensor] | None = None


def part_positions(part: Part, count: int) -> Tensor:
    """[n] int64, ascending: the positions of the samples of a part, in a train set of `count` samples.

    UserError if there are none.
    """
    start, stop = part.bounds(count)
    if start == stop:
        raise UserError(
            f"options.reference.parts = {part.parts}: {count} samples do not make so many parts; take fewer"
        )
    order = torch.randperm(count, generator=generator(part.seed, "reference"))
    return order[start:stop].sort().values


def score_references(
    cell: Cell,
    needs: Collection[str],
    samples: Sequence[Sample],
    accelerator: Accelerator,
    base: Path,
    samples_folder: Path,
    model: Path | None,
    trained: Sequence[Path],
) -> tuple[TokenReferences, Cost]:
    """What the cell's method needs to know of its reference, and what that costs this process.

    samples: those that the cell is trained on. base: folder of the base model's weights. model: of a reference of
    configs/models, with model.json. trained: folders of the cells that `references_of` names. UserError if one of them
    is missing or diverged, or has another tokenizer.
    """
    assert cell.training is not None and cell.pruning is not None
    total = Cost()
    if not {"reference", "token-influence"} & set(needs):
        return TokenReferences(), total
    references = references_of(cell)
    if len(trained) != len(references):
        names = ", ".join(map(cell_id, references))
        raise UserError(f"--trained-reference: must be given {len(references)} times ({names}), not {len(trained)}")
    # which reference scores which samples: a self-evolving one scores each part before it learns from it
    groups: list[tuple[Path | None, list[int]]] = [(trained[-1] if trained else None, list(range(len(samples))))]
    if len(references) > 1:
        parts = [reference.part for reference in references]
        assert parts[0] is not None
        whole = [*parts, parts[0].model_copy(update={"number": len(parts)})]
        positions = [part_positions(part, len(samples)).tolist() for part in whole if part is not None]
        groups = list(zip([trained[0], *trained], positions, strict=True))
    before: Sequence[Tensor] = ()  # under the base model, which is loaded once for all parts
    if "token-influence" in needs:
        found, cost = _nll_under(None, base, samples, accelerator, cell)
        total.add(cost)
        before = found.split([sample.response_length for sample in samples])
    nll: list[Tensor] = [torch.empty(0)] * len(samples)
    influence: list[Tensor] = [torch.empty(0)] * len(samples)
    for folder, chosen in groups:
        mine = [samples[position] for position in chosen]
        lengths = [sample.response_length for sample in mine]
        if folder is None:
            scores, cost = score_with_auxiliary("reference", model, samples_folder, mine, {"scores"}, accelerator, cell)
            found = scores.nll
        else:
            found, cost = _nll_under(weights_of(folder), base, mine, accelerator, cell)
        total.add(cost)
        for position, values in zip(chosen, found.split(lengths), strict=True):
            nll[position] = values
        if before:
            helped = torch.cat([before[position] for position in chosen]) - found
            numbers = torch.repeat_interleave(torch.tensor([s.number for s in mine]), torch.tensor(lengths))
            for position, values in zip(chosen, places(helped, numbers).split(lengths), strict=True):
                influence[position] = values
    return TokenReferences(nll, influence if "token-influence" in needs else None), total


def places(values: Tensor, numbers: Tensor) -> Tensor:
    """[N] float64 in (0, 1): the place of each value among all, from the highest to the lowest: (rank + 1/2) / N.

    So exactly round(r N) places are below r. Of equal values the one with the lower number comes first, then the
    earlier one. values, numbers: [N].
    """
    found = torch.empty(len(values), dtype=torch.float64)
    found[ranking(values, numbers)] = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    return found


def reference_cost(trained: Sequence[Path]) -> Cost:
    """The account of training the references of a cell. trained: see `score_references`.

    The last of them has the costs of those before it in its own account.
    """
    if not trained:
        return Cost()
    cost = marker_of(trained[-1])["cost"]
    return Cost(
        flops_references=cost["flops_total"], seconds_references=cost["seconds_total"] + cost["seconds_references"]
    )


def weights_of(folder: Path, what: str = "reference model") -> Path:
    """The weights of a cell that others need, called `what` in messages; UserError if there are none, or damaged."""
    if not (folder / MARKER).exists() or not (folder / WEIGHTS).is_dir():
        raise UserError(f"{folder}: the {what} is not trained, or its weights are gone; train this cell first")
    found = marker_of(folder)
    if found["status"] != "done":
        raise UserError(f"{folder}: the {what} diverged ({found['reason']}), so there is nothing to measure with it")
    check_outputs(folder, WEIGHTS, marker=found)
    return folder / WEIGHTS


def _nll_under(
    weights: Path | None, base: Path, samples: Sequence[Sample], accelerator: Accelerator, cell: Cell
) -> tuple[Tensor, Cost]:
    """([N] token NLL of the samples, cost) under tuned weights; None: under the base model itself."""
    assert cell.training is not None
    started = time.perf_counter()
    model = load_for_scoring(base, cell.dtype, samples, accelerator, weights)
    try:
        scores, cost = score_all(model, samples, accelerator, cell.training.batch_size)
    except NonFinite as error:
        raise UserError(f"{weights or base}: scores by this model are not finite: {error}") from None
    cost.seconds_scoring = time.perf_counter() - started
    return scores.nll, cost
